//! Months of simulated traffic: how often nothing is called something, and how soon something is called so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::tests::Dice;

const PER_DAY: u64 = 2000;
const PROMISE: Promise =
    Promise { false_alarms_per_week: 0.5, answers_per_week: 7.0 * PER_DAY as f64 };

/// Traffic with daily and weekly cycles.
struct Traffic {
    dice: Dice,
    n: u64,
    refusals: f64,
    length_sd: f64,
}

impl Traffic {
    fn new(seed: u64) -> Traffic {
        Traffic { dice: Dice::new(seed), n: 0, refusals: 0.0, length_sd: 0.0 }
    }

    fn next(&mut self) -> Reading {
        let hour = self.n * 24 / PER_DAY % 168;
        let day = (hour as f64 / 24.0 * std::f64::consts::TAU).sin();
        let weekend = if hour >= 120 { 1.0 } else { 0.0 };
        self.n += 1;
        let dice = &mut self.dice;
        let mut coin = |p: f64| f64::from(u8::from(dice.uniform() < p));
        let refusal = coin(0.06 + 0.02 * day - 0.01 * weekend + self.refusals);
        let (invalid, abort, error) = (coin(0.01), coin(0.03 + 0.01 * weekend), coin(0.004));
        let mut number = |mean: f64, sd: f64| (mean + sd * dice.bell()).exp();
        let length = number(5.0 + 0.3 * day + 0.2 * weekend + 0.7 * self.length_sd, 0.7);
        // A heavy tail: one of fifty waits.
        let wait = if dice.uniform() < 0.02 { 2.0 } else { 0.0 };
        let mut number = |mean: f64, sd: f64| (mean + sd * dice.bell()).exp();
        let ttft = number(4.0 + 0.5 * day + wait, 0.4);
        let (tpot, prompt) = (number(2.5 + 0.1 * day, 0.1), number(6.0 - 0.2 * weekend, 1.0));
        let hit = dice.uniform();
        let values = [
            Some(length),
            Some(refusal),
            Some(invalid),
            Some(abort),
            Some(error),
            Some(ttft),
            Some(tpot),
            Some(prompt),
            Some(if hit < 0.4 { 0.0 } else { hit }),
            None,
            None,
        ];
        Reading { id: u128::from(self.n), hour: hour as u8, values }
    }

    fn watcher(&mut self) -> Watcher {
        let mut baseline = Baseline::default();
        (0..28 * PER_DAY).for_each(|_| baseline.add(&self.next()));
        Watcher::new(&baseline, PROMISE)
    }

    /// The alarms of so many days, with windows as often as 200 values come.
    fn watch(&mut self, watcher: &mut Watcher, days: u64) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for i in 0..days * PER_DAY {
            alarms.extend(watcher.add(&self.next()));
            if i % MIN_WINDOW as u64 == 0 {
                // 0.05 a day over all windows.
                alarms.extend(watcher.close_window(0.05 / 10.0));
            }
        }
        alarms
    }
}

#[test]
fn two_hundred_days_without_a_change_alarm_at_most_once_a_week() {
    let mut all = Vec::new();
    for seed in 1..=5 {
        let mut traffic = Traffic::new(seed);
        let mut watcher = traffic.watcher();
        let alarms = traffic.watch(&mut watcher, 200);
        assert!(
            alarms.len() <= 28,
            "seed {seed}: {} in 200 days, {:?}",
            alarms.len(),
            alarms.first()
        );
        all.extend(alarms);
    }
    let weeks = 5.0 * 200.0 / 7.0;
    let per_week = all.len() as f64 / weeks;
    println!("{} false alarms in {weeks:.0} weeks", all.len());
    assert!(per_week <= PROMISE.false_alarms_per_week, "{per_week:.2} a week: {all:?}");
}

/// After how many answers a change is noticed by a signal, the median and the worst of 20 seeds.
fn delays(signal: Signal, change: impl Fn(&mut Traffic)) -> (u64, u64) {
    let mut found: Vec<u64> = (1..=20)
        .map(|seed| {
            let mut traffic = Traffic::new(seed);
            let mut watcher = traffic.watcher();
            traffic.watch(&mut watcher, 3);
            change(&mut traffic);
            let noticed = |alarms: &[Alarm]| alarms.iter().any(|alarm| alarm.signal == signal);
            (1..=PER_DAY).find(|_| noticed(&watcher.add(&traffic.next()))).unwrap()
        })
        .collect();
    found.sort_unstable();
    println!("{}: noticed after {} answers, at worst {}", signal.as_str(), found[10], found[19]);
    (found[10], found[19])
}

#[test]
fn changes_are_noticed_within_500_answers() {
    let (_, worst) = delays(Signal::Refusal, |traffic| traffic.refusals = 0.1);
    assert!(worst <= 500, "refusals up by 10 points took {worst}");
    let (_, worst) = delays(Signal::OutputTokens, |traffic| traffic.length_sd = 0.5);
    assert!(worst <= 500, "answers longer by half a standard deviation took {worst}");
    let (_, worst) = delays(Signal::OutputTokens, |traffic| traffic.length_sd = -0.5);
    assert!(worst <= 500, "answers shorter by half a standard deviation took {worst}");
}

#[test]
fn an_alarm_names_what_is_furthest_out() {
    let mut traffic = Traffic::new(3);
    let mut watcher = traffic.watcher();
    traffic.length_sd = 2.0;
    let alarm = (0..PER_DAY).find_map(|_| watcher.add(&traffic.next()).into_iter().next()).unwrap();
    assert_eq!((alarm.signal, alarm.is_up), (Signal::OutputTokens, Some(true)));
    assert_eq!(alarm.examples.len(), 5);
    assert!(alarm.examples.iter().all(|id| *id > u128::from(28 * PER_DAY)));
}

#[test]
fn a_window_names_what_is_furthest_out() {
    let mut traffic = Traffic::new(4);
    let mut watcher = traffic.watcher();
    watcher.close_window(1e-6);
    // Too little for a sum in so few answers, and a form that no sum looks for.
    let mut ids = Vec::new();
    for i in 0..MIN_WINDOW as u64 {
        let mut reading = traffic.next();
        let is_out = i % 40 == 7;
        reading.values[Signal::OutputTokens as usize] = Some(if is_out { 1e5 } else { 150.0 });
        ids.extend(is_out.then_some(reading.id));
        watcher.add(&reading);
    }
    let alarms = watcher.close_window(1e-6);
    let alarm = alarms.iter().find(|alarm| alarm.signal == Signal::OutputTokens).unwrap();
    let mut named = alarm.examples.clone();
    named.sort_unstable();
    assert_eq!((alarm.by, alarm.is_up, named), ("window", None, ids));
}

#[test]
fn a_slow_change_is_noticed_over_a_baseline_that_grows() {
    let mut traffic = Traffic::new(5);
    let mut baseline = Baseline::default();
    (0..7 * PER_DAY).for_each(|_| baseline.add(&traffic.next()));
    let mut watcher = Watcher::new(&baseline, PROMISE);
    traffic.length_sd = 0.5;
    let noticed = |watcher: &mut Watcher, traffic: &mut Traffic, baseline: &mut Baseline| {
        (1..=500_u64).find(|i| {
            // What is usual is known better all the time, by answers as they were before.
            if i % 10 == 0 {
                let usual = Traffic::new(*i).next();
                baseline.add(&usual);
                watcher.recalibrate(baseline, PROMISE);
            }
            let alarms = watcher.add(&traffic.next());
            alarms.iter().any(|alarm| alarm.signal == Signal::OutputTokens)
        })
    };
    let after = noticed(&mut watcher, &mut traffic, &mut baseline).unwrap();
    assert!(after > 20, "{after}: it is no slow change");
    assert!(watcher.limits().iter().all(|(_, _, limit)| limit.is_finite()));
}

#[test]
fn without_a_baseline_nothing_is_known() {
    let watcher = Watcher::new(&Baseline::default(), PROMISE);
    assert_eq!(watcher.standing(Signal::Error), Standing::Unknown);
    let mut traffic = Traffic::new(1);
    let watcher = traffic.watcher();
    assert_eq!(watcher.standing(Signal::Error), Standing::Ok);
    assert_eq!(watcher.standing(Signal::MeanLogprob), Standing::Unknown);
}
