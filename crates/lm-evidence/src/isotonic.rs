//! A score → how often what had such a score was good: isotonic regression.
//!
//! It must never say that more is worse, and never 0 or 1: no number of examples shows either.
//!
//! Start reading at [`Isotonic::fit`].

use serde::{Deserialize, Serialize};

/// Something that was scored before, and of which it is known since whether it was good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Any finite number; more is expected to be better.
    pub score: f64,
    /// What it turned out to be.
    pub is_good: bool,
}

/// Neighbouring scores of which the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The lowest score; the step reaches up to the next one's.
    pub from: f64,
    /// Examples.
    pub n: u64,
    /// Good ones among them.
    pub n_good: u64,
    /// What is foretold of such a score: near `n_good` by `n`, never 0 or 1.
    pub rate: f64,
}

/// A function that never falls, in steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<Step>", try_from = "Vec<Step>")]
pub struct Isotonic {
    steps: Vec<Step>,
}

impl Isotonic {
    /// The steps nearest to the examples by least squares, by pooling adjacent violators; then each step that has fewer
    /// than `least` examples joins the neighbour whose rate is nearer. Rates are drawn in from 0 and 1 as Platt draws his
    /// targets. The order of the examples does not matter.
    ///
    /// Source: Ayer, Brunk, Ewing, Reid, Silverman 1955; Platt 1999, section 2.2.
    ///
    /// # Panics
    /// Without examples, and when a score is not finite.
    #[must_use]
    pub fn fit(examples: &[Scored], least: u64) -> Isotonic {
        assert!(!examples.is_empty(), "nothing to fit");
        assert!(examples.iter().all(|one| one.score.is_finite()), "a score is not finite");
        let mut sorted = examples.to_vec();
        sorted.sort_by(|a, b| a.score.total_cmp(&b.score));
        let mut steps: Vec<Step> = Vec::new();
        for one in sorted {
            let n_good = u64::from(one.is_good);
            match steps.last_mut() {
                // No function of the score parts those of one score.
                Some(last) if last.from == one.score => {
                    (last.n, last.n_good) = (last.n + 1, last.n_good + n_good);
                }
                _ => {
                    pool(&mut steps);
                    steps.push(Step { from: one.score, n: 1, n_good, rate: 0.0 });
                }
            }
        }
        pool(&mut steps);
        join_small(&mut steps, least);
        let n_good: u64 = steps.iter().map(|step| step.n_good).sum();
        let n_bad = examples.len() as u64 - n_good;
        let (low, high) = (1.0 / (n_bad + 2) as f64, (n_good + 1) as f64 / (n_good + 2) as f64);
        for step in &mut steps {
            step.rate = low + share(step) * (high - low);
        }
        Isotonic { steps }
    }

    /// Lowest scores first; at least one.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The step of a score; scores below the first step are its own, too.
    #[must_use]
    pub fn at(&self, score: f64) -> &Step {
        let n_before = self.steps.partition_point(|step| step.from <= score);
        &self.steps[n_before.saturating_sub(1)]
    }
}

impl From<Isotonic> for Vec<Step> {
    fn from(fit: Isotonic) -> Vec<Step> {
        fit.steps
    }
}

impl TryFrom<Vec<Step>> for Isotonic {
    type Error = &'static str;

    fn try_from(steps: Vec<Step>) -> Result<Isotonic, &'static str> {
        let is_sound = |step: &Step| {
            step.from.is_finite()
                && step.rate > 0.0
                && step.rate < 1.0
                && step.n > 0
                && step.n_good <= step.n
        };
        let rises = steps.windows(2).all(|two| {
            let (a, b) = (two[0], two[1]);
            a.from < b.from && a.rate <= b.rate
        });
        match !steps.is_empty() && steps.iter().all(is_sound) && rises {
            true => Ok(Isotonic { steps }),
            false => Err("the steps are not as a fit leaves them"),
        }
    }
}

fn share(step: &Step) -> f64 {
    step.n_good as f64 / step.n as f64
}

/// Joins the last steps until the last one is better than the one before.
fn pool(steps: &mut Vec<Step>) {
    while let [.., before, last] = steps.as_mut_slice() {
        // Rates are compared without a division, so that equal ones are equal.
        if before.n_good * last.n < last.n_good * before.n {
            return;
        }
        (before.n, before.n_good) = (before.n + last.n, before.n_good + last.n_good);
        steps.pop();
    }
}

/// Joins steps that are too small, the smallest first, until none is or one is left.
fn join_small(steps: &mut Vec<Step>, least: u64) {
    while steps.len() > 1 {
        let smallest = steps.iter().enumerate().min_by_key(|(_, step)| step.n);
        let Some((i, step)) = smallest.filter(|(_, step)| step.n < least) else { return };
        let far = |other: Option<&Step>| {
            other.map_or(f64::INFINITY, |other| (share(other) - share(step)).abs())
        };
        let before = i.checked_sub(1).and_then(|before| steps.get(before));
        let first = if far(before) <= far(steps.get(i + 1)) { i - 1 } else { i };
        let second = steps.remove(first + 1);
        let first = &mut steps[first];
        (first.n, first.n_good) = (first.n + second.n, first.n_good + second.n_good);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn examples(good: &[u8]) -> Vec<Scored> {
        let one = |(i, good): (usize, &u8)| Scored { score: i as f64, is_good: *good == 1 };
        good.iter().enumerate().map(one).collect()
    }

    /// `expect` is where each step begins, its examples and the good ones.
    #[track_caller]
    fn check(good: &[u8], least: u64, expect: &[(f64, u64, u64)]) {
        let fit = Isotonic::fit(&examples(good), least);
        let found: Vec<_> = fit.steps().iter().map(|s| (s.from, s.n, s.n_good)).collect();
        assert_eq!(found, expect);
    }

    /// As R's `isoreg` and scikit-learn's `IsotonicRegression` have them: rates 0, 1/2, 2/3 and 1.
    #[test]
    fn adjacent_violators_are_pooled() {
        let expect = [(0.0, 1, 0), (1.0, 2, 1), (3.0, 3, 2), (6.0, 1, 1)];
        check(&[0, 1, 0, 1, 1, 0, 1], 1, &expect);
        check(&[0, 0, 1, 1], 1, &[(0.0, 2, 0), (2.0, 2, 2)]);
        check(&[1, 1, 0, 0], 1, &[(0.0, 4, 2)]);
        check(&[1], 1, &[(0.0, 1, 1)]);
        // 1 0 1 0: pairs of one rate are one step.
        check(&[1, 0, 1, 0], 1, &[(0.0, 4, 2)]);
    }

    #[test]
    fn small_steps_join_the_neighbour_that_is_nearer() {
        // 0, 1/2, 2/3, 1: the first and the last step have one example each.
        check(&[0, 1, 0, 1, 1, 0, 1], 2, &[(0.0, 3, 1), (3.0, 4, 3)]);
        check(&[0, 1, 0, 1, 1, 0, 1], 5, &[(0.0, 7, 4)]);
        check(&[0, 1], 99, &[(0.0, 2, 1)]);
    }

    #[test]
    fn equal_scores_are_one_step_in_whatever_order() {
        let mut same = vec![
            Scored { score: -1.0, is_good: true },
            Scored { score: -1.0, is_good: false },
            Scored { score: -2.0, is_good: false },
            Scored { score: -1.0, is_good: true },
        ];
        let fit = Isotonic::fit(&same, 1);
        let found: Vec<_> = fit.steps().iter().map(|s| (s.from, s.n, s.n_good)).collect();
        assert_eq!(found, [(-2.0, 1, 0), (-1.0, 3, 2)]);
        same.reverse();
        assert_eq!(Isotonic::fit(&same, 1), fit);
    }

    #[test]
    fn a_rate_never_falls_and_is_never_0_or_1() {
        let fit = Isotonic::fit(&examples(&[0, 0, 1, 1]), 1);
        // Of two good and two bad ones: 1/4 in the place of 0, and 3/4 in the place of 1.
        assert_eq!(fit.steps().iter().map(|step| step.rate).collect::<Vec<_>>(), [0.25, 0.75]);
        let good: Vec<u8> = (0..500_u32).map(|i| u8::from(i * i % 499 < i)).collect();
        let fit = Isotonic::fit(&examples(&good), 20);
        assert!(fit.steps().len() > 3, "{fit:?}");
        assert!(fit.steps().iter().all(|step| step.n >= 20), "{fit:?}");
        assert_eq!(fit.steps().iter().map(|step| step.n).sum::<u64>(), 500);
        // What was fitted can be taken apart and put together.
        assert_eq!(Isotonic::try_from(fit.steps().to_vec()), Ok(fit));
    }

    #[test]
    fn a_score_has_the_step_that_it_lies_in() {
        let fit = Isotonic::fit(&examples(&[0, 0, 1, 1]), 1);
        for (score, from) in
            [(f64::NEG_INFINITY, 0.0), (-7.0, 0.0), (1.9, 0.0), (2.0, 2.0), (99.0, 2.0)]
        {
            assert_eq!(fit.at(score).from, from, "{score}");
        }
    }

    #[test]
    fn steps_that_no_fit_leaves_are_refused() {
        let step = |from, rate| Step { from, n: 4, n_good: 2, rate };
        assert!(Isotonic::try_from(vec![step(0.0, 0.4), step(1.0, 0.4)]).is_ok());
        for wrong in [
            vec![],
            vec![step(0.0, 0.5), step(1.0, 0.4)],
            vec![step(1.0, 0.4), step(1.0, 0.5)],
            vec![step(f64::NAN, 0.5)],
            vec![step(0.0, 1.0)],
            vec![step(0.0, 0.0)],
            vec![Step { n_good: 5, ..step(0.0, 0.5) }],
        ] {
            let shown = format!("{wrong:?}");
            assert!(Isotonic::try_from(wrong).is_err(), "{shown}");
        }
        let first = *Isotonic::fit(&examples(&[0, 1]), 1).steps().first().unwrap();
        assert_eq!((first.n, first.n_good), (1, 0));
    }
}
