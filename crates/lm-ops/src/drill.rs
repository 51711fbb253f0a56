//! A drill: a placeholder answers, what is usual is learned, something drifts, and it is counted how many answers it takes until
//! the monitors notice.
//!
//! Texts, tokens and log-probabilities are the engine's. The times of answers are drawn, and so is the clock, one answer a
//! second, all at one hour of the week: what this machine does meanwhile must not decide, and one seed gives one report.
//!
//! It must never touch a home.
//!
//! Start reading at [`Drill::run`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use lastmile::{
    GenerateError, GenerateRequest, LoadError, ModelSource, Observer, Prompt, RequestEvent,
    RequestId, Runtime, RuntimeConfig,
};
use lm_monitor::{N_SIGNALS, Signal};
use serde::Serialize;

use crate::baseline_file::BaselineFile;
use crate::model_monitor::{Model, Rules};
use crate::seen::Seen;

/// Tokens of an answer, on average.
const MEAN_TOKENS: u32 = 24;
const MAX_TOKENS: u32 = 400;
const TEMPERATURE: f64 = 1.0;
/// In seconds.
const HOUR: u64 = 60 * 60;
const WEEK: u64 = 7 * 24 * HOUR;
const REFUSAL: &str = "I'm sorry, but I cannot help with that. ";
const WORDS: [&str; 12] =
    ["why", "is", "the", "sky", "blue", "and", "how", "far", "away", "are", "most", "stars"];

/// What drifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Nothing.
    None,
    /// A share of answers refuses.
    Refusals,
    /// Answers are so many times as long.
    Length,
    /// Tokens are drawn at so many times the temperature: their log-probabilities fall.
    Logprob,
    /// Tokens take so many times as long.
    Latency,
}

/// A drill as it is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drill {
    /// What drifts.
    pub drift: Drift,
    /// By how much; `None` is the drift's own.
    pub size: Option<f64>,
    /// Answers that what is usual is learned from.
    pub baseline: u64,
    /// Answers after the drift began, at most.
    pub within: u64,
    /// Where everything that is drawn comes from.
    pub seed: u64,
}

/// What the monitors noticed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Noticed {
    /// Such as `output_tokens`.
    pub signal: String,
    /// `higher`, `lower` or `otherwise distributed`.
    pub how: String,
    /// Answers since the drift began, this one included.
    pub delay: u64,
    /// How many answers ago it began, as the monitors say.
    pub began_ago: u64,
    /// Whether it is what drifted.
    pub is_expected: bool,
}

/// What became of one signal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SignalReport {
    /// Such as `output_tokens`.
    pub signal: &'static str,
    /// Whether it is what drifted.
    pub is_expected: bool,
    /// The mean of what is usual, in its own unit; `None` when that is not known, and the signal is not watched.
    pub usual_mean: Option<f64>,
    /// The mean of the newest answers, at most 480.
    pub mean: Option<f64>,
    /// After how many answers it was noticed first; `None` is never.
    pub noticed: Option<u64>,
    /// How far it came on its way to an alarm, from 0 to 1, since the drift began.
    pub nearest: Option<f64>,
}

/// How a drill went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrillReport {
    /// What drifted.
    pub drift: &'static str,
    /// By how much.
    pub size: f64,
    /// Where everything that was drawn comes from.
    pub seed: u64,
    /// Answers that what is usual was learned from.
    pub baseline: u64,
    /// Answers after that.
    pub within: u64,
    /// The signal that drifted.
    pub expected: Option<&'static str>,
    /// What was noticed, the first first.
    pub found: Vec<Noticed>,
    /// What became of each signal, noticed or not.
    pub signals: Vec<SignalReport>,
    /// Whether what drifted was noticed; where nothing did, whether nothing was.
    pub is_passed: bool,
}

/// Why a drill did not take place.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// A number beyond its limits.
    #[error("{name} is {value}, but must be {limit}")]
    Number {
        /// The option.
        name: &'static str,
        /// As given.
        value: f64,
        /// What is allowed.
        limit: &'static str,
    },
    /// The placeholder does not start.
    #[error("the placeholder does not start: {0}")]
    Load(#[from] LoadError),
    /// The placeholder does not answer.
    #[error("the placeholder does not answer: {0}")]
    Generate(#[from] GenerateError),
}

impl Drift {
    /// All of them.
    pub const ALL: [Drift; 5] =
        [Drift::None, Drift::Refusals, Drift::Length, Drift::Logprob, Drift::Latency];

    /// A stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Drift::None => "none",
            Drift::Refusals => "refusals",
            Drift::Length => "length",
            Drift::Logprob => "logprob",
            Drift::Latency => "latency",
        }
    }

    /// By its stable word.
    #[must_use]
    pub fn of(word: &str) -> Option<Drift> {
        Drift::ALL.into_iter().find(|drift| drift.as_str() == word)
    }

    /// By how much it drifts when nobody says.
    #[must_use]
    pub fn own_size(self) -> f64 {
        match self {
            Drift::None => 1.0,
            // What monitors promise: ten points more.
            Drift::Refusals => 0.1,
            Drift::Length => 2.0,
            Drift::Logprob | Drift::Latency => 1.5,
        }
    }

    /// The signal that it shows in.
    fn signal(self) -> Option<Signal> {
        match self {
            Drift::None => None,
            Drift::Refusals => Some(Signal::Refusal),
            Drift::Length => Some(Signal::OutputTokens),
            Drift::Logprob => Some(Signal::MeanLogprob),
            Drift::Latency => Some(Signal::TpotMs),
        }
    }
}

impl Drill {
    /// Lets a placeholder answer in this process until it is known what the monitors notice.
    ///
    /// # Errors
    /// A number beyond its limits, or a placeholder that does not start or answer.
    pub fn run(&self) -> Result<DrillReport, DrillError> {
        self.check()?;
        let size = self.size.unwrap_or_else(|| self.drift.own_size());
        let rules = Rules { n_baseline: self.baseline, renotify_ms: 0 };
        let mut monitor = Model::new(BaselineFile::default(), rules, Vec::new());
        let usual = Answering::start(self.seed, MEAN_TOKENS)?;
        let drifted = match self.drift {
            // Another model, as far as anybody can see from outside.
            Drift::Length => Some(Answering::start(self.seed, longer(size))?),
            _ => None,
        };
        let mut dice = Dice(self.seed);
        let (mut found, mut nearest) = (Vec::<Noticed>::new(), [None; N_SIGNALS]);
        for i in 0..self.baseline + self.within {
            let delay = (i + 1).saturating_sub(self.baseline);
            let drift = if delay > 0 { self.drift } else { Drift::None };
            let answering = drifted.as_ref().filter(|_| delay > 0).unwrap_or(&usual);
            let event = answering.answer(i, drift, size, &mut dice)?;
            monitor.see(Seen::of(&event));
            if delay > 0 {
                note_progress(&monitor, &mut nearest);
            }
            for told in monitor.board.open() {
                if found.iter().any(|one| one.signal == told.signal && one.how == told.how) {
                    continue;
                }
                found.push(Noticed {
                    signal: told.signal.clone(),
                    how: told.how.clone(),
                    delay,
                    began_ago: told.began_ago,
                    is_expected: self.drift.signal().is_some_and(|s| s.as_str() == told.signal),
                });
            }
        }
        let is_passed = match self.drift {
            Drift::None => found.is_empty(),
            _ => found.iter().any(|one| one.is_expected),
        };
        Ok(DrillReport {
            drift: self.drift.as_str(),
            size,
            seed: self.seed,
            baseline: self.baseline,
            within: self.within,
            expected: self.drift.signal().map(Signal::as_str),
            signals: self.signals(&monitor, &found, &nearest),
            found,
            is_passed,
        })
    }

    /// What became of each signal.
    fn signals(
        &self,
        monitor: &Model,
        found: &[Noticed],
        nearest: &[Option<f64>; N_SIGNALS],
    ) -> Vec<SignalReport> {
        let of = |signal: Signal| {
            let shape = monitor.recent.shape(signal, &monitor.usual.baseline);
            let name = signal.as_str();
            let noticed = found.iter().find(|one| one.signal == name).map(|one| one.delay);
            SignalReport {
                signal: name,
                is_expected: self.drift.signal() == Some(signal),
                usual_mean: shape.usual.map(|usual| usual.mean),
                mean: shape.recent.map(|recent| recent.mean),
                noticed,
                // The sum begins anew with the alarm.
                nearest: if noticed.is_some() { Some(1.0) } else { nearest[signal as usize] },
            }
        };
        Signal::ALL.into_iter().map(of).collect()
    }

    fn check(&self) -> Result<(), DrillError> {
        let number = |name, value, is_good, limit| match is_good {
            true => Ok(()),
            false => Err(DrillError::Number { name, value, limit }),
        };
        let (baseline, within) = (self.baseline, self.within);
        let limit = "from 500 to 100000";
        number("--baseline", baseline as f64, (500..=100_000).contains(&baseline), limit)?;
        let limit = "from 1 to 100000";
        number("--within", within as f64, (1..=100_000).contains(&within), limit)?;
        let Some(size) = self.size else { return Ok(()) };
        let (is_good, limit) = match self.drift {
            Drift::None => (false, "absent: nothing drifts"),
            Drift::Refusals => (size > 0.0 && size <= 1.0, "a share above 0, at most 1"),
            _ => ((0.1..=10.0).contains(&size), "a factor from 0.1 to 10"),
        };
        number("--size", size, is_good, limit)
    }
}

/// The furthest that each signal was on its way to an alarm.
fn note_progress(monitor: &Model, nearest: &mut [Option<f64>; N_SIGNALS]) {
    for signal in Signal::ALL {
        if let Some(progress) = monitor.progress(signal) {
            let so_far = &mut nearest[signal as usize];
            *so_far = Some(so_far.unwrap_or(0.0).max(progress));
        }
    }
}

fn longer(size: f64) -> u32 {
    (f64::from(MEAN_TOKENS) * size).round().max(1.0) as u32
}

/// A placeholder, and what it told of its last answer.
struct Answering {
    runtime: Runtime,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told(Mutex<Option<RequestEvent>>);

impl Observer for Told {
    fn record(&self, event: &RequestEvent) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(event.clone());
    }
}

impl Answering {
    fn start(seed: u64, mean_tokens: u32) -> Result<Answering, DrillError> {
        let options =
            format!("seed={seed},mean_tokens={mean_tokens},n_blocks=64,max_model_len=1024");
        let source = ModelSource::placeholder(&options).map_err(LoadError::from)?;
        let told = Arc::new(Told::default());
        let mut config = RuntimeConfig::new(source);
        config.observer = Arc::clone(&told) as Arc<dyn Observer>;
        Ok(Answering { runtime: Runtime::start(config)?, told })
    }

    /// One answer, with times that were drawn.
    fn answer(
        &self,
        i: u64,
        drift: Drift,
        size: f64,
        dice: &mut Dice,
    ) -> Result<RequestEvent, DrillError> {
        let n_words = 3 + (dice.uniform() * 12.0) as usize;
        let word = |_| WORDS[(dice.uniform() * WORDS.len() as f64) as usize % WORDS.len()];
        let words: Vec<&str> = (0..n_words).map(word).collect();
        let mut request =
            GenerateRequest::new(RequestId(u128::from(i) + 1), Prompt::Text(words.join(" ")));
        request.stop.max_tokens = Some(MAX_TOKENS);
        request.sampling.seed = dice.next();
        request.sampling.logprobs = Some(0);
        let heat = if drift == Drift::Logprob { size } else { 1.0 };
        request.sampling.temperature = (TEMPERATURE * heat) as f32;
        let refuses = dice.uniform() < size && drift == Drift::Refusals;
        if refuses {
            REFUSAL.clone_into(&mut request.steering.opening);
        }
        self.runtime.complete(request)?;
        let told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut event = told.ok_or(GenerateError::ShuttingDown)?;
        let slow = if drift == Drift::Latency { size } else { 1.0 };
        let ms = |mean: f64, sd: f64, dice: &mut Dice| slow * mean * (sd * dice.bell()).exp();
        let ttft_ms = ms(20.0, 0.3, dice) + 0.05 * f64::from(event.usage.prompt_tokens);
        let n_gaps = f64::from(event.usage.completion_tokens.saturating_sub(1));
        let e2e_ms = ttft_ms + n_gaps * ms(5.0, 0.1, dice);
        event.timings.ttft = Duration::from_secs_f64(ttft_ms / 1e3);
        event.timings.e2e = Duration::from_secs_f64(e2e_ms / 1e3);
        // The same hour of one week after the other: what is usual at other hours would have to be learned first.
        let seconds = i / HOUR * WEEK + i % HOUR;
        event.arrived_at = UNIX_EPOCH + Duration::from_secs(seconds);
        Ok(event)
    }
}

/// `SplitMix64`. Source: Steele et al. 2014.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of mean 0 and standard deviation 1, by Irwin and Hall.
    pub(crate) fn bell(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn drill(drift: Drift, seed: u64) -> Drill {
        Drill { drift, size: None, baseline: 1000, within: 500, seed }
    }

    #[test]
    fn each_drift_is_noticed_within_500_answers_and_the_same_again() {
        for drift in [Drift::Refusals, Drift::Length, Drift::Logprob, Drift::Latency] {
            let report = drill(drift, 7).run().unwrap();
            println!("{report:?}");
            assert!(report.is_passed, "{report:?}");
            assert!(report.found.iter().all(|one| (1..=500).contains(&one.delay)), "{report:?}");
        }
        let again = || drill(Drift::Refusals, 3).run().unwrap();
        assert_eq!(again(), again());
    }

    #[test]
    fn ten_points_of_refusals_are_noticed_and_each_signal_says_what_became_of_it() {
        for seed in 0..10 {
            let report = Drill { size: Some(0.1), ..drill(Drift::Refusals, seed) }.run().unwrap();
            assert!(report.is_passed, "{report:?}");
            assert_eq!(report.signals.len(), N_SIGNALS);
            for one in &report.signals {
                let told = report.found.iter().find(|found| found.signal == one.signal);
                assert_eq!(one.noticed, told.map(|found| found.delay), "{one:?}");
                assert_eq!(one.nearest == Some(1.0), told.is_some(), "{one:?}");
            }
            let expected = report.signals.iter().find(|one| one.is_expected).unwrap();
            assert_eq!(expected.signal, "refusal");
            // The first ones may be learned from, until there is an alarm.
            assert!(expected.usual_mean.unwrap() < 0.04, "{expected:?}");
            assert!((0.05..0.16).contains(&expected.mean.unwrap()), "{expected:?}");
            // Nobody rates answers here.
            let rated = report.signals.iter().find(|one| one.signal == "bad_feedback").unwrap();
            assert_eq!((rated.usual_mean, rated.mean, rated.nearest), (None, None, None));
        }
    }

    #[test]
    fn where_nothing_drifts_nothing_is_noticed() {
        for seed in 0..10 {
            let report = drill(Drift::None, seed).run().unwrap();
            assert!(report.is_passed, "{report:?}");
        }
    }

    #[test]
    fn a_drift_that_is_too_small_is_no_pass() {
        let tiny = Drill { size: Some(1.01), within: 50, ..drill(Drift::Latency, 1) };
        let report = tiny.run().unwrap();
        assert!(!report.is_passed && report.expected == Some("tpot_ms"), "{report:?}");
    }

    #[test]
    fn numbers_have_limits() {
        #[track_caller]
        fn check(drill: Drill, expect: &str) {
            assert_eq!(drill.run().unwrap_err().to_string(), expect);
        }
        let good = drill(Drift::Refusals, 0);
        let expect = "--baseline is 10, but must be from 500 to 100000";
        check(Drill { baseline: 10, ..good }, expect);
        check(Drill { within: 0, ..good }, "--within is 0, but must be from 1 to 100000");
        let expect = "--size is 2, but must be a share above 0, at most 1";
        check(Drill { size: Some(2.0), ..good }, expect);
        let none = Drill { size: Some(2.0), ..drill(Drift::None, 0) };
        check(none, "--size is 2, but must be absent: nothing drifts");
        let nan = Drill { size: Some(f64::NAN), ..drill(Drift::Length, 0) };
        check(nan, "--size is NaN, but must be a factor from 0.1 to 10");
    }
}
