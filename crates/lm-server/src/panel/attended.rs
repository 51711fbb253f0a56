//! A task that goes on after a panic, and how often it had to.
//!
//! It must never end in silence: what it tells of would go on without anybody hearing of it.
//!
//! Start reading at [`Attended::run`].

use std::any::Any;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lm_ops::AttendantStanding;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The wait after the first panic; it doubles with each that follows soon, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The panics of one task.
pub(crate) struct Attended {
    task: &'static str,
    panics: Mutex<(u64, Option<String>)>,
}

impl Attended {
    pub(crate) fn new(task: &'static str) -> Attended {
        Attended { task, panics: Mutex::default() }
    }

    /// How it is, as threads beside the engine are asked.
    pub(crate) fn standing(&self) -> AttendantStanding {
        let (panics, last_panic) = self.panics().clone();
        let (thread, failing) = (self.task, None);
        AttendantStanding { thread, panics, last_panic, idle_ms: 0, failing, failing_ms: 0 }
    }

    /// Runs what `begin` makes, and makes it anew after a panic. Ends when that ends; what runs ends with this.
    pub(crate) async fn run<F>(&self, begin: impl Fn() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            // A task of its own: its panic is its own, and it ends with the set.
            let mut running = JoinSet::new();
            running.spawn(begin());
            let Some(Err(error)) = running.join_next().await else { return };
            let Ok(payload) = error.try_into_panic() else { return };
            self.panicked(payload.as_ref());
            if began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }

    fn panicked(&self, payload: &(dyn Any + Send)) {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "something that is no text".to_owned());
        tracing::error!(task = self.task, panic = text, "a task panicked; it begins anew");
        let mut panics = self.panics();
        panics.0 += 1;
        panics.1 = Some(text);
    }

    fn panics(&self) -> MutexGuard<'_, (u64, Option<String>)> {
        self.panics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_counted_and_begins_anew() {
        let attended = Attended::new("panel-watch");
        let n_runs = Arc::new(AtomicU64::new(0));
        let begin = || {
            let n_runs = Arc::clone(&n_runs);
            async move {
                let n = n_runs.fetch_add(1, Relaxed);
                assert!(n > 0, "run {n} goes wrong");
            }
        };
        attended.run(begin).await;
        assert_eq!(n_runs.load(Relaxed), 2);
        let standing = attended.standing();
        assert_eq!((standing.thread, standing.panics), ("panel-watch", 1));
        assert_eq!(standing.last_panic.unwrap(), "run 0 goes wrong");
    }
}
