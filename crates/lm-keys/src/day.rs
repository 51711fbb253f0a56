//! What the requests of a key take of its daily budgets.
//!
//! Tokens are known ahead, so that a request which does not fit is not begun. CPU time and money are guesses until they
//! are spent: a request begins as long as something is left, and ends when nothing is.

use std::ops::Sub;

use crate::{KeyLimits, LimitKind};

/// What requests took, or may take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amounts {
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// CPU time.
    pub cpu_seconds: f64,
    /// Money, in the currency of the server's prices.
    pub cost: f64,
}

/// A daily budget and what was spent of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Which one.
    pub kind: LimitKind,
    /// All of it.
    pub limit: f64,
    /// Used today.
    pub spent: f64,
}

/// One number for each of [`KINDS`].
pub(crate) type PerKind = [f64; 3];

const KINDS: [LimitKind; 3] =
    [LimitKind::DailyTokens, LimitKind::DailyCpuSeconds, LimitKind::DailyCost];
/// The place of what is known ahead.
const TOKENS: usize = 0;

/// A request does not fit.
pub(crate) struct Full {
    pub(crate) kind: LimitKind,
    pub(crate) limit: f64,
    /// It fits as soon as others give back what they set aside.
    pub(crate) by_others: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Day {
    /// Days since 1970.
    pub(crate) number: u64,
    pub(crate) spent: PerKind,
    /// Of all open requests.
    reserved: PerKind,
    /// Whether `spent` has everything: what was used before the server started is read, and that may fail.
    pub(crate) is_known: bool,
}

impl Amounts {
    pub(crate) fn per_kind(self) -> PerKind {
        [self.tokens as f64, self.cpu_seconds, self.cost]
    }

    pub(crate) fn from_kinds([tokens, cpu_seconds, cost]: PerKind) -> Self {
        Amounts { tokens: tokens as u64, cpu_seconds, cost }
    }
}

impl Sub for Amounts {
    type Output = PerKind;

    /// Less of something is a negative number.
    fn sub(self, before: Amounts) -> PerKind {
        let (after, before) = (self.per_kind(), before.per_kind());
        std::array::from_fn(|i| after[i] - before[i])
    }
}

impl Day {
    /// `None` is not known yet.
    pub(crate) fn new(number: u64, spent: Option<Amounts>) -> Self {
        let is_known = spent.is_some();
        let spent = spent.unwrap_or_default().per_kind();
        Day { number, spent, reserved: PerKind::default(), is_known }
    }

    /// Nothing was used on the day that begins, and what is set aside stays.
    pub(crate) fn turn(&mut self, number: u64) {
        (self.number, self.spent, self.is_known) = (number, PerKind::default(), true);
    }

    /// Everything that was used, what is counted here included.
    pub(crate) fn learn(&mut self, spent: Amounts) {
        let all = spent.per_kind();
        self.spent = std::array::from_fn(|i| self.spent[i].max(all[i]));
        self.is_known = true;
    }

    /// Which budget has no room for a request that may take so much.
    pub(crate) fn full(&self, limits: &KeyLimits, wanted: PerKind) -> Option<Full> {
        let budgets = limits.daily().into_iter().enumerate();
        let mut all = budgets.filter_map(|(i, limit)| {
            let limit = limit?;
            let wanted = if i == TOKENS { wanted[i].min(limit) } else { 0.0 };
            let is_over = |used: f64| used >= limit || used + wanted > limit;
            let (now, with_others) = (self.spent[i], self.spent[i] + self.reserved[i]);
            is_over(with_others).then(|| Full { kind: KINDS[i], limit, by_others: !is_over(now) })
        });
        all.next()
    }

    /// Sets aside what a request may take, as far as there is so much; of what has no limit nothing.
    pub(crate) fn reserve(&mut self, limits: &KeyLimits, wanted: PerKind) -> PerKind {
        let daily = limits.daily();
        let reserved = std::array::from_fn(|i| {
            let left = |limit: f64| match i {
                TOKENS => limit,
                _ => (limit - self.spent[i] - self.reserved[i]).max(0.0),
            };
            daily[i].map_or(0.0, |limit| wanted[i].min(left(limit)))
        });
        self.change_reserved(|i, sum| sum + reserved[i]);
        reserved
    }

    /// Counts what was used; of what was set aside it takes as much.
    pub(crate) fn spend(&mut self, used: PerKind, reserved: &mut PerKind) {
        let taken: PerKind = std::array::from_fn(|i| used[i].clamp(0.0, reserved[i].max(0.0)));
        for i in 0..used.len() {
            self.spent[i] = (self.spent[i] + used[i]).max(0.0);
            reserved[i] -= taken[i];
        }
        self.give_back(taken);
    }

    pub(crate) fn give_back(&mut self, reserved: PerKind) {
        self.change_reserved(|i, sum| (sum - reserved[i]).max(0.0));
    }

    /// Whether something is left of each budget.
    pub(crate) fn has_rest(&self, limits: &KeyLimits) -> bool {
        self.budgets(limits).all(|budget| budget.spent < budget.limit)
    }

    pub(crate) fn budgets(&self, limits: &KeyLimits) -> impl Iterator<Item = Budget> {
        let (daily, spent) = (limits.daily(), self.spent);
        (0..KINDS.len()).filter_map(move |i| {
            daily[i].map(|limit| Budget { kind: KINDS[i], limit, spent: spent[i] })
        })
    }

    fn change_reserved(&mut self, change: impl Fn(usize, f64) -> f64) {
        for (i, sum) in self.reserved.iter_mut().enumerate() {
            *sum = change(i, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use crate::{Amounts, KeyLimits, LimitKind, Meter, Now, Reservation};

    const NOW: Now = Now { monotonic: Duration::ZERO, unix_s: 20_000 * 86_400 + 43_200 };
    const TOMORROW: Now = Now { monotonic: Duration::ZERO, unix_s: 20_001 * 86_400 };

    fn cpu(cpu_seconds: f64) -> Amounts {
        Amounts { cpu_seconds, ..Amounts::default() }
    }

    fn meter() -> Meter {
        let limits = KeyLimits {
            daily_cpu_seconds: Some(10.0),
            daily_cost: Some(0.5),
            ..KeyLimits::default()
        };
        Meter::new(limits, cpu(4.0), NOW)
    }

    #[test]
    fn cpu_time_begins_while_some_is_left_and_ends_with_it() {
        let meter = meter();
        // More than is left: all of it is set aside.
        let mut first = meter.reserve(cpu(100.0), NOW).unwrap();
        let over = meter.reserve(cpu(0.1), NOW).unwrap_err();
        assert_eq!((over.kind, over.limit), (LimitKind::DailyCpuSeconds, 10.0));
        assert_eq!(over.retry_after, Duration::from_secs(1), "what is only set aside comes back");
        assert!(meter.spend(cpu(0.0), cpu(5.9), &mut first, NOW));
        assert!(!meter.spend(cpu(5.9), cpu(6.2), &mut first, NOW), "nothing is left");
        assert_eq!(meter.spent_today(NOW).cpu_seconds, 10.2);
        meter.end(first, Duration::from_secs(1), NOW);
        assert_eq!(meter.begin(NOW).unwrap_err().retry_after, Duration::from_secs(43_200));
        meter.begin(TOMORROW).unwrap();
        meter.reserve(cpu(1.0), TOMORROW).unwrap();
    }

    #[test]
    fn a_clock_that_goes_back_over_midnight_gives_no_second_budget() {
        let meter = meter();
        let used = |seconds, now| {
            meter.spend(cpu(0.0), cpu(seconds), &mut Reservation::default(), now);
            meter.spent_today(now).cpu_seconds
        };
        assert_eq!(used(1.0, TOMORROW), 1.0);
        let just_before = Now { unix_s: TOMORROW.unix_s - 1, ..TOMORROW };
        assert_eq!(used(2.0, just_before), 3.0);
        assert_eq!(used(3.0, TOMORROW), 6.0);
        // One that was far ahead is believed when it is put right.
        let days_before = Now { unix_s: TOMORROW.unix_s - 3 * 86_400, ..TOMORROW };
        assert_eq!(used(4.0, days_before), 4.0);
    }

    #[test]
    fn what_an_answer_used_is_not_set_aside_any_more() {
        let meter = meter();
        let mut first = meter.reserve(cpu(3.0), NOW).unwrap();
        assert!(meter.spend(cpu(0.0), cpu(3.0), &mut first, NOW));
        // 7 of 10 are used and 0 set aside, so 3 are left.
        let mut second = meter.reserve(cpu(3.0), NOW).unwrap();
        assert!(meter.reserve(cpu(0.1), NOW).is_err());
        // It used less than was said of it in between.
        assert!(meter.spend(cpu(2.0), cpu(1.5), &mut second, NOW));
        meter.end(second, Duration::from_secs(1), NOW);
        assert_eq!(meter.spent_today(NOW).cpu_seconds, 6.5);
        meter.end(first, Duration::from_secs(1), NOW);
        meter.reserve(cpu(0.1), NOW).unwrap();
    }

    #[test]
    fn what_was_used_before_is_learned_later_and_counts_once() {
        let limits = KeyLimits { daily_cpu_seconds: Some(10.0), ..KeyLimits::default() };
        let meter = Meter::unread(limits, NOW);
        assert!(!meter.knows_day(NOW));
        meter.spend(cpu(0.0), cpu(1.0), &mut Reservation::default(), NOW);
        // The store has both what was before and what was counted here.
        meter.learn_day(cpu(9.0), NOW);
        assert!(meter.knows_day(NOW));
        assert_eq!(meter.spent_today(NOW).cpu_seconds, 9.0);
        // Of a day that begins everything is known.
        let unread = Meter::unread(limits, NOW);
        assert!(unread.knows_day(TOMORROW));
    }

    #[test]
    fn money_is_a_budget_of_its_own() {
        let meter = meter();
        let paid = Amounts { cost: 0.5, ..cpu(0.1) };
        assert!(!meter.spend(Amounts::default(), paid, &mut Reservation::default(), NOW));
        let over = meter.begin(NOW).unwrap_err();
        assert_eq!((over.kind, over.limit), (LimitKind::DailyCost, 0.5));
        let budgets = meter.budgets(NOW).into_iter().map(|b| (b.kind, b.spent, b.limit));
        let expect = [(LimitKind::DailyCpuSeconds, 4.1, 10.0), (LimitKind::DailyCost, 0.5, 0.5)];
        assert_eq!(budgets.collect::<Vec<_>>(), expect);
    }

    #[test]
    fn a_limit_is_an_amount() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let limits = KeyLimits { daily_cost: Some(value), ..KeyLimits::default() };
            let error = limits.validate().unwrap_err().to_string();
            assert!(error.contains("daily_cost") && error.contains(&value.to_string()), "{error}");
        }
        KeyLimits { daily_cpu_seconds: Some(0.5), ..KeyLimits::default() }.validate().unwrap();
    }
}
