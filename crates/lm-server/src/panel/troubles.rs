//! What works beside the engine and is in trouble, as the pages are told.
//!
//! It must never decide what is an alert: `lm-panel` does.

use std::time::Duration;

use lm_ops::{AttendantStanding, Ops};
use lm_panel::{OverdueNow, RolledBackNow, ThreadNow, TroubledNow};

use crate::app::App;
use crate::idle;

/// A round takes far less.
const IDLE_MS: u64 = 5_000;

/// Threads, and the task that asks this, that panicked, stand still or cannot do their work.
pub(super) fn threads(app: &App) -> Vec<ThreadNow> {
    let is_troubled =
        |one: &AttendantStanding| one.panics > 0 || one.failing.is_some() || one.idle_ms > IDLE_MS;
    let told = |one: AttendantStanding| ThreadNow {
        name: one.thread.to_owned(),
        panics: one.panics,
        last_panic: one.last_panic.unwrap_or_default(),
        idle_ms: one.idle_ms,
        failing: one.failing.unwrap_or_default(),
        failing_ms: one.failing_ms,
    };
    let all = app.ops.attendants().into_iter().chain([app.panel.attendant()]);
    all.filter(is_troubled).map(told).collect()
}

/// What waits for an idle slot.
pub(super) fn overdue(app: &App) -> Vec<OverdueNow> {
    let told = |(work, overdue): (&str, Duration)| OverdueNow {
        work: work.to_owned(),
        seconds: overdue.as_secs(),
    };
    idle::overdue(app).into_iter().map(told).filter(|one| one.seconds > 0).collect()
}

/// Experiments that the evidence ended, and that nothing took the place of.
pub(super) fn rolled_back(ops: &Ops) -> Vec<RolledBackNow> {
    let Some(experiments) = ops.experiments() else { return Vec::new() };
    let told = |one: &lm_ops::RolledBack| RolledBackNow {
        experiment: one.experiment.clone(),
        model: one.model.clone(),
        stage: one.stage.to_string(),
        why: one.why.clone(),
        at_ms: one.at_ms,
    };
    experiments.rolled_back().iter().map(told).collect()
}

/// Experiments that run, and that a person must look at.
pub(super) fn experiments(ops: &Ops) -> Vec<TroubledNow> {
    let Some(experiments) = ops.experiments() else { return Vec::new() };
    let told = |one: lm_ops::Troubled| TroubledNow {
        experiment: one.experiment,
        model: one.model,
        stage: one.stage.to_string(),
        why: one.why,
    };
    experiments.troubled().into_iter().map(told).collect()
}
