//! What makes cached answers go: what people tell this server of them, what operators change, and what serves no longer.
//!
//! It must never wait on a thread that serves: the store and files are read on threads that may block.
//!
//! Start reading at [`watch`] and [`heed`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use lastmile::ReleaseHash;
use lm_api::ApiError;
use lm_ops::{FeedbackReceipt, Overrides, Policy, last_erasure};
use tokio::time::{MissedTickBehavior, interval};

use super::table::Evicted;
use crate::app::App;
use crate::generate::off_thread;

/// How soon a change is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Looks between two sweeps.
const LOOKS_OF_A_SWEEP: u32 = 20;

/// Forgets what overrides, erasures and releases touch. Never ends by itself where there is a cache.
pub(crate) async fn watch(app: Arc<App>) {
    if !app.response_cache.is_on() {
        return;
    }
    let mut known = policy(&app);
    let mut erased = erasure(&app).await;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut n_looks: u32 = 0;
    loop {
        ticks.tick().await;
        let now = policy(&app);
        if !is_same(known.as_deref(), now.as_deref()) {
            // A rule may touch any answer: which ones, only the requests to come can say.
            empty(&app, Evicted::Override);
        }
        known = now;
        let found = erasure(&app).await;
        if found != erased {
            empty(&app, Evicted::Erase);
            erased = found;
        }
        n_looks += 1;
        if n_looks == LOOKS_OF_A_SWEEP {
            n_looks = 0;
            sweep(&app);
        }
    }
}

/// Freeing many answers takes a while.
fn empty(app: &App, why: Evicted) {
    let all = app.response_cache.empty(why);
    drop(tokio::task::spawn_blocking(move || drop(all)));
}

fn policy(app: &App) -> Option<Arc<Policy>> {
    app.ops.overrides().map(Overrides::policy)
}

/// Policies are compiled anew also when nothing that holds has changed.
fn is_same(known: Option<&Policy>, now: Option<&Policy>) -> bool {
    match (known, now) {
        (Some(known), Some(now)) => {
            std::ptr::eq(known, now) || format!("{known:?}") == format!("{now:?}")
        }
        (known, now) => known.is_none() && now.is_none(),
    }
}

/// The last erasure in this home, where there is a home.
async fn erasure(app: &App) -> Option<String> {
    let home = app.config.state_folder.clone()?;
    let read = tokio::task::spawn_blocking(move || last_erasure(&home));
    read.await.ok().flatten()
}

fn sweep(app: &App) {
    let mut releases: Vec<ReleaseHash> = Vec::new();
    for runtime in app.models.loaded() {
        releases.push(runtime.info().release_hash);
        releases.extend(runtime.adapters().iter().map(|adapter| adapter.release_hash));
    }
    app.response_cache.table().sweep(&releases, Instant::now());
}

/// Forgets an answer that somebody calls bad, before they hear that they were heard.
///
/// # Errors
/// The store cannot be read: then it is not known which answer it is.
pub(crate) async fn heed(app: &App, receipt: &FeedbackReceipt) -> Result<(), ApiError> {
    if !app.response_cache.is_on() || !receipt.is_negative {
        return Ok(());
    }
    let Ok(id) = receipt.request_id.parse() else { return Ok(()) };
    if app.response_cache.forget(id, Evicted::Feedback) {
        return Ok(());
    }
    // It was told what another request computed, or was not cached.
    let ops = app.ops.clone();
    if let Some(computed_by) = off_thread(move || ops.computed_by(id)).await? {
        app.response_cache.forget(computed_by, Evicted::Feedback);
    }
    Ok(())
}
