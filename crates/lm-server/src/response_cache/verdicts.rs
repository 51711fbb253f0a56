//! Cached answers that somebody called bad elsewhere: on another server of the same store, at the terminal, or in a review.
//!
//! It must never wait on a thread that serves.
//!
//! Start reading at [`watch_verdicts`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lastmile::RequestId;
use lm_ops::{Ops, Verdicts, now_ms};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::table::Evicted;
use crate::app::App;

/// How soon it is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How far the clocks of those who share a store may differ, and how long a row may take to be seen after it was dated.
const OVERLAP_MS: i64 = 60_000;

/// What is known of verdicts.
pub(super) struct Watched {
    verdicts: Verdicts,
    /// Up to when they are known, in Unix milliseconds.
    until_ms: i64,
    /// The requests of the last look, and whose computation answered each.
    computed_by: HashMap<RequestId, RequestId>,
    /// Why the last look failed.
    failing: Option<String>,
}

/// Forgets what is called bad. Never ends by itself where there is a cache.
pub(crate) async fn watch_verdicts(app: Arc<App>) {
    if !app.response_cache.is_on() {
        return;
    }
    let mut watched = Watched::new(&app.ops);
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let from_ms = watched.until_ms;
        let looking = Arc::clone(&app);
        let looked = spawn_blocking(move || {
            watched.look(&looking, now_ms());
            watched
        });
        watched = looked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "looking for verdicts on cached answers panicked");
            Watched { until_ms: from_ms, ..Watched::new(&app.ops) }
        });
    }
}

impl Watched {
    pub(super) fn new(ops: &Ops) -> Watched {
        let (verdicts, computed_by) = (Verdicts::new(ops), HashMap::new());
        Watched { verdicts, until_ms: now_ms(), computed_by, failing: None }
    }

    /// Forgets what was called bad since the last look that succeeded. Blocks.
    pub(super) fn look(&mut self, app: &App, now_ms: i64) {
        let from_ms = self.until_ms.saturating_sub(OVERLAP_MS);
        let (mut found, mut failed) = (Vec::new(), None);
        // One that cannot be read does not hide the other.
        match self.verdicts.told(from_ms) {
            Ok(told) => found = told,
            Err(error) => failed = Some(error.to_string()),
        }
        match self.verdicts.reviewed(from_ms) {
            Ok(reviewed) => found.extend(reviewed),
            Err(error) => failed = Some(error.to_string()),
        }
        let mut computed_by = HashMap::new();
        for id in found {
            let by = match self.computed_by.get(&id) {
                Some(by) => Ok(*by),
                None => app.ops.computed_by(id).map(|by| by.unwrap_or(id)),
            };
            match by {
                Ok(by) => {
                    // Those of the looks before, too: their answers may have come into the cache since.
                    app.response_cache.forget(by, Evicted::Feedback);
                    computed_by.insert(id, by);
                }
                Err(error) => failed = Some(error.to_string()),
            }
        }
        self.computed_by = computed_by;
        self.note(app, failed, now_ms);
    }

    /// What failed is told once, and read again by the next look.
    fn note(&mut self, app: &App, failed: Option<String>, now_ms: i64) {
        match &failed {
            None => self.until_ms = now_ms,
            Some(error) => {
                app.response_cache.counts.unread.fetch_add(1, Relaxed);
                if self.failing != failed {
                    tracing::error!(error, "what others say of cached answers cannot be read");
                }
            }
        }
        self.failing = failed;
    }
}
