//! Whether the engines go on, and what is left of one when it does not.
//!
//! It must never wait for the engine: it reads counters.
//!
//! Start reading at [`Condition::of`], then [`watch`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lastmile::{Runtime, StatsSnapshot};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior};

use crate::app::App;

/// How often the engine is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Idle, the engine goes round its loop twice a second; so long it may always take.
const LEAST_STALE: Duration = Duration::from_secs(5);
/// No step is so long.
const MOST_STALE: Duration = Duration::from_secs(600);
/// A step may take so many times as long as predicted.
const LONGER_STEP: u32 = 5;
/// What the slowest machines manage, for a step before any was measured: bytes of weights read in a
/// second, and seconds that a byte of weights computes for one token.
const SLOW_BYTES_PER_S: f64 = 200e6;
const SLOW_S_PER_BYTE_TOKEN: f64 = 0.2e-9;

/// How an engine is, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    /// It goes round its loop.
    Going,
    /// It did not for too long.
    Stalled,
    /// Its thread panicked.
    Died,
}

impl Condition {
    /// By the engine's counters and the bytes of its weights.
    pub(crate) fn of(stats: &StatsSnapshot, weights_bytes: u64) -> Self {
        if stats.died {
            Condition::Died
        } else if stats.heartbeat_age > stale_after(predicted_step(stats, weights_bytes)) {
            Condition::Stalled
        } else {
            Condition::Going
        }
    }
}

/// How long the step that runs should take; zero when none does.
fn predicted_step(stats: &StatsSnapshot, weights_bytes: u64) -> Duration {
    let n_tokens = stats.step_tokens as f64;
    if stats.step_tokens == 0 {
        return Duration::ZERO;
    }
    if stats.steps == 0 {
        let weights = weights_bytes as f64;
        let seconds = weights / SLOW_BYTES_PER_S + weights * n_tokens * SLOW_S_PER_BYTE_TOKEN;
        return Duration::from_secs_f64(seconds.min(MOST_STALE.as_secs_f64()));
    }
    // Longer by as much as it has more tokens than the longest of late.
    let ratio = (n_tokens / stats.longest_step_tokens.max(1) as f64).max(1.0);
    let seconds = stats.longest_step.as_secs_f64() * ratio;
    Duration::from_secs_f64(seconds.min(MOST_STALE.as_secs_f64()))
}

/// An engine that did not go round its loop for longer than this stands still.
fn stale_after(predicted_step: Duration) -> Duration {
    predicted_step.saturating_mul(LONGER_STEP).clamp(LEAST_STALE, MOST_STALE)
}

/// Writes down what an engine was at, once each time it stands still, and shows the service manager
/// that none does. Never ends.
pub(crate) async fn watch(app: Arc<App>) {
    let manager = Arc::clone(&app.access.service_manager);
    let alive_every = manager.watchdog().map(|patience| patience / 2);
    let mut said_alive: Option<Instant> = None;
    // By the name of the model; a name that is gone is forgotten.
    let mut were: BTreeMap<String, Condition> = BTreeMap::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // While they drain, the engines end by themselves.
        let loaded = if app.is_draining() { Vec::new() } else { app.models.loaded() };
        let mut are = BTreeMap::new();
        for runtime in &loaded {
            let info = runtime.info();
            let was = were.get(&info.name).copied().unwrap_or(Condition::Going);
            are.insert(info.name.clone(), look(&app, runtime, was));
        }
        were = are;
        let is_going = were.values().all(|is| *is == Condition::Going);
        let is_due = |every: Duration| said_alive.is_none_or(|at| at.elapsed() >= every);
        if is_going && alive_every.is_some_and(is_due) {
            manager.say_alive();
            said_alive = Some(Instant::now());
        }
    }
}

/// How an engine is now, after it was so; a change is logged.
fn look(app: &Arc<App>, runtime: &Runtime, was: Condition) -> Condition {
    let (stats, info) = (runtime.stats(), runtime.info());
    let is = Condition::of(&stats, info.backend.weights_bytes);
    match (was, is) {
        (Condition::Going, Condition::Stalled) => {
            app.count_stall();
            let state = dump(&info.name, &stats);
            tracing::error!(model = info.name, state = %state, "the engine stands still");
            let app = Arc::clone(app);
            drop(spawn_blocking(move || keep(app.config.state_folder.as_deref(), &state)));
        }
        (Condition::Stalled, Condition::Going) => {
            tracing::warn!(model = info.name, "the engine goes on");
        }
        _ => {}
    }
    is
}

/// What an operator needs to see of an engine that stands still.
fn dump(model: &str, stats: &StatsSnapshot) -> Value {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "at_ms": since_epoch.as_millis() as u64,
        "model": model,
        "uptime_ms": stats.uptime.as_millis() as u64,
        "heartbeat_age_ms": stats.heartbeat_age.as_millis() as u64,
        "steps": stats.steps,
        "failed_steps": stats.failed_steps,
        "step": { "sequences": stats.step_rows, "tokens": stats.step_tokens },
        "longest_step": {
            "ms": stats.longest_step.as_millis() as u64, "tokens": stats.longest_step_tokens,
        },
        "running": stats.n_running,
        "waiting": stats.n_waiting,
        "kv_blocks": { "all": stats.n_blocks, "free": stats.n_free_blocks },
        "preemptions": stats.preemptions,
        "failed": stats.failed.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// Keeps the newest state alone, so that it never grows.
fn keep(folder: Option<&Path>, state: &Value) {
    let Some(path) = folder.map(|folder| folder.join("last-stall.json")) else { return };
    if let Err(error) = std::fs::write(&path, format!("{state:#}\n")) {
        tracing::error!(%error, path = %path.display(), "the engine's state could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::stale_after;

    #[test]
    fn long_steps_are_waited_for_but_not_for_ever() {
        #[track_caller]
        fn check(predicted_s: u64, expect_s: u64) {
            let found = stale_after(Duration::from_secs(predicted_s));
            assert_eq!(found, Duration::from_secs(expect_s));
        }
        check(0, 5);
        check(1, 5);
        check(4, 20);
        check(24, 120);
        check(120, 600);
        check(u64::MAX, 600);
    }
}
