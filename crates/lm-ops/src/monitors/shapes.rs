//! What is usual of each signal beside what came lately, as a picture needs it.
//!
//! It must never say whether a difference is much: detectors do.
//!
//! Start reading at [`Monitors::shapes`].

use std::collections::VecDeque;

use lm_monitor::{Baseline, Kind, Reading, Signal};
use serde::Serialize;

use super::Monitors;

/// Answers whose numbers are kept.
const MAX_RECENT: usize = 480;
/// At most so many groups are made of them, of at least so many answers.
const MAX_GROUPS: usize = 24;
const MIN_GROUP: usize = 10;

/// The numbers of the newest answers of a model, the oldest first.
#[derive(Clone, Default)]
pub(crate) struct Recent(VecDeque<(i64, Reading)>);

/// One signal of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SignalShape {
    /// Such as `output_tokens`.
    pub signal: &'static str,
    /// Whether values are 0 or 1, so that their mean is a share.
    pub is_share: bool,
    /// What is usual, over all hours; `None` as long as that is not known.
    pub usual: Option<Spread>,
    /// The newest answers together, at most 480; `None` when none had a value.
    pub recent: Option<Spread>,
    /// The same in groups, the oldest first; groups without a value are left out.
    pub groups: Vec<Group>,
}

/// How values are distributed, in the unit in which they are measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many values there are.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// A tenth of them is at most this.
    pub p10: f64,
    /// Half of them are.
    pub p50: f64,
    /// Nine tenths are.
    pub p90: f64,
}

/// Answers that ended one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Group {
    /// When the first of them arrived, in Unix milliseconds.
    pub from_ms: i64,
    /// When the last of them arrived, in Unix milliseconds.
    pub to_ms: i64,
    /// Their values.
    #[serde(flatten)]
    pub spread: Spread,
}

impl Monitors {
    /// Every signal of a model: what is usual beside the newest answers. `None` for a model that nobody asked since the start.
    #[must_use]
    pub fn shapes(&self, model: &str) -> Option<Vec<SignalShape>> {
        let (usual, recent) = {
            let models = self.0.models();
            let model = models.get(model)?;
            (model.usual.baseline.clone(), model.recent.clone())
        };
        // Answers that end now do not wait for sorting.
        Some(Signal::ALL.into_iter().map(|signal| recent.shape(signal, &usual)).collect())
    }
}

impl Recent {
    pub(crate) fn add(&mut self, at_ms: i64, reading: &Reading) {
        if self.0.len() >= MAX_RECENT {
            self.0.pop_front();
        }
        self.0.push_back((at_ms, *reading));
    }

    pub(crate) fn shape(&self, signal: Signal, usual: &Baseline) -> SignalShape {
        let all: Vec<&(i64, Reading)> = self.0.iter().collect();
        let spread = |some: &[&(i64, Reading)]| {
            let values = some.iter().filter_map(|(_, reading)| reading.values[signal as usize]);
            Spread::of(values.collect())
        };
        let group = |some: &[&(i64, Reading)]| {
            let times = || some.iter().map(|(at_ms, _)| *at_ms);
            let (from_ms, to_ms) = (times().min()?, times().max()?);
            Some(Group { from_ms, to_ms, spread: spread(some)? })
        };
        let size = all.len().div_ceil(MAX_GROUPS).max(MIN_GROUP);
        // Of some the logarithms are watched.
        let is_log = matches!(signal.kind(), Kind::Positive);
        let measured = |value: f64| if is_log { value.exp_m1() } else { value };
        let known =
            usual.of(signal).map(|usual| usual.sample.iter().map(|(_, value)| measured(*value)));
        SignalShape {
            signal: signal.as_str(),
            is_share: matches!(signal.kind(), Kind::Rate(_)),
            usual: known.and_then(|values| Spread::of(values.collect())),
            recent: spread(&all),
            groups: all.chunks(size).filter_map(group).collect(),
        }
    }
}

impl Spread {
    /// `None` for no values.
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        let last = values.len().checked_sub(1)?;
        values.sort_by(f64::total_cmp);
        let at = |tenths: usize| values[last * tenths / 10];
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Spread { n: values.len() as u64, mean, p10: at(1), p50: at(5), p90: at(9) })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lm_monitor::{Baseline, N_SIGNALS, Reading, Signal};

    use super::{MAX_RECENT, Recent};

    fn reading(tokens: f64, is_refusal: Option<bool>) -> Reading {
        let mut values = [None; N_SIGNALS];
        values[Signal::OutputTokens as usize] = Some(tokens);
        values[Signal::Refusal as usize] = is_refusal.map(|is_so| f64::from(u8::from(is_so)));
        Reading { id: 1, hour: 3, values }
    }

    #[test]
    fn the_newest_answers_are_beside_what_is_usual_in_their_own_unit() {
        let (mut usual, mut recent) = (Baseline::default(), Recent::default());
        for i in 0..600 {
            usual.add(&reading(f64::from(10 + i % 11), Some(i % 10 == 0)));
        }
        for i in 0..1000 {
            recent.add(i, &reading(if i < 700 { 5.0 } else { 40.0 }, None));
        }
        let shape = recent.shape(Signal::OutputTokens, &usual);
        let known = shape.usual.unwrap();
        assert_eq!((known.n, known.p50.round()), (600, 15.0));
        assert!((known.p10 - 11.0).abs() < 1e-6 && (known.p90 - 19.0).abs() < 1e-6, "{known:?}");
        assert_eq!(shape.recent.unwrap().n, MAX_RECENT as u64);
        assert_eq!(shape.groups.len(), 24);
        assert_eq!((shape.groups[0].from_ms, shape.groups[0].to_ms), (520, 539));
        let medians: Vec<f64> = shape.groups.iter().map(|group| group.spread.p50).collect();
        assert_eq!((medians[8], medians[9]), (5.0, 40.0));
        let refusal = recent.shape(Signal::Refusal, &usual);
        assert!(refusal.is_share && (refusal.usual.unwrap().mean - 0.1).abs() < 1e-9);
        assert!(refusal.recent.is_none() && refusal.groups.is_empty());
        assert!(recent.shape(Signal::MeanLogprob, &usual).usual.is_none());
    }

    #[test]
    fn few_answers_are_one_group() {
        let mut recent = Recent::default();
        for i in 0..7 {
            recent.add(i, &reading(3.0, Some(false)));
        }
        let groups = recent.shape(Signal::Refusal, &Baseline::default()).groups;
        assert_eq!((groups.len(), groups[0].spread.n), (1, 7));
    }
}
