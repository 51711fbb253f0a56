//! What the mean of a signal is at each hour of the week, and how far off that may be.
//!
//! A mean is a sum: of all hours, what the hour of the day adds, what the day of the week adds, and what this very hour adds.
//! Each part leans on nothing, the more the less such parts differ from each other beyond chance (empirical Bayes; Efron and
//! Morris 1975). Before all hours of a day, or all days of a week, were seen, how much they differ is not known, and at
//! least what answers of people do is supposed.
//!
//! It must never be surer of an hour that it has not seen than of one that it has.
//!
//! Start reading at [`Profile::of`].

use crate::signal::Kind;
use crate::{SignalBaseline, WEEK_HOURS};

/// What was always the same may still be another one now and then.
pub(crate) const MIN_SD: f64 = 0.05;
/// As `MIN_SD`, of shares.
const MIN_SHARE_VARIANCE: f64 = 1e-4;
/// How far hours of a day differ as long as not all of them were seen, in units.
const HOURS_DIFFER: f64 = 1.0;
/// How far days differ, and hours of them, as long as not all of them were seen, in units.
const DAYS_DIFFER: f64 = 0.4;
/// An hour whose mean is known so well is known, in units.
const KNOWN: f64 = 0.15;

/// How many groups of hours, the group of an hour, and how much groups differ.
type Grouping = (usize, fn(usize) -> usize, f64);

/// What is usual of a signal at each hour of the week.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    means: Vec<f64>,
    doubts: Vec<f64>,
    /// A standard deviation; of a share the rise that is to be found.
    unit: f64,
}

impl Profile {
    pub(crate) fn of(kind: Kind, usual: &SignalBaseline) -> Profile {
        let hours: Vec<(f64, f64)> = usual.hours.iter().map(|(n, sum)| (*n as f64, *sum)).collect();
        let n: f64 = hours.iter().map(|(n, _)| n).sum();
        let sum: f64 = hours.iter().map(|(_, sum)| sum).sum();
        let overall = if n > 0.0 { sum / n } else { 0.0 };
        let variance = variance(kind, overall, &usual.sample);
        let unit = match kind {
            Kind::Rate(shift) => 2.0 * shift,
            Kind::Positive | Kind::Number => variance.sqrt(),
        };
        let (mut means, mut left) = (vec![overall; WEEK_HOURS], vec![0.0; WEEK_HOURS]);
        let groupings: [Grouping; 3] = [
            (24, |hour| hour % 24, HOURS_DIFFER),
            (7, |hour| hour / 24, DAYS_DIFFER),
            (WEEK_HOURS, |hour| hour, DAYS_DIFFER),
        ];
        for (n_groups, group_of, differ) in groupings {
            let mut groups = vec![(0.0_f64, 0.0_f64); n_groups];
            for (hour, ((n, sum), mean)) in hours.iter().zip(&means).enumerate() {
                let (n_of_group, beyond) = &mut groups[group_of(hour)];
                *n_of_group += n;
                *beyond += sum - n * mean;
            }
            let parts = parts(&groups, variance, (differ * unit).powi(2));
            for (hour, (mean, left)) in means.iter_mut().zip(&mut left).enumerate() {
                let (part, left_of_part) = parts[group_of(hour)];
                *mean += part;
                *left += left_of_part;
            }
        }
        let doubts = left.into_iter().map(f64::sqrt).collect();
        Profile { means, doubts, unit }
    }

    pub(crate) fn mean(&self, hour: u8) -> f64 {
        self.means[usize::from(hour) % WEEK_HOURS]
    }

    /// The standard deviation that the mean of an hour is off by.
    pub(crate) fn doubt(&self, hour: u8) -> f64 {
        self.doubts[usize::from(hour) % WEEK_HOURS]
    }

    /// Whether enough was seen of an hour, or of hours like it.
    pub(crate) fn is_known(&self, hour: u8) -> bool {
        self.doubt(hour) < KNOWN * self.unit
    }
}

/// Of one value, over all hours.
fn variance(kind: Kind, mean: f64, sample: &[(u8, f64)]) -> f64 {
    match kind {
        Kind::Rate(_) => (mean * (1.0 - mean)).max(MIN_SHARE_VARIANCE),
        Kind::Positive | Kind::Number => {
            let squares: f64 = sample.iter().map(|(_, value)| (value - mean).powi(2)).sum();
            (squares / (sample.len() as f64).max(1.0)).max(MIN_SD * MIN_SD)
        }
    }
}

/// What each group adds to the mean, and the variance that is left of it. A group is how many values it has, and by how much
/// they exceed the other parts together; as long as one has none, groups differ by a variance of `at_least`.
fn parts(groups: &[(f64, f64)], variance: f64, at_least: f64) -> Vec<(f64, f64)> {
    let seen: Vec<(f64, f64)> = groups.iter().copied().filter(|(n, _)| *n > 0.0).collect();
    let n: f64 = seen.iter().map(|(n, _)| n).sum();
    let squares: f64 = seen.iter().map(|(n, beyond)| beyond * beyond / n).sum();
    let by_chance = (seen.len() as f64 - 1.0) * variance;
    // What one group has beside the others; there is nothing of it with a single group.
    let apart = n - seen.iter().map(|(n, _)| n * n).sum::<f64>() / n.max(1.0);
    let found = if apart >= 1.0 { ((squares - by_chance) / apart).max(0.0) } else { 0.0 };
    let between = if seen.len() == groups.len() { found } else { found.max(at_least) };
    let part = |(n, beyond): &(f64, f64)| {
        let leans = between / (between * n + variance);
        (leans * beyond, leans * variance)
    };
    groups.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Dice;
    use crate::{Baseline, Reading, Signal};

    const CYCLE: f64 = 0.5;

    /// So many hours of 80 answers each, with a daily cycle and a day that is another one.
    fn profile(n_hours: usize) -> Profile {
        let (mut baseline, mut dice) = (Baseline::default(), Dice::new(1));
        for hour in 0..n_hours {
            for _ in 0..80 {
                let mut reading = Reading { hour: (hour % WEEK_HOURS) as u8, ..Reading::default() };
                let value = usual(hour % WEEK_HOURS) + dice.bell();
                reading.values[Signal::CacheHit as usize] = Some(value);
                baseline.add(&reading);
            }
        }
        Profile::of(Kind::Number, &baseline.signals[Signal::CacheHit as usize])
    }

    fn usual(hour: usize) -> f64 {
        let day = if hour / 24 == 6 { 0.3 } else { 0.0 };
        day + CYCLE * (hour as f64 / 24.0 * std::f64::consts::TAU).sin()
    }

    #[test]
    fn two_weeks_say_what_each_hour_is_like() {
        let profile = profile(2 * WEEK_HOURS);
        for hour in 0..WEEK_HOURS as u8 {
            let off = profile.mean(hour) - usual(usize::from(hour));
            assert!(off.abs() < 4.0 * profile.doubt(hour), "{hour}: {off}");
            assert!(profile.doubt(hour) < 0.07 && profile.is_known(hour), "{hour}: {profile:?}");
        }
    }

    #[test]
    fn hours_that_were_not_seen_are_in_doubt() {
        let morning = profile(10);
        assert!((0..10).all(|hour| morning.doubt(hour) < 0.25));
        assert!((10..24).all(|hour| morning.doubt(hour) > HOURS_DIFFER * 0.9));
        let days = profile(3 * 24);
        assert!((0..3 * 24).all(|hour| days.doubt(hour) < 0.2));
        // Of another day the hour is known, and the day is not.
        assert!(
            (72..168).all(|hour| (0.4..0.8).contains(&days.doubt(hour)) && !days.is_known(hour))
        );
        assert!(
            (days.mean(6 + 96) - CYCLE).abs() < 0.2 && (days.mean(18 + 96) + CYCLE).abs() < 0.2
        );
    }

    #[test]
    fn one_hour_is_known_by_its_own_answers() {
        let profile = profile(1);
        assert!((0.1..0.3).contains(&profile.doubt(0)) && profile.mean(0).abs() < 0.4);
        let (mut baseline, mut reading) = (Baseline::default(), Reading::default());
        reading.values[Signal::Error as usize] = Some(0.0);
        (0..500).for_each(|_| baseline.add(&reading));
        let never = &baseline.signals[Signal::Error as usize];
        let share = Profile::of(Signal::Error.kind(), never);
        assert!(share.is_known(0) && share.mean(0).abs() < 1e-9 && !share.is_known(1));
    }
}
