//! What the intervals promise, by simulation: looked at after every trial.

use crate::compare::verdict;
use crate::{BoundedScore, Counts, Proportion, Verdict, compare, quantile_interval};

/// Marsaglia's xorshift64*, seeded: a failure names its seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn hit(&mut self, rate: f64) -> bool {
        self.uniform() < rate
    }
}

/// Of simulated fixes, each watched after every request: how many were ever called improved, and how many worse; and
/// after how many requests, before and after together, each improvement was called.
fn fixes(n: u64, n_before: u64, n_after: u64, rates: (f64, f64)) -> (u64, u64, Vec<u64>) {
    let (mut n_worse, mut called_at) = (0, Vec::new());
    for seed in 0..n {
        let mut dice = Dice::new(seed + 1);
        let mut before = Counts::default();
        (0..n_before).for_each(|_| before.add(dice.hit(rates.0)));
        let mut after = Counts::default();
        let (mut improved_at, mut worse) = (None, false);
        for _ in 0..n_after {
            after.add(dice.hit(rates.1));
            match verdict(before, after, 0.05) {
                Verdict::Improved => improved_at = improved_at.or(Some(before.n + after.n)),
                Verdict::Worse => worse = true,
                Verdict::Undecided => {}
            }
        }
        n_worse += u64::from(worse);
        called_at.extend(improved_at);
    }
    (called_at.len() as u64, n_worse, called_at)
}

#[test]
fn of_fixes_without_effect_at_most_one_in_twenty_is_ever_called_anything() {
    // Ten thousand fixes, at rates and with pasts of many sizes.
    for (rate, n_before) in [(0.2, 500), (0.2, 2000), (0.05, 1000), (0.5, 100), (0.01, 2000)] {
        let (improved, worse, _) = fixes(2000, n_before, 2000, (rate, rate));
        assert!(improved + worse <= 100, "{improved} and {worse} of 2000 at {rate}, {n_before}");
    }
}

#[test]
fn fixes_that_halve_a_rate_of_a_fifth_are_called_within_2000_requests() {
    let (improved, worse, mut called_at) = fixes(1000, 800, 1200, (0.2, 0.1));
    called_at.sort_unstable();
    println!(
        "called: {improved} of 1000, median after {} requests",
        called_at[called_at.len() / 2]
    );
    assert!(improved >= 800, "{improved} of 1000");
    assert_eq!(worse, 0);
}

/// The whole interval, and not only the verdict, holds the true change at every look.
#[test]
fn the_interval_of_a_change_holds_it() {
    let mut n_missed = 0;
    for seed in 0..200 {
        let mut dice = Dice::new(seed + 77);
        let (mut before, mut after, mut missed) = (Counts::default(), Counts::default(), false);
        for i in 0..400 {
            before.add(dice.hit(0.3));
            after.add(dice.hit(0.2));
            missed |= i % 20 == 0 && !compare(before, after, 0.05).change.contains(-0.1);
        }
        n_missed += u64::from(missed);
    }
    assert!(n_missed <= 10, "{n_missed} of 200");
}

#[test]
fn the_interval_of_a_rate_holds_it() {
    for rate in [0.02, 0.3, 0.9] {
        let mut n_missed = 0;
        for seed in 0..1000 {
            let mut dice = Dice::new(seed + 1000);
            let mut counts = Counts::default();
            let missed = (0..1000).any(|_| {
                counts.add(dice.hit(rate));
                // What `interval` is made of; bounds by halving would take most of the time.
                Proportion::default().log_evidence(counts, rate) >= 20_f64.ln()
            });
            let found = Proportion::default().interval(counts, 0.05);
            assert!(missed || found.contains(rate), "seed {seed}: {found:?}");
            n_missed += u64::from(missed);
        }
        assert!(n_missed <= 50, "{n_missed} of 1000 at {rate}");
    }
}

#[test]
fn the_interval_of_a_score_holds_its_mean_and_shrinks() {
    // Mostly 1, sometimes low: the mean is 0.9 + 0.1 * 0.25.
    let mean = 0.925;
    let mut n_missed = 0;
    let mut width = 0.0;
    for seed in 0..1000 {
        let mut dice = Dice::new(seed + 5000);
        let mut score = BoundedScore::new(0.05);
        let mut missed = false;
        for _ in 0..2000 {
            let value = if dice.hit(0.9) { 1.0 } else { 0.5 * dice.uniform() };
            score.add(value);
            missed |= !score.interval().contains(mean);
        }
        let found = score.interval();
        width += (found.high - found.low) / 1000.0;
        n_missed += u64::from(missed);
    }
    assert!(n_missed <= 50, "{n_missed} of 1000");
    // A fixed look at as many scores of this variance has 0.02.
    assert!(width < 0.05, "{width}");
}

#[test]
fn the_interval_of_a_quantile_holds_it_under_heavy_tails() {
    for q in [0.5_f64, 0.9, 0.99] {
        // Pareto with index 1: no mean at all.
        let truth = 1.0 / (1.0 - q);
        let mut n_missed = 0;
        for seed in 0..500 {
            let mut dice = Dice::new(seed + 9000);
            let mut values: Vec<f64> = Vec::new();
            let mut missed = false;
            for _ in 0..1000 {
                let value = 1.0 / (1.0 - dice.uniform());
                let at = values.partition_point(|known| *known < value);
                values.insert(at, value);
                if values.len().is_multiple_of(10) {
                    missed |= !quantile_interval(&values, q, 0.05).contains(truth);
                }
            }
            n_missed += u64::from(missed);
        }
        assert!(n_missed <= 25, "{n_missed} of 500 at {q}");
    }
}

/// Stored counts are the whole state: who goes on from them concludes the same.
#[test]
fn a_restart_in_the_middle_changes_no_conclusion() {
    let mut dice = Dice::new(3);
    let mut whole = BoundedScore::new(0.05);
    let scores: Vec<f64> = (0..100).map(|_| dice.uniform()).collect();
    scores.iter().for_each(|score| whole.add(*score));
    let mut first = BoundedScore::new(0.05);
    scores[..50].iter().for_each(|score| first.add(*score));
    let mut second = first;
    scores[50..].iter().for_each(|score| second.add(*score));
    assert_eq!(second, whole);
}
