//! Months of simulated traffic through [`Model::see`], from its first answer: how often nothing is called something, and how
//! soon something is called so.

use super::super::*;
use crate::drill::Dice;

const PER_DAY: u64 = 2000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const RULES: Rules = Rules { n_baseline: 1000, renotify_ms: 0 };

/// What changes, and when.
#[derive(Clone, Copy, Default)]
struct Change {
    /// In days since the first answer.
    day: f64,
    /// By how much more answers refuse, as a share.
    refusals: f64,
    /// By how much longer they are, in standard deviations of the logarithm.
    length_sd: f64,
}

/// A model and its traffic, with daily and weekly cycles.
struct Life {
    model: Model,
    dice: Dice,
    n: u64,
    change: Change,
}

impl Life {
    fn new(seed: u64, change: Change) -> Life {
        let model = Model::new(BaselineFile::default(), RULES, Vec::new());
        Life { model, dice: Dice(seed), n: 0, change }
    }

    fn next(&mut self) -> Seen {
        let at_ms = self.n * (DAY_MS / PER_DAY);
        let hour = at_ms / (DAY_MS / 24) % 168;
        let day = (hour as f64 / 24.0 * std::f64::consts::TAU).sin();
        let weekend = if hour >= 120 { 1.0 } else { 0.0 };
        let is_on = self.n as f64 >= self.change.day * PER_DAY as f64;
        let Change { refusals, length_sd, .. } =
            if is_on { self.change } else { Change::default() };
        self.n += 1;
        let dice = &mut self.dice;
        let mut coin = |p: f64| Some(f64::from(u8::from(dice.uniform() < p)));
        let refusal = coin(0.06 + 0.02 * day - 0.01 * weekend + refusals);
        let (invalid, abort, error) = (coin(0.01), coin(0.03 + 0.01 * weekend), coin(0.004));
        // A heavy tail: one of fifty waits.
        let wait = if dice.uniform() < 0.02 { 2.0 } else { 0.0 };
        let hit = dice.uniform();
        let mut number = |mean: f64, sd: f64| Some((mean + sd * dice.bell()).exp());
        let values = [
            number(5.0 + 0.3 * day + 0.2 * weekend + 0.7 * length_sd, 0.7),
            refusal,
            invalid,
            abort,
            error,
            number(4.0 + 0.5 * day + wait, 0.4),
            number(2.5 + 0.1 * day, 0.1),
            number(6.0 - 0.2 * weekend, 1.0),
            Some(if hit < 0.4 { 0.0 } else { hit }),
            None,
            None,
        ];
        let at_ms = at_ms as i64;
        Seen {
            model: "m".to_owned(),
            release: "r".to_owned(),
            at_ms,
            ended_ms: at_ms,
            reading: Reading { id: self.n.into(), hour: hour as u8, values },
            opening: None,
            is_answer: true,
        }
    }

    /// One answer and what its model's alerts become; how many opened.
    fn step(&mut self) -> usize {
        let seen = self.next();
        let at_ms = seen.at_ms;
        let messages = self.model.see(seen).messages;
        self.model.tick(at_ms);
        messages.iter().filter(|message| message.kind == "alert.opened").count()
    }

    /// Lives until the change, then counts the answers until a signal is noticed to be `how` than usual.
    fn delay(mut self, signal: Signal, how: &str) -> u64 {
        let n_before = (self.change.day * PER_DAY as f64) as u64;
        for _ in 0..n_before {
            self.step();
        }
        let begun_ms = (n_before * (DAY_MS / PER_DAY)) as i64;
        let is_told = |told: &ToldAlarm| {
            told.signal == signal.as_str() && told.how == how && told.since_ms >= begun_ms
        };
        let noticed = |life: &mut Life| {
            life.step();
            life.model.board.open().any(is_told)
        };
        (1..=14 * PER_DAY).find(|_| noticed(&mut self)).unwrap()
    }
}

fn refusals(day: f64) -> Change {
    Change { day, refusals: 0.1, length_sd: 0.0 }
}

fn length(day: f64, length_sd: f64) -> Change {
    Change { day, refusals: 0.0, length_sd }
}

#[test]
fn two_hundred_days_from_the_first_answer_alert_at_most_once_a_week() {
    let n_days = 200;
    let mut n_all = 0;
    for seed in 1..=5 {
        let mut life = Life::new(seed, Change::default());
        let by_day: Vec<usize> =
            (0..n_days).map(|_| (0..PER_DAY).map(|_| life.step()).sum()).collect();
        let n: usize = by_day.iter().sum();
        let n_learning: usize = by_day[..14].iter().sum();
        println!("seed {seed}: {n} alerts, {n_learning} of them while it learns");
        assert!(n <= n_days / 7, "seed {seed}: {n} in {n_days} days: {by_day:?}");
        assert!(n_learning <= 2, "seed {seed}: {n_learning} in two weeks: {by_day:?}");
        assert!(!life.model.standing("m").is_provisional);
        n_all += n;
    }
    let weeks = (5 * n_days) as f64 / 7.0;
    assert!(n_all as f64 <= FALSE_ALARMS_PER_WEEK * weeks, "{n_all} in {weeks:.0} weeks");
}

#[test]
fn changes_after_learning_are_noticed_within_500_answers() {
    for seed in 1..=4 {
        let after = |change: Change, signal, how| Life::new(seed, change).delay(signal, how);
        let delays = [
            after(refusals(17.0), Signal::Refusal, "higher"),
            after(length(15.3, 0.5), Signal::OutputTokens, "higher"),
            after(length(15.3, -0.5), Signal::OutputTokens, "lower"),
        ];
        println!("seed {seed}: {delays:?}");
        assert!(delays.iter().all(|after| *after <= 500), "seed {seed}: {delays:?}");
    }
}

#[test]
fn what_changes_while_it_learns_is_noticed_in_the_second_week_at_the_latest() {
    for seed in 1..=3 {
        let after = |change: Change, signal| Life::new(seed, change).delay(signal, "higher");
        // Each hour was seen: as soon as later.
        let second_week = after(length(8.5, 0.5), Signal::OutputTokens);
        // Days may differ by as much: it is noticed when the days before it come again.
        let first_week = after(length(3.2, 0.5), Signal::OutputTokens);
        let refusing = after(refusals(3.2), Signal::Refusal);
        let far = after(Change { refusals: 0.3, ..refusals(3.2) }, Signal::Refusal);
        println!("seed {seed}: {second_week} {first_week} {refusing} {far}");
        assert!(second_week <= 500 && far <= 500, "seed {seed}: {second_week} {far}");
        let monday = (3.8 * PER_DAY as f64) as u64;
        assert!(first_week <= monday + 500, "seed {seed}: {first_week}");
        assert!(refusing <= monday + 1000, "seed {seed}: {refusing}");
    }
}
