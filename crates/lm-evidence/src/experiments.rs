//! What an experiment promises, by simulation: looked at after every answer.

use crate::simulations::Dice;
use crate::{Difference, SampleRatio, Sketch};

/// What the tests of one experiment have in common: the goal has half of the error, a latency the other half.
const ALPHA: f64 = 0.025;

struct Experiment {
    goal: Difference,
    latency: [Sketch; 2],
    ratio: SampleRatio,
}

impl Experiment {
    fn new() -> Experiment {
        Experiment {
            goal: Difference::default(),
            latency: [Sketch::default(), Sketch::default()],
            ratio: SampleRatio::default(),
        }
    }

    fn see(&mut self, dice: &mut Dice, share: f64, rates: (f64, f64)) {
        let is_candidate = dice.hit(share);
        let rate = if is_candidate { rates.1 } else { rates.0 };
        self.goal.add(is_candidate, share, f64::from(u8::from(dice.hit(rate))));
        // Pareto with index 1: no mean at all.
        self.latency[usize::from(is_candidate)].add(1.0 / (1.0 - dice.uniform()));
        self.ratio.add(share, is_candidate);
    }

    /// Whether anything differs between the arms.
    fn is_significant(&self) -> bool {
        let goal = self.goal.is_above(0.0, ALPHA) || self.goal.is_below(0.0, ALPHA);
        let [primary, candidate] =
            self.latency.each_ref().map(|arm| arm.interval(0.9, ALPHA / 2.0));
        goal || candidate.low > primary.high || candidate.high < primary.low
    }
}

#[test]
fn of_experiments_without_effect_at_most_one_in_twenty_is_ever_significant() {
    let (mut n_significant, mut n_off) = (0, 0);
    for seed in 0..2000 {
        let mut dice = Dice::new(seed + 31);
        let mut experiment = Experiment::new();
        let (mut significant, mut off) = (false, false);
        for i in 0..1000 {
            // Stages grow.
            let share = [0.01, 0.05, 0.25, 0.5][i / 250];
            experiment.see(&mut dice, share, (0.8, 0.8));
            significant |= experiment.is_significant();
            off |= experiment.ratio.is_off(0.01);
        }
        n_significant += u64::from(significant);
        n_off += u64::from(off);
    }
    println!("A/A: {n_significant} of 2000 ever significant, {n_off} with a wrong sample ratio");
    assert!(n_significant <= 100, "{n_significant} of 2000");
    assert!(n_off <= 20, "{n_off} of 2000");
}

/// Two means of 902 each find 80 % against 85 % four times in five, at a fixed look.
const FIXED: usize = 2 * 902;

#[test]
fn a_gain_of_five_points_is_found_within_twice_the_fixed_sample() {
    let mut found_at = Vec::new();
    let mut n_worse = 0;
    for seed in 0..1000 {
        let mut dice = Dice::new(seed + 411);
        let mut goal = Difference::default();
        let mut found = None;
        for i in 0..2 * FIXED {
            let is_candidate = dice.hit(0.5);
            let rate = if is_candidate { 0.85 } else { 0.8 };
            goal.add(is_candidate, 0.5, f64::from(u8::from(dice.hit(rate))));
            if goal.is_above(0.0, 0.05) {
                found = Some(i + 1);
                break;
            }
            n_worse += u64::from(goal.is_below(0.0, 0.05));
        }
        found_at.push(found.unwrap_or(usize::MAX));
    }
    found_at.sort_unstable();
    let n_found = found_at.iter().filter(|at| **at < usize::MAX).count();
    println!(
        "5 points at 80 %: {n_found} of 1000 within {} answers, median after {}; a fixed sample has {FIXED}",
        2 * FIXED,
        found_at[500]
    );
    assert!(n_found >= 800, "{n_found} of 1000");
    assert_eq!(n_worse, 0);
}

#[test]
fn the_interval_of_a_difference_holds_it_at_every_share() {
    for (share, rates) in [(0.5, (0.8, 0.85)), (0.05, (0.3, 0.2)), (0.01, (0.02, 0.02))] {
        let mut n_missed = 0;
        for seed in 0..400 {
            let mut dice = Dice::new(seed + 1234);
            let mut goal = Difference::default();
            let truth = rates.1 - rates.0;
            let missed = (0..1500).any(|_| {
                let is_candidate = dice.hit(share);
                let rate = if is_candidate { rates.1 } else { rates.0 };
                goal.add(is_candidate, share, f64::from(u8::from(dice.hit(rate))));
                goal.is_above(truth, 0.05) || goal.is_below(truth, 0.05)
            });
            n_missed += u64::from(missed);
        }
        assert!(n_missed <= 20, "{n_missed} of 400 at {share}, {rates:?}");
    }
}

#[test]
fn units_that_are_lost_on_one_side_are_noticed() {
    let mut ratio = SampleRatio::default();
    let mut dice = Dice::new(5);
    let noticed = (0..5000).find(|_| {
        let is_candidate = dice.hit(0.5);
        // A fifth of the candidate's never answers.
        if !is_candidate || dice.hit(0.8) {
            ratio.add(0.5, is_candidate);
        }
        ratio.is_off(0.01)
    });
    assert!(noticed.is_some_and(|n| n < 3000), "{noticed:?}");
}

/// What is stored as JSON, and read again in the middle, concludes the same.
#[test]
fn a_restart_in_the_middle_changes_no_conclusion() {
    let mut dice = Dice::new(8);
    let (mut whole, mut restarted) = (Experiment::new(), Experiment::new());
    for i in 0..2000 {
        let seed = dice.uniform().to_bits();
        whole.see(&mut Dice::new(seed), 0.5, (0.8, 0.85));
        restarted.see(&mut Dice::new(seed), 0.5, (0.8, 0.85));
        if i % 500 == 250 {
            restarted.goal = through_json(&restarted.goal);
            restarted.latency = through_json(&restarted.latency);
            restarted.ratio = through_json(&restarted.ratio);
        }
        assert_eq!(restarted.is_significant(), whole.is_significant());
    }
    assert_eq!(restarted.goal, whole.goal);
    assert_eq!(restarted.latency, whole.latency);
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(state: &T) -> T {
    let text = serde_json::to_string(state).expect("plain data serialises");
    serde_json::from_str(&text).expect("what was written can be read")
}
