//! What runs, what went wrong, and how it has been going: one report from the store alone.
//!
//! It must never need a server that answers: it is read when nothing else works.
//!
//! Start reading at [`Doctor::examine`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lm_store::{
    CachePressure, Reader, RecordedRelease, RowCounts, Run, RunState, StoreError, StoredError,
};
use serde::Serialize;
use serde_json::Value;

use crate::{CostBy, CostReport};

/// A run whose last sign of life is older than this is taken for crashed. Several heartbeats.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for a run whose process is gone.
const NO_PATIENCE: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Whoever is woken wants to know who asks now.
const OF_LATE: Duration = Duration::from_secs(10 * 60);
const N_RUNS: u32 = 5;
const N_ERRORS: u32 = 10;

/// The state of a store's server, as one page. `Display` renders it as text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Doctor {
    /// When this was examined, in Unix milliseconds.
    pub examined_at_ms: i64,
    /// The newest runs, newest first.
    pub runs: Vec<RunReport>,
    /// What the newest run answers with that the one before, of the same name, did not.
    pub change: Option<Change>,
    /// What each key took in the last ten minutes.
    pub by_key: CostReport,
    /// What fills the prefix cache, of the last ten minutes.
    pub cache: CachePressure,
    /// The last hour.
    pub last_hour: lm_store::Totals,
    /// The last 24 hours.
    pub last_day: lm_store::Totals,
    /// The newest failed answers, newest first.
    pub last_errors: Vec<StoredError>,
    /// Rows in the store, feedback among them.
    pub stored: RowCounts,
}

/// One run of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// What became of it.
    pub state: RunState,
    /// What is known of it.
    #[serde(flatten)]
    pub run: Run,
}

/// What answers depend on that is another one since the run before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The facts of the release that differ: name, before, now.
    pub facts: Vec<(String, String, String)>,
    /// What was given as `--model`, where that is known: before, and now.
    pub sources: Option<(String, String)>,
}

impl Change {
    fn between(before: &RecordedRelease, now: &RecordedRelease) -> Self {
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "none".to_owned(),
        };
        let facts = now.facts.as_object().into_iter().flatten().filter_map(|(name, value)| {
            let old = before.facts.get(name);
            (old != Some(value)).then(|| (name.clone(), text(old), text(Some(value))))
        });
        let source = |release: &RecordedRelease| {
            let how: Value = serde_json::from_str(release.how.as_deref()?).ok()?;
            how.get("model")?.as_str().map(str::to_owned)
        };
        Change { facts: facts.collect(), sources: source(before).zip(source(now)) }
    }

    /// Of the newest of `runs`, beside the newest earlier one that served under the same name.
    fn of(reader: &Reader, runs: &[Run]) -> Result<Option<Self>, StoreError> {
        let Some((now, earlier)) = runs.split_first() else { return Ok(None) };
        let before = earlier.iter().find(|run| run.model == now.model);
        let Some(before) = before.filter(|run| run.release_hash != now.release_hash) else {
            return Ok(None);
        };
        let releases = (reader.release(&before.release_hash)?, reader.release(&now.release_hash)?);
        Ok(match releases {
            (Some(before), Some(now)) => Some(Change::between(&before, &now)),
            _ => None,
        })
    }
}

impl Doctor {
    /// Reads the report as of `now`. May run beside the server.
    ///
    /// # Errors
    /// Why the store could not be read.
    pub fn examine(reader: &Reader, now: SystemTime) -> Result<Self, StoreError> {
        let ago = |age: Duration| now.checked_sub(age).unwrap_or(UNIX_EPOCH);
        let runs = reader.runs(N_RUNS)?;
        let change = Change::of(reader, &runs)?;
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Doctor {
            examined_at_ms: i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX),
            change,
            runs: runs
                .into_iter()
                .map(|run| {
                    let patience = if is_alive(run.pid) { PATIENCE } else { NO_PATIENCE };
                    RunReport { state: run.state(now, patience), run }
                })
                .collect(),
            by_key: CostReport::read(reader, CostBy::Key, ago(OF_LATE))?,
            cache: reader.cache_pressure(ago(OF_LATE))?,
            last_hour: reader.totals(ago(HOUR))?,
            last_day: reader.totals(ago(24 * HOUR))?,
            last_errors: reader.recent_errors(N_ERRORS)?,
            stored: reader.counts()?,
        })
    }
}

/// Whether a process of this number exists. Where that cannot be asked, its heartbeat decides.
#[cfg(unix)]
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    use rustix::process::{Pid, test_kill_process};
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // A process of another user refuses, so it exists.
    pid.is_none_or(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Taken for granted where it cannot be asked.
#[cfg(not(unix))]
#[must_use]
pub fn is_alive(_pid: u32) -> bool {
    true
}
