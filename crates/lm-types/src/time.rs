//! Time as a number that is handed in: no floor below the engine reads a clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Microseconds since the engine started. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time from `earlier` until this one; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    fn sub(self, earlier: Timestamp) -> Duration {
        self.since(earlier)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    /// The end of time when it overflows.
    fn add(self, wait: Duration) -> Timestamp {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(micros))
    }
}
