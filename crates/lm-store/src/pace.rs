//! How long commits take: a disk that is slow shows here first.
//!
//! It must never be locked while a commit runs.
//!
//! Start reading at [`Pace::time`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A commit is remembered for at least this, and less than twice as long.
const SPAN: Duration = Duration::from_secs(60);

/// The writer notes, anybody reads.
#[derive(Default)]
pub(crate) struct Pace(Mutex<Commits>);

#[derive(Default)]
struct Commits {
    /// Since when one runs.
    running: Option<Instant>,
    /// Since when `slowest` is counted.
    since: Option<Instant>,
    slowest: Duration,
    /// Of the span before.
    slowest_before: Duration,
}

impl Pace {
    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a commit.
    pub(crate) fn time<T>(&self, commit: impl FnOnce() -> T) -> T {
        self.commits().running = Some(Instant::now());
        let done = commit();
        let mut commits = self.commits();
        commits.turn();
        let took = commits.running.take().map_or(Duration::ZERO, |begun| begun.elapsed());
        commits.slowest = commits.slowest.max(took);
        done
    }

    /// The longest of late, the one that runs included.
    pub(crate) fn slowest(&self) -> Duration {
        let mut commits = self.commits();
        commits.turn();
        let running = commits.running.map_or(Duration::ZERO, |begun| begun.elapsed());
        commits.slowest.max(commits.slowest_before).max(running)
    }
}

impl Commits {
    fn turn(&mut self) {
        let age = self.since.get_or_insert_with(Instant::now).elapsed();
        if age >= SPAN {
            let is_fresh = age < 2 * SPAN;
            self.slowest_before = if is_fresh { self.slowest } else { Duration::ZERO };
            (self.slowest, self.since) = (Duration::ZERO, Some(Instant::now()));
        }
    }
}
