//! Probes: recorded answers that are computed again in idle slots, and must stay what they are, bit for bit.
//!
//! They are files of the home, so that an operator adds and removes them beside a server that runs.
//!
//! It must never change what is kept: only an operator says that another answer is right from now on.
//!
//! Start reading at [`look`], then [`turn`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lastmile::{GenerateStream, Priority, Runtime};
use lm_ops::{Again, ProbeFile, ReplayError, Verdict, now_ms};
use lm_panel::ProbeNow;
use serde::Serialize;

use crate::app::{App, mint_id};

/// How often the folder is looked through.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A probe that was interrupted waits twice as long each time, up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// In the place of what no clock can tell.
const NEVER: Duration = Duration::from_hours(24 * 365);
/// Probes beyond this are not read.
const MAX_PROBES: usize = 256;

/// The probes of the home, and what came of them.
#[derive(Default)]
pub(crate) struct Probes(Mutex<State>);

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    all: BTreeMap<String, Probe>,
}

/// Where the probe of each name is, and when it changed.
type Files = BTreeMap<String, (PathBuf, Option<SystemTime>)>;

struct Probe {
    path: PathBuf,
    changed: Option<SystemTime>,
    /// Of the runtime that computed it last.
    release: Option<String>,
    due: Instant,
    /// Since when it is to be computed, or when that will be: not moved by its waits for an idle slot.
    wanted: Instant,
    /// How often it had to wait since it was computed last.
    n_waits: u32,
    n_identical: u64,
    n_diverged: u64,
    n_failed: u64,
    last: Option<Last>,
}

/// What came of a probe when it was computed last.
#[derive(Clone, Debug, Serialize)]
struct Last {
    model: String,
    /// The release that computed it.
    release: Option<String>,
    /// When, in Unix milliseconds.
    at_ms: i64,
    answers: Vec<Again>,
    /// Why it could not be computed.
    error: Option<String>,
}

/// A probe, as `GET /ops/v1/probes` says it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Told {
    name: String,
    identical: u64,
    diverged: u64,
    failed: u64,
    last: Option<Last>,
}

impl Probes {
    pub(crate) fn all(&self) -> Vec<Told> {
        let told = |(name, probe): (&String, &Probe)| Told {
            name: name.clone(),
            identical: probe.n_identical,
            diverged: probe.n_diverged,
            failed: probe.n_failed,
            last: probe.last.clone(),
        };
        self.state().all.iter().map(told).collect()
    }

    /// How often each was computed, and what came of it.
    pub(crate) fn counts(&self) -> Vec<(String, [(&'static str, u64); 3])> {
        let count = |(name, probe): (&String, &Probe)| {
            let Probe { n_identical, n_diverged, n_failed, .. } = *probe;
            let counts =
                [("identical", n_identical), ("diverged", n_diverged), ("failed", n_failed)];
            (name.clone(), counts)
        };
        self.state().all.iter().map(count).collect()
    }

    /// Those that are not what they were.
    pub(crate) fn wrong(&self) -> Vec<ProbeNow> {
        let wrong = |(name, probe): (&String, &Probe)| {
            let last = probe.last.as_ref()?;
            let diverged = last.answers.iter().find_map(|again| match again.verdict {
                Verdict::Diverged { at, .. } => Some((at as u64, again)),
                Verdict::Identical { .. } => None,
            });
            let (at, because, error) = match (diverged, &last.error) {
                (Some((at, again)), _) => {
                    let names = again.differs.iter().map(|factor| factor.name.clone());
                    (Some(at), names.collect(), String::new())
                }
                (None, Some(error)) => (None, Vec::new(), error.clone()),
                (None, None) => return None,
            };
            Some(ProbeNow { name: name.clone(), model: last.model.clone(), at, because, error })
        };
        self.state().all.iter().filter_map(wrong).collect()
    }

    /// How long the one that is to be computed waits that has waited longest; `None` when none does.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        let now = Instant::now();
        let state = self.state();
        state.all.values().filter_map(|probe| now.checked_duration_since(probe.wanted)).max()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks what there is, now and then. Never waits for an idle slot, so that what waits for one is known.
    fn look(&self, app: &App) {
        let Some(home) = app.config.state_folder.as_deref() else { return };
        let last = self.state().looked;
        if last.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        // The disk takes its time, and nobody is to wait for it.
        let found = files(&ProbeFile::folder(home));
        // A load that waits needs models that nobody holds.
        let loaded = if app.models.is_loading() { Vec::new() } else { app.models.loaded() };
        let mut state = self.state();
        state.looked = Some(Instant::now());
        state.take_in(found);
        state.hear_of(&loaded);
    }

    /// The next that is due, by its name and file.
    fn due(&self) -> Option<(String, PathBuf)> {
        let state = self.state();
        let now = Instant::now();
        let due = state.all.iter().filter(|(_, probe)| probe.due <= now);
        due.min_by_key(|(_, probe)| probe.due)
            .map(|(name, probe)| (name.clone(), probe.path.clone()))
    }

    fn note(&self, name: &str, last: Last, next: Duration) {
        let mut state = self.state();
        let Some(probe) = state.all.get_mut(name) else { return };
        let is_same = |again: &Again| matches!(again.verdict, Verdict::Identical { .. });
        match (&last.error, last.answers.iter().all(is_same)) {
            (Some(error), _) => {
                probe.n_failed += 1;
                tracing::error!(probe = name, error, "a probe cannot be computed");
            }
            (None, true) => probe.n_identical += 1,
            (None, false) => {
                probe.n_diverged += 1;
                let differs: Vec<_> =
                    last.answers.iter().flat_map(|again| &again.differs).map(|f| &f.name).collect();
                tracing::error!(probe = name, ?differs, "ALERT: a probe's answer is another one");
            }
        }
        probe.release = last.release.clone();
        // An interval beyond all clocks is never.
        probe.due = Instant::now().checked_add(next).unwrap_or(Instant::now() + NEVER);
        probe.wanted = probe.due;
        probe.n_waits = 0;
        probe.last = Some(last);
    }

    /// Its model is not loaded, or somebody came: it is tried again soon, and later and later while that goes on. Without its
    /// model it does not wait for an idle slot.
    fn wait(&self, name: &str, has_model: bool) {
        if let Some(probe) = self.state().all.get_mut(name) {
            probe.due = Instant::now() + wait_after(probe.n_waits);
            probe.n_waits = probe.n_waits.saturating_add(1);
            if !has_model {
                probe.wanted = probe.due;
            }
        }
    }
}

impl State {
    /// Takes in what came into the folder, and forgets what left it.
    fn take_in(&mut self, found: Files) {
        self.all.retain(|name, probe| {
            found.get(name).is_some_and(|(_, changed)| *changed == probe.changed)
        });
        for (name, (path, changed)) in found {
            self.all.entry(name).or_insert_with(|| Probe {
                path,
                changed,
                release: None,
                due: Instant::now(),
                wanted: Instant::now(),
                n_waits: 0,
                n_identical: 0,
                n_diverged: 0,
                n_failed: 0,
                last: None,
            });
        }
    }

    /// What was computed by a release that no longer serves is due.
    fn hear_of(&mut self, loaded: &[Arc<Runtime>]) {
        for probe in self.all.values_mut() {
            let Some(last) = &probe.last else { continue };
            let release = probe.release.as_deref().unwrap_or_default();
            let runtime = loaded.iter().find(|runtime| runtime.info().name == last.model);
            let serves = |runtime: &Arc<Runtime>| {
                let adapters = runtime.adapters();
                runtime.info().release_hash.to_string() == release
                    || adapters.iter().any(|one| one.release_hash.to_string() == release)
            };
            if runtime.is_some_and(|runtime| !serves(runtime)) {
                probe.due = Instant::now();
                probe.wanted = probe.wanted.min(probe.due);
            }
        }
    }
}

/// The probes in a folder.
fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    // A home without probes has no folder.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_probe = path.extension().is_some_and(|extension| extension == "json");
        let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        if let (true, Some(name)) = (is_probe && found.len() < MAX_PROBES, name) {
            found.insert(name, (path, entry.metadata().and_then(|m| m.modified()).ok()));
        }
    }
    found
}

fn wait_after(n_waits: u32) -> Duration {
    LOOK_EVERY.saturating_mul(2_u32.saturating_pow(n_waits)).min(LONGEST_WAIT)
}

/// Looks which probes there are, and which are due.
pub(crate) fn look(app: &App) {
    if !app.config.probe_interval.is_zero() {
        app.probes.look(app);
    }
}

/// Whether a probe is to be computed.
pub(crate) fn is_due(app: &App) -> bool {
    !app.config.probe_interval.is_zero() && app.probes.due().is_some()
}

/// Computes the next probe in an idle slot; false when none is due.
pub(crate) fn turn(app: &App) -> bool {
    let interval = app.config.probe_interval;
    if interval.is_zero() {
        return false;
    }
    let Some((name, path)) = app.probes.due() else { return false };
    let probe = match ProbeFile::read(&path) {
        Ok(probe) => probe,
        Err(error) => {
            let error = Some(error.to_string());
            let last = Last {
                model: String::new(),
                release: None,
                at_ms: now_ms(),
                answers: Vec::new(),
                error,
            };
            app.probes.note(&name, last, interval);
            return true;
        }
    };
    let Ok(Some(runtime)) = app.models.get(Some(&probe.model)) else {
        app.probes.wait(&name, false);
        return true;
    };
    match compute(app, &runtime, &probe) {
        Ok(None) => app.probes.wait(&name, true),
        Ok(Some(answers)) => {
            let release = Some(runtime.info().release_hash.to_string());
            let last = Last { model: probe.model, release, at_ms: now_ms(), answers, error: None };
            app.probes.note(&name, last, interval);
        }
        Err(error) => {
            let error = Some(error.to_string());
            let release = Some(runtime.info().release_hash.to_string());
            let last =
                Last { model: probe.model, release, at_ms: now_ms(), answers: Vec::new(), error };
            app.probes.note(&name, last, interval);
        }
    }
    true
}

/// All answers of a probe; `None` when somebody came meanwhile.
fn compute(
    app: &App,
    runtime: &Runtime,
    probe: &ProbeFile,
) -> Result<Option<Vec<Again>>, ReplayError> {
    let mut answers = Vec::new();
    for recorded in probe.bundle.recorded(None)? {
        let begin = || {
            recorded
                .begin_again(runtime, mint_id(), Priority::Background)
                .map(|stream| vec![stream])
        };
        let read = |streams: Vec<GenerateStream>| {
            let verdict = streams.into_iter().map(|stream| recorded.verdict(stream)).next();
            verdict.unwrap_or(Err(ReplayError::Ended))
        };
        match app.idle.run(begin, read)? {
            None => return Ok(None),
            Some(verdict) => answers.push(recorded.again(runtime, verdict?)),
        }
    }
    Ok(Some(answers))
}

#[cfg(test)]
mod tests {
    use super::wait_after;

    #[test]
    fn an_interrupted_probe_waits_longer_each_time_up_to_a_minute() {
        let waits: Vec<u64> = (0..8).map(|n| wait_after(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(wait_after(u32::MAX).as_secs(), 60);
    }
}
