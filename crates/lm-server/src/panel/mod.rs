//! The dashboard at `/`: its files, and what its pages ask for.
//!
//! It must never wait for the engine, nor hold more than an hour of numbers. The files are the same
//! for everybody; data needs what its route needs.
//!
//! Start reading at [`Panel`], then [`watch`].

mod alerts;
mod attended;
mod charts;
mod live;
mod pages;
mod params;
mod requests;
mod telling;
mod troubles;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lm_ops::AttendantStanding;
use lm_panel::{
    Alert, AlertLog, CacheMismatchNow, DriftNow, History, Now, RecentError, ServerNow, SinkNow,
    StoreNow, TICK,
};
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::metric_table::Served;
use crate::response_cache::Mismatch;
use crate::watchdog::Condition;

pub(crate) use alerts::alerts;
use attended::Attended;
pub(crate) use charts::{chart, width};
pub(crate) use live::{now, stream};
pub(crate) use pages::{page, page_file, root, wants_page};
pub(crate) use params::{Params, invalid};
pub(crate) use requests::{one, request_id, search, sees, timeline};
use telling::Telling;

/// Pages that may be told what goes on, at once; more are refused with 429.
const MAX_LIVE: usize = 64;
/// Failed answers that are shown.
const N_ERRORS: u32 = 8;
/// Ticks after a failure in which the store is asked again: it writes in groups, a little later.
const N_ASKS: u32 = 3;

/// What the pages are told.
pub(crate) struct Panel {
    history: Mutex<History>,
    alerts: Mutex<AlertLog>,
    now: watch::Sender<Arc<Now>>,
    live: Arc<Semaphore>,
    /// Whether [`watch`] had to begin anew.
    watching: Attended,
}

impl Default for Panel {
    fn default() -> Self {
        Panel {
            history: Mutex::default(),
            alerts: Mutex::default(),
            now: watch::Sender::default(),
            live: Arc::new(Semaphore::new(MAX_LIVE)),
            watching: Attended::new("panel-watch"),
        }
    }
}

impl Panel {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alerts(&self) -> MutexGuard<'_, AlertLog> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages that are being told what goes on.
    pub(crate) fn n_live(&self) -> usize {
        MAX_LIVE - self.live.available_permits()
    }

    /// How the task is that looks at all and tells alerts.
    pub(crate) fn attendant(&self) -> AttendantStanding {
        self.watching.standing()
    }

    /// The newest state; waits for the first.
    async fn newest(&self) -> Arc<Now> {
        let mut states = self.now.subscribe();
        match states.wait_for(|now| now.at_ms > 0).await {
            Ok(now) => Arc::clone(&now),
            // The sender is this panel's own.
            Err(_) => Arc::default(),
        }
    }
}

/// Looks at all models each [`TICK`] and tells the pages and of alerts, also after a panic. Never ends.
pub(crate) async fn watch(app: Arc<App>) {
    app.panel.watching.run(|| look_on(Arc::clone(&app))).await;
}

async fn look_on(app: Arc<App>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut errors, mut n_failed, mut n_asks) = (Vec::new(), None, 0);
    let mut kept = Kept::default();
    let mut telling = Telling::begin(&app);
    loop {
        ticks.tick().await;
        let mut now = look(&app);
        let n_now = now.models.iter().map(|model| model.errors).sum::<u64>();
        if n_failed.replace(n_now) != Some(n_now) {
            n_asks = N_ASKS;
        }
        if n_asks > 0 {
            n_asks -= 1;
            // What cannot be read is logged, and the errors that were known stay.
            errors = newest_errors(&app).await.unwrap_or(errors);
        }
        now.last_errors.clone_from(&errors);
        now.alerts = lm_panel::alerts(&now);
        app.panel.alerts().observe(now.at_ms, &now.alerts);
        kept.keep(&app, &now);
        telling.tell(&now);
        app.panel.now.send_replace(Arc::new(now));
    }
}

/// The alerts as `doctor` finds them beside the store: also when nothing answers any more.
#[derive(Default)]
struct Kept {
    alerts: Option<Vec<Alert>>,
    writing: Option<JoinHandle<()>>,
}

impl Kept {
    /// Writes them down when they are other ones; on a disk that is slow, one after the other.
    fn keep(&mut self, app: &App, now: &Now) {
        let Some(folder) = app.config.state_folder.clone() else { return };
        let is_writing = self.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        if is_writing || self.alerts.as_ref() == Some(&now.alerts) {
            return;
        }
        self.alerts = Some(now.alerts.clone());
        let text = json!({ "pid": std::process::id(), "at_ms": now.at_ms, "alerts": now.alerts });
        // Servers of one home listen at different ports, so that no two write one file.
        let name = format!("alerts-{}.json", app.config.address.port());
        self.writing = Some(spawn_blocking(move || {
            let (path, next) = (folder.join(&name), folder.join(format!("{name}.next")));
            let written = write_private(&next, &format!("{text:#}\n"));
            if let Err(error) = written.and_then(|()| std::fs::rename(&next, &path)) {
                // The next ones are tried again; the log of a full disk is the store's.
                tracing::debug!(%error, path = %path.display(), "the alerts could not be kept");
            }
        }));
    }
}

/// Readable by its owner only: alerts may name requests.
fn write_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).truncate(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

/// Everything but the errors and alerts.
fn look(app: &App) -> Now {
    let at_ms = unix_ms();
    let runtimes = app.models.loaded();
    let served: Vec<Served<'_>> = runtimes.iter().map(|runtime| Served::now(runtime)).collect();
    let conditions =
        served.iter().map(|model| Condition::of(&model.stats, model.info.backend.weights_bytes));
    let status = match conditions.max_by_key(|condition| *condition as u8) {
        _ if app.is_draining() => "draining",
        Some(Condition::Died) => "died",
        Some(Condition::Stalled) => "stalled",
        Some(Condition::Going) | None => "ok",
    };
    let counters = app.ops.counters();
    let (memory_ceiling_bytes, memory_planned_bytes) = app.models.memory();
    let limit = app.config.max_open_requests;
    let open = limit.saturating_sub(app.open_requests.available_permits());
    let mut history = app.panel.history();
    let names: Vec<&str> = served.iter().map(|model| model.info.name.as_str()).collect();
    history.keep_only(&names);
    Now {
        at_ms,
        server: ServerNow {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            status: status.to_owned(),
            open_requests: open as u64,
            open_requests_limit: limit as u64,
            stalls: app.n_stalls(),
            key_denials: app.denials.all().iter().map(|(_, n)| n).sum(),
            clock_jump: app.clock.look(),
            memory_planned_bytes,
            memory_ceiling_bytes,
            resident_bytes: resident_bytes(),
            wrong_probes: app.probes.wrong(),
            overdue: troubles::overdue(app),
            drifts: drifts(app),
            failing_sinks: failing_sinks(app),
            troubled_threads: troubles::threads(app),
            rolled_back: troubles::rolled_back(&app.ops),
            troubled_experiments: troubles::experiments(&app.ops),
            cache_mismatch: cache_mismatch(app),
        },
        models: served
            .into_iter()
            .map(|model| history.observe(at_ms, model.info, model.stats))
            .collect(),
        store: StoreNow {
            recorded: counters.recorded,
            dropped: counters.dropped,
            write_errors: counters.write_errors,
            queue_len: counters.queue_len,
            queue_capacity: counters.queue_capacity,
            slowest_commit_ms: counters.slowest_commit_ms,
        },
        ..Now::default()
    }
}

/// The last cached answer that was another one when computed again.
fn cache_mismatch(app: &App) -> Option<CacheMismatchNow> {
    let (Mismatch { told_to, computed_by, at, is_exact }, n) = app.response_cache.mismatches()?;
    let (told_to, computed_by) = (told_to.to_string(), computed_by.to_string());
    Some(CacheMismatchNow { told_to, computed_by, at: at as u64, n, is_exact })
}

/// What is not as usual, once for each signal.
fn drifts(app: &App) -> Vec<DriftNow> {
    let mut found: Vec<DriftNow> = Vec::new();
    for alarm in app.ops.monitors().map(lm_ops::Monitors::alarms).unwrap_or_default() {
        let is_known = |one: &DriftNow| one.model == alarm.model && one.signal == alarm.signal;
        if !found.iter().any(is_known) {
            found.push(DriftNow {
                model: alarm.model,
                signal: alarm.signal,
                how: alarm.how,
                began_ago: alarm.began_ago,
                examples: alarm.examples,
                is_other_release: alarm.release != alarm.usual_of,
                is_provisional: alarm.is_provisional,
            });
        }
    }
    found
}

/// Where alerts do not arrive, or did not.
fn failing_sinks(app: &App) -> Vec<SinkNow> {
    let sinks = app.ops.monitors().map(lm_ops::Monitors::sinks).unwrap_or_default();
    let failing = sinks.into_iter().filter(|s| s.given_up > 0 || s.failing_since_ms.is_some());
    let told = |sink: lm_ops::SinkStanding| SinkNow {
        to: sink.to,
        waiting: sink.waiting,
        given_up: sink.given_up,
        failing_since_ms: sink.failing_since_ms,
        error: sink.last_error.unwrap_or_default(),
    };
    failing.map(told).collect()
}

async fn newest_errors(app: &App) -> Option<Vec<RecentError>> {
    let found = app.ops.recent_errors(N_ERRORS).await.ok()?;
    let error = |error: lm_ops::StoredError| RecentError {
        request_id: error.request_id.to_string(),
        arrived_at_ms: error.arrived_at_ms,
        model: error.model,
        code: error.code,
        message: error.message,
    };
    Some(found.into_iter().map(error).collect())
}

/// `None` where the system does not say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn unix_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
