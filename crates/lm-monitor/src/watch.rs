//! Every signal of a stream of answers beside what is usual, with limits for a promised rate of false alarms.
//!
//! Numbers are standardised by the hour of the week and go through a two-sided CUSUM, shares through a CUSUM of likelihood
//! ratios. A limit is `ln(L) / theta`, where `L` is how many answers there shall be between two false alarms and `theta` solves
//! `E[exp(theta * step)] = 1` over the steps of the baseline: then there are at least `L`, however skewed the values are
//! (Lorden 1971; Wald's identity). What the mean of an hour may be off by is let pass, so that an hour which was hardly seen
//! alarms nobody unless it is far out. Windows of at least 200 values are compared with the baseline's by their deciles and by
//! Kolmogorov and Smirnov's distance, and must differ by both; those that end together are judged together.
//!
//! It must never read a clock, and never grow with the traffic.
//!
//! Start reading at [`Watcher::add`].

mod look;

use self::look::{Look, believed};
use crate::profile::{MIN_SD, Profile};
use crate::signal::Kind;
use crate::window::LEAST_PSI;
use crate::{Baseline, Deciles, Reading, Signal, kolmogorov_smirnov, psi};

/// Half the shift that is to be found, in standard deviations.
const SLACK: f64 = 0.25;
/// Values further out count as this far.
const CLIP: f64 = 4.0;
/// No few values make an alarm, however far out they are.
const LEAST_LIMIT: f64 = 3.0 * CLIP;
/// So many times what an hour's mean may be off by is let pass, because the baseline is an estimate itself.
const DOUBT: f64 = 1.5;
/// As `DOUBT`, of shares, whose usual share is taken a little higher than it was found, too.
const SHARE_DOUBT: f64 = 0.5;
/// Values without which a window says nothing.
pub const MIN_WINDOW: usize = 200;
const MAX_WINDOW: usize = 4096;
const MAX_EXAMPLES: usize = 5;

/// How often false alarms may come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promise {
    /// Over all signals.
    pub false_alarms_per_week: f64,
    /// How many answers there are, as a rule.
    pub answers_per_week: f64,
}

/// Something changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// What.
    pub signal: Signal,
    /// Whether it is more than usual; `None` when it is otherwise distributed.
    pub is_up: Option<bool>,
    /// `cusum` or `window`.
    pub by: &'static str,
    /// How many answers ago it began, as far as can be said.
    pub began_ago: u64,
    /// The requests that are most unlike what is usual, at most five.
    pub examples: Vec<u128>,
}

/// How a signal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// There is no baseline of it.
    Unknown,
    /// As usual.
    Ok,
    /// Half way to an alarm.
    Warning,
}

/// Watches every signal of which there is a baseline.
#[derive(Clone, Debug)]
pub struct Watcher {
    plans: Vec<Plan>,
}

#[derive(Clone, Debug)]
struct Plan {
    signal: Signal,
    profile: Profile,
    sd: f64,
    sides: Vec<Side>,
    /// Sorted.
    usual: Vec<f64>,
    /// What came since the last window in hours that are known, with the hours.
    window: Vec<(u8, f64)>,
    /// Of the window.
    furthest: Furthest,
}

/// One side of a CUSUM.
#[derive(Clone, Debug)]
struct Side {
    is_up: bool,
    limit: f64,
    sum: f64,
    n_since_zero: u64,
    /// Since the sum was zero.
    furthest: Furthest,
}

/// The requests that are furthest out and how far, the furthest first.
#[derive(Clone, Debug, Default)]
struct Furthest(Vec<(f64, u128)>);

impl Watcher {
    /// Calibrates a limit for each signal of which there is a baseline.
    ///
    /// # Panics
    /// When the promise is not above 0.
    #[must_use]
    pub fn new(baseline: &Baseline, promise: Promise) -> Watcher {
        let Promise { false_alarms_per_week, answers_per_week } = promise;
        assert!(false_alarms_per_week > 0.0 && answers_per_week > 0.0, "{promise:?}");
        let known: Vec<_> = Signal::ALL.into_iter().filter(|s| baseline.of(*s).is_some()).collect();
        let n_sides = (2 * known.len()).max(1) as f64;
        let between = (answers_per_week * n_sides / false_alarms_per_week).max(2.0);
        let plan = |signal: Signal| Plan::new(signal, baseline, between.ln());
        Watcher { plans: known.into_iter().filter_map(plan).collect() }
    }

    /// Sets the limits anew by a baseline that knows more. How far each signal is on its way to an alarm stays, and so does
    /// what came since the last window.
    ///
    /// # Panics
    /// When the promise is not above 0.
    pub fn recalibrate(&mut self, baseline: &Baseline, promise: Promise) {
        let before = std::mem::replace(self, Watcher::new(baseline, promise)).plans;
        for old in before {
            if let Some(plan) = self.plans.iter_mut().find(|plan| plan.signal == old.signal) {
                plan.go_on_from(old);
            }
        }
    }

    /// Takes an answer in, and says what is unusual with it.
    pub fn add(&mut self, reading: &Reading) -> Vec<Alarm> {
        self.plans.iter_mut().flat_map(|plan| plan.add(reading)).collect()
    }

    /// Compares what came since the last window with what is usual, by tests that together err with probability `alpha`. A
    /// signal with fewer than 200 values goes on.
    pub fn close_window(&mut self, alpha: f64) -> Vec<Alarm> {
        believed(self.plans.iter_mut().filter_map(Plan::close_window).collect(), alpha)
    }

    /// How a signal stands.
    #[must_use]
    pub fn standing(&self, signal: Signal) -> Standing {
        let Some(plan) = self.plans.iter().find(|plan| plan.signal == signal) else {
            return Standing::Unknown;
        };
        match plan.sides.iter().any(|side| side.sum > side.limit / 2.0) {
            true => Standing::Warning,
            false => Standing::Ok,
        }
    }

    /// Whether the baseline knows a signal's mean at an hour of the week, so that a change shows at once.
    #[must_use]
    pub fn is_known(&self, signal: Signal, hour: u8) -> bool {
        let mut plans = self.plans.iter();
        plans.any(|plan| plan.signal == signal && plan.profile.is_known(hour))
    }

    /// How far a signal is on its way to an alarm of its sum, from 0 to 1; `None` when there is no baseline of it.
    #[must_use]
    pub fn progress(&self, signal: Signal) -> Option<f64> {
        let plan = self.plans.iter().find(|plan| plan.signal == signal)?;
        let of_side = plan.sides.iter().map(|side| (side.sum / side.limit).clamp(0.0, 1.0));
        Some(of_side.fold(0.0, f64::max))
    }

    /// The standard deviation that a signal is measured in, of its logarithm where that is watched.
    #[must_use]
    pub fn sd(&self, signal: Signal) -> Option<f64> {
        self.plans.iter().find(|plan| plan.signal == signal).map(|plan| plan.sd)
    }

    /// The limits, for who wants to check them: signal, side, limit.
    #[must_use]
    pub fn limits(&self) -> Vec<(Signal, bool, f64)> {
        let of_plan = |plan: &Plan| {
            let signal = plan.signal;
            plan.sides.iter().map(|side| (signal, side.is_up, side.limit)).collect::<Vec<_>>()
        };
        self.plans.iter().flat_map(of_plan).collect()
    }
}

impl Plan {
    fn new(signal: Signal, baseline: &Baseline, log_between: f64) -> Option<Plan> {
        let usual = baseline.of(signal)?;
        let profile = Profile::of(signal.kind(), usual);
        let residual = |&(hour, value): &(u8, f64)| value - profile.mean(hour);
        let n = usual.sample.len() as f64;
        let variance = usual.sample.iter().map(|one| residual(one).powi(2)).sum::<f64>() / n;
        let sd = variance.sqrt().max(MIN_SD);
        let side = |is_up: bool, limit: f64| Side {
            is_up,
            limit,
            sum: 0.0,
            n_since_zero: 0,
            furthest: Furthest::default(),
        };
        let z: Vec<f64> = match signal.kind() {
            Kind::Rate(_) => Vec::new(),
            _ => usual.sample.iter().map(|one| (residual(one) / sd).clamp(-CLIP, CLIP)).collect(),
        };
        let sides = match signal.kind() {
            // Steps that are likelihood ratios have theta 1; a fall of a share of failures alarms nobody.
            Kind::Rate(_) => vec![side(true, log_between)],
            _ => [true, false]
                .map(|is_up| {
                    let sign = if is_up { 1.0 } else { -1.0 };
                    let steps = z.iter().zip(&usual.sample);
                    let step =
                        |(z, (hour, _)): (&f64, &(u8, f64))| sign * z - slack(&profile, sd, *hour);
                    let steps: Vec<f64> = steps.map(step).collect();
                    side(is_up, (log_between / theta(&steps)).max(LEAST_LIMIT))
                })
                .into(),
        };
        // Numbers that are often the same, such as a share that is 0, must stay the same in a window.
        let mut usual = match signal.kind() {
            Kind::Number => usual.sample.iter().map(|(_, value)| *value).collect(),
            _ => z,
        };
        usual.sort_by(f64::total_cmp);
        let (window, furthest) = (Vec::new(), Furthest::default());
        Some(Plan { signal, profile, sd, sides, usual, window, furthest })
    }

    /// A sum is a share of its limit: by Wald's identity that share is what the promise is about.
    fn go_on_from(&mut self, old: Plan) {
        (self.window, self.furthest) = (old.window, old.furthest);
        for (side, old) in self.sides.iter_mut().zip(old.sides) {
            let sum = old.sum / old.limit * side.limit;
            *side = Side { limit: side.limit, sum, ..old };
        }
    }

    fn add(&mut self, reading: &Reading) -> Vec<Alarm> {
        let Some(value) = reading.values[self.signal as usize] else { return Vec::new() };
        let mean = self.profile.mean(reading.hour);
        let value = self.signal.watched(value);
        let z = ((value - mean) / self.sd).clamp(-CLIP, CLIP);
        let kind = self.signal.kind();
        let is_known = self.profile.is_known(reading.hour);
        if is_known && self.window.len() < MAX_WINDOW && !matches!(kind, Kind::Rate(_)) {
            self.window.push((reading.hour, value));
            self.furthest.note((value - mean).abs(), reading.id);
        }
        let slack = slack(&self.profile, self.sd, reading.hour);
        let share = mean + SHARE_DOUBT * self.profile.doubt(reading.hour);
        let mut alarms = Vec::new();
        for side in &mut self.sides {
            let step = match kind {
                Kind::Rate(shift) => likelihood_ratio(value > 0.5, share, shift),
                _ if side.is_up => z - slack,
                _ => -z - slack,
            };
            let out = if side.is_up { value - mean } else { mean - value };
            if side.add(step, out, reading.id) {
                alarms.push(Alarm {
                    signal: self.signal,
                    is_up: Some(side.is_up),
                    by: "cusum",
                    began_ago: side.n_since_zero,
                    examples: side.furthest.ids(),
                });
                side.begin_anew();
            }
        }
        alarms
    }

    fn close_window(&mut self) -> Option<Look> {
        if self.window.len() < MIN_WINDOW {
            return None;
        }
        let examples = std::mem::take(&mut self.furthest).ids();
        let window = std::mem::take(&mut self.window).into_iter();
        let window: Vec<f64> = match self.signal.kind() {
            Kind::Positive => window
                .map(|(hour, value)| {
                    ((value - self.profile.mean(hour)) / self.sd).clamp(-CLIP, CLIP)
                })
                .collect(),
            Kind::Number | Kind::Rate(_) => window.map(|(_, value)| value).collect(),
        };
        let bins = Deciles::of(&self.usual)?;
        let (usual, found) = (bins.count(&self.usual), bins.count(&window));
        if usual.len() < 2 {
            return None;
        }
        let psi = psi(&usual, &found);
        // Most windows are as usual, and ranks take long to compute.
        let p = if psi > LEAST_PSI { kolmogorov_smirnov(&self.usual, &window)?.1 } else { 1.0 };
        let n = (self.usual.len() as u64, window.len() as u64);
        let (signal, is_up, by) = (self.signal, None, "window");
        let alarm = Alarm { signal, is_up, by, began_ago: n.1, examples };
        Some(Look { alarm, p, psi, n, n_bins: usual.len() })
    }
}

impl Side {
    /// Whether the sum exceeds its limit.
    fn add(&mut self, step: f64, out: f64, id: u128) -> bool {
        self.sum += step;
        if self.sum <= 0.0 {
            self.begin_anew();
            return false;
        }
        self.n_since_zero += 1;
        self.furthest.note(out, id);
        self.sum > self.limit
    }

    fn begin_anew(&mut self) {
        self.sum = 0.0;
        self.n_since_zero = 0;
        self.furthest.0.clear();
    }
}

impl Furthest {
    fn note(&mut self, out: f64, id: u128) {
        let place = self.0.partition_point(|(other, _)| *other >= out);
        if place < MAX_EXAMPLES {
            self.0.insert(place, (out, id));
            self.0.truncate(MAX_EXAMPLES);
        }
    }

    fn ids(&self) -> Vec<u128> {
        self.0.iter().map(|(_, id)| *id).collect()
    }
}

/// What a number may be off by at an hour, in standard deviations.
fn slack(profile: &Profile, sd: f64, hour: u8) -> f64 {
    SLACK + DOUBT * profile.doubt(hour) / sd
}

/// How much more likely a yes or no is at a share that rose by `shift`. The usual share is taken a little higher than it
/// was found, as it is an estimate.
fn likelihood_ratio(is_so: bool, share: f64, shift: f64) -> f64 {
    let usual = (share * 1.05 + 0.002).clamp(0.002, 0.95);
    let risen = (usual + shift).min(0.99);
    if is_so { (risen / usual).ln() } else { ((1.0 - risen) / (1.0 - usual)).ln() }
}

/// The positive solution of `mean(exp(theta * step)) = 1` for steps whose mean is negative.
fn theta(steps: &[f64]) -> f64 {
    let excess = |theta: f64| {
        steps.iter().map(|step| (theta * step).exp_m1()).sum::<f64>() / steps.len() as f64
    };
    let (mut low, mut high) = (1e-3, 8.0);
    if excess(high) <= 0.0 {
        return high;
    }
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if excess(middle) > 0.0 { high = middle } else { low = middle }
    }
    low
}

#[cfg(test)]
mod tests;
