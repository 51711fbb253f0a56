//! Compilations run on threads of their own, few at a time and for a bounded time.
//!
//! It must never know grammars.
//!
//! Start reading at [`Budget::run`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::GrammarError;

/// Compilations at once. One that overran its time counts until it ends.
const MAX_RUNNING: usize = 4;
/// Compilers are recursive, and sources are a stranger's.
const STACK_BYTES: usize = 32 << 20;

/// How many compilations run.
#[derive(Debug, Default)]
pub(crate) struct Budget(Arc<Places>);

#[derive(Debug, Default)]
struct Places {
    n_running: Mutex<usize>,
    freed: Condvar,
}

/// One running compilation; gives its place back when dropped.
struct Place(Arc<Places>);

impl Budget {
    /// Runs `work`, waiting for a place first. Both together take at most `limit`.
    ///
    /// # Errors
    /// `TooSlow`; `Refused` when the work panicked; what the work says.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> Result<T, GrammarError> + Send + 'static,
    ) -> Result<T, GrammarError> {
        let too_slow = || GrammarError::TooSlow { limit_ms: limit.as_millis() };
        let begun = Instant::now();
        let place = self.place(limit).ok_or_else(too_slow)?;
        let (sender, receiver) = sync_channel(1);
        let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            // The place is free before the answer is known, so that who waits for one sees it.
            drop(place);
            // A receiver that gave up wants no answer.
            drop(sender.send(result));
        };
        thread.spawn(run).map_err(|error| GrammarError::Refused {
            message: format!("it could not be compiled now: {error}"),
        })?;
        match receiver.recv_timeout(limit.saturating_sub(begun.elapsed())) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                let message = "the compiler failed on it".to_owned();
                Err(GrammarError::Refused { message })
            }
            Err(RecvTimeoutError::Timeout) => Err(too_slow()),
        }
    }

    fn place(&self, limit: Duration) -> Option<Place> {
        let n_running = self.0.n_running.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |n: &mut usize| *n >= MAX_RUNNING;
        let waited = self.0.freed.wait_timeout_while(n_running, limit, is_full);
        let (mut n_running, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return None;
        }
        *n_running += 1;
        Some(Place(Arc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.n_running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_overruns_or_panics_is_an_error_and_gives_its_place_back() {
        let budget = Budget::default();
        let (release, wait) = sync_channel::<()>(0);
        let overrun = budget.run(Duration::from_millis(5), move || {
            _ = wait.recv();
            Ok(())
        });
        assert_eq!(overrun, Err(GrammarError::TooSlow { limit_ms: 5 }));
        for _ in 0..2 * MAX_RUNNING {
            let broken = budget.run::<()>(Duration::from_secs(10), || panic!("planted"));
            assert!(matches!(broken, Err(GrammarError::Refused { .. })), "{broken:?}");
        }
        drop(release);
        assert_eq!(budget.run(Duration::from_secs(10), || Ok(7)), Ok(7));
    }
}
