//! What is usual, by hour of the week as far as there is enough data.
//!
//! It must never grow with the traffic.
//!
//! Start reading at [`Baseline::add`].

use crate::signal::N_SIGNALS;
use crate::{Reading, Signal};

/// Hours of a week.
pub const WEEK_HOURS: usize = 168;
/// Values without which there is no baseline.
const MIN_VALUES: u64 = 500;
/// Values that are kept of a signal.
const MAX_SAMPLE: usize = 4096;

/// What is usual.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    /// By signal, in the order of [`Signal::ALL`].
    pub signals: [SignalBaseline; N_SIGNALS],
}

/// What is usual of one signal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SignalBaseline {
    /// Values and their sum, by hour of the week; empty before the first value.
    pub hours: Vec<(u64, f64)>,
    /// Some values with their hours, evenly spread.
    pub sample: Vec<(u8, f64)>,
    /// Of how many values one is kept.
    pub stride: u64,
    n_values: u64,
}

impl Baseline {
    /// Takes an answer in.
    pub fn add(&mut self, reading: &Reading) {
        for (signal, usual) in Signal::ALL.into_iter().zip(&mut self.signals) {
            if let Some(value) = reading.values[signal as usize] {
                usual.add(reading.hour, signal.watched(value));
            }
        }
    }

    /// What is usual of a signal, if that is known.
    #[must_use]
    pub fn of(&self, signal: Signal) -> Option<&SignalBaseline> {
        Some(&self.signals[signal as usize]).filter(|usual| usual.n_values() >= MIN_VALUES)
    }
}

impl SignalBaseline {
    /// As it was taken apart.
    #[must_use]
    pub fn of_parts(hours: Vec<(u64, f64)>, sample: Vec<(u8, f64)>, stride: u64) -> SignalBaseline {
        let n_values = hours.iter().map(|(n, _)| n).sum();
        SignalBaseline { hours, sample, stride: stride.max(1), n_values }
    }

    /// How many values there were.
    #[must_use]
    pub fn n_values(&self) -> u64 {
        self.n_values
    }

    fn add(&mut self, hour: u8, value: f64) {
        if self.hours.is_empty() {
            self.hours = vec![(0, 0.0); WEEK_HOURS];
            self.stride = 1;
        }
        let (n, sum) = &mut self.hours[usize::from(hour) % WEEK_HOURS];
        *n += 1;
        *sum += value;
        if self.n_values.is_multiple_of(self.stride) {
            self.sample.push((hour, value));
        }
        self.n_values += 1;
        if self.sample.len() > MAX_SAMPLE {
            let mut i = 0;
            self.sample.retain(|_| {
                i += 1;
                i % 2 == 1
            });
            self.stride *= 2;
        }
    }
}
