//! Detectors of change: in a stream, value by value, and between two windows of values.
//!
//! It must never know what the values are about, read a clock, or draw at random. A detector's state is a few numbers, or
//! for ADWIN a number of buckets that grows with the logarithm of the stream.
//!
//! A server's answers go through [`Watcher`], which has CUSUMs of its own, [`psi`], [`kolmogorov_smirnov`] and
//! [`benjamini_hochberg`]. The other detectors are for programs that need them, and to compare with: none of them keeps a promised rate of
//! false alarms over cycles of a day and a week.
//!
//! Start reading at [`PageHinkley`] (the simplest stream), [`Watcher`] (every signal of a server's answers), then [`psi`] (two windows) and [`benjamini_hochberg`] (many
//! signals at once).

mod adwin;
mod baseline;
mod many;
mod profile;
mod signal;
mod stream;
mod tail;
mod watch;
mod window;

pub use adwin::{Adwin, AdwinOptions};
pub use baseline::{Baseline, SignalBaseline, WEEK_HOURS};
pub use many::benjamini_hochberg;
pub use signal::{Kind, N_SIGNALS, Reading, Signal};
pub use stream::{Cusum, CusumOptions, Ddm, DdmOptions, Level, PageHinkley, PageHinkleyOptions};
pub use tail::{chi_square_limit, chi_square_tail, kolmogorov_tail};
pub use watch::{Alarm, MIN_WINDOW, Promise, Standing, Watcher};
pub use window::{
    Deciles, chi_square, hellinger, jensen_shannon, kolmogorov_smirnov, psi, psi_limit, wasserstein,
};

#[cfg(test)]
mod tests;
