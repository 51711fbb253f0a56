//! Whether answers are as usual: every answer of a server goes through the detectors, model by model.
//!
//! What is usual is learned from a model's first answers and kept in a file; from then on it belongs to the release that gave
//! them, until an operator forgets it. While it spans less than two weeks, or fewer than ten days with answers, it goes on to
//! learn, because it has not seen every hour of a week; but nothing that an open alert is about, at hours that are known.
//!
//! Sinks are told when an alert opens, goes on for long, or is over. With sinks, alerts that are open outlive a restart.
//!
//! It must never be waited for: an answer that finds the queue full is not watched, and counted.
//!
//! Start reading at [`Monitors::observer`], then `model_monitor`.

mod acts;
mod shapes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lastmile::{AnswerBegun, Observer, RequestEvent, RequestId, StepEvent};

use crate::alert_board::ToldAlarm;
use crate::attendant::{AttendantStanding, Next, Pulse, attend};
use crate::baseline_file::BaselineFile;
use crate::model_monitor::{Follows, Model, ModelStanding, Rules};
use crate::now_ms;
use crate::seen::Seen;
use crate::sinks::{Message, OPEN_ALERTS, SinkStanding, Sinks};

pub use acts::{MonitorAction, MonitorEntry};
pub(crate) use shapes::Recent;
pub use shapes::{Group, SignalShape, Spread};

/// Answers that may wait to be looked at.
const QUEUE: usize = 4096;
/// How often it is looked for alerts that are over.
const TICK: Duration = Duration::from_secs(1);

/// The monitors of one server. Clones share them.
#[derive(Clone)]
pub struct Monitors(Arc<Inner>);

/// How a server's monitors are to be.
pub struct MonitorOptions {
    /// Where baselines are kept.
    pub folder: PathBuf,
    /// A model is watched after so many answers.
    pub n_baseline: u64,
    /// How often sinks are told again of an alert that goes on; zero is never.
    pub renotify: Duration,
    /// Who is told of alerts, besides the page and the log.
    pub sinks: Option<Sinks>,
}

struct Inner {
    sender: SyncSender<Seen>,
    models: Mutex<BTreeMap<String, Model>>,
    n_dropped: AtomicU64,
    folder: PathBuf,
    rules: Rules,
    sinks: Option<Sinks>,
    /// What operators do is done and written down one after the other.
    acts: Mutex<()>,
    pulse: Arc<Pulse>,
}

impl Monitors {
    /// Watches with the baselines of a folder, and with the alerts that were open when an earlier server ended.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(options: MonitorOptions) -> std::io::Result<Monitors> {
        let (sender, receiver) = sync_channel(QUEUE);
        let MonitorOptions { folder, n_baseline, renotify, sinks } = options;
        let renotify_ms = i64::try_from(renotify.as_millis()).unwrap_or(i64::MAX);
        let rules = Rules { n_baseline, renotify_ms };
        let pulse = Pulse::new("lm-monitors");
        let inner = Arc::new(Inner {
            sender,
            models: Mutex::new(reopened(&folder, rules, sinks.as_ref())),
            n_dropped: AtomicU64::new(0),
            folder,
            rules,
            sinks,
            acts: Mutex::default(),
            pulse: Arc::clone(&pulse),
        });
        let (weak, mut ticked) = (Arc::downgrade(&inner), Instant::now());
        attend(pulse, move || watch(&receiver, &weak, &mut ticked))?;
        Ok(Monitors(inner))
    }

    /// How the thread is that looks at answers.
    #[must_use]
    pub fn attendant(&self) -> AttendantStanding {
        self.0.pulse.standing()
    }

    /// Who is told of alerts, besides the page and the log; `None` is nobody.
    #[must_use]
    pub fn alert_sinks(&self) -> Option<&Sinks> {
        self.0.sinks.as_ref()
    }

    /// How often sinks are told again of what goes on, in milliseconds; 0 is never.
    #[must_use]
    pub fn renotify_ms(&self) -> i64 {
        self.0.rules.renotify_ms
    }

    /// Hears what `observer` hears, after it.
    #[must_use]
    pub fn observer(&self, observer: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(Watching { observer, monitors: self.clone() })
    }

    /// How every model stands.
    #[must_use]
    pub fn standing(&self) -> Vec<ModelStanding> {
        self.0.models().iter().map(|(name, model)| model.standing(name)).collect()
    }

    /// Alerts that are not over, the newest first; none of a model that is paused.
    #[must_use]
    pub fn alarms(&self) -> Vec<ToldAlarm> {
        let models = self.0.models();
        let told = models.values().filter(|model| !model.is_paused());
        let all = told.flat_map(|model| model.board.open());
        let mut all: Vec<ToldAlarm> = all.cloned().collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.at_ms));
        all
    }

    /// How every sink stands.
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkStanding> {
        self.0.sinks.as_ref().map(Sinks::standing).unwrap_or_default()
    }

    /// Ends the sinks' threads; what was not delivered is kept for the next server. Takes `within` at most, beside the disk.
    pub fn close_sinks(&self, within: Duration) {
        if let Some(sinks) = &self.0.sinks {
            sinks.close(within);
        }
    }

    /// Somebody said of a model's answer whether it is bad.
    pub(crate) fn rated(&self, model: String, release: String, id: RequestId, is_bad: bool) {
        self.offer(Seen::rating(model, release, id, is_bad, now_ms()));
    }

    fn offer(&self, seen: Seen) {
        if self.0.sender.try_send(seen).is_err() {
            self.0.n_dropped.fetch_add(1, Relaxed);
        }
    }

    /// Answers that found the queue full.
    #[must_use]
    pub fn n_dropped(&self) -> u64 {
        self.0.n_dropped.load(Relaxed)
    }

    /// Does what an operator asks for and writes it down; a pause holds until it is resumed, by any server of the home. Says how
    /// the model stands then; `None` when there is nothing to do it to: no answer of the model came yet, or nothing is usual of it.
    ///
    /// # Errors
    /// It cannot be written down, and is not done; what is usual cannot be removed.
    pub fn act(&self, entry: &MonitorEntry) -> std::io::Result<Option<&'static str>> {
        let inner = &self.0;
        let _one = inner.acts.lock().unwrap_or_else(PoisonError::into_inner);
        let (folder, name) = (inner.folder.as_path(), entry.model.as_str());
        let is_seen = inner.models().contains_key(name);
        if entry.action == MonitorAction::Forget {
            if !is_seen && !BaselineFile::is_there(folder, name) {
                return Ok(None);
            }
            acts::note(folder, entry)?;
            inner.forget(name)?;
            return Ok(Some("learning"));
        }
        if !is_seen {
            return Ok(None);
        }
        acts::note(folder, entry)?;
        let paused = (entry.action == MonitorAction::Pause).then(|| entry.clone());
        Ok(inner.models().get_mut(name).map(|model| model.pause(paused)))
    }

    /// What operators did, the newest first; at most `limit`. Blocks.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn audit(&self, limit: usize) -> std::io::Result<Vec<MonitorEntry>> {
        acts::newest(&self.0.folder, limit)
    }
}

impl Inner {
    fn models(&self) -> MutexGuard<'_, BTreeMap<String, Model>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, seen: Seen) {
        let mut models = self.models();
        let name = seen.model.clone();
        let model = models
            .entry(name.clone())
            .or_insert_with(|| Model::open(&self.folder, &name, self.rules, Vec::new()));
        let Follows { is_to_keep, is_noticed, messages } = model.see(seen);
        let kept = is_to_keep.then(|| model.usual.clone());
        self.tell(&messages);
        if is_noticed {
            self.keep_open(&models);
        }
        drop(models);
        // Pages and metrics do not wait for the disk.
        if let Some(usual) = kept
            && let Err(error) = usual.write(&self.folder, &name)
        {
            tracing::error!(%error, "what is usual cannot be kept");
        }
    }

    /// Looks for alerts that are over.
    fn tick(&self) {
        let (mut models, now_ms) = (self.models(), now_ms());
        let over = models.values_mut().flat_map(|model| model.tick(now_ms));
        let over: Vec<Message> = over.collect();
        self.tell(&over);
        if !over.is_empty() {
            self.keep_open(&models);
        }
    }

    /// What is usual of a model is learned anew.
    fn forget(&self, name: &str) -> std::io::Result<()> {
        let mut models = self.models();
        BaselineFile::remove(&self.folder, name)?;
        models.remove(name);
        self.keep_open(&models);
        Ok(())
    }

    /// The log and the sinks, which never make anybody wait.
    fn tell(&self, messages: &[Message]) {
        for Message { kind, body, .. } in messages {
            match kind.as_str() {
                "alert.opened" => tracing::error!(alert = body, "ALERT: answers are not as usual"),
                _ => tracing::warn!(alert = body, "{kind}"),
            }
        }
        if let Some(sinks) = &self.sinks {
            messages.iter().for_each(|message| sinks.offer(message));
        }
    }

    fn keep_open(&self, models: &BTreeMap<String, Model>) {
        let Some(sinks) = &self.sinks else { return };
        let open: Vec<&ToldAlarm> = models.values().flat_map(|model| model.board.open()).collect();
        match serde_json::to_string(&open) {
            Ok(open) => sinks.keep(OPEN_ALERTS, open),
            Err(error) => tracing::error!(%error, "open alerts cannot be kept"),
        }
    }
}

/// Models that are paused, or of which alerts were open when earlier servers ended.
fn reopened(folder: &Path, rules: Rules, sinks: Option<&Sinks>) -> BTreeMap<String, Model> {
    let mut by_model: BTreeMap<String, Vec<ToldAlarm>> = BTreeMap::new();
    for told in sinks.map(open_before).unwrap_or_default() {
        by_model.entry(told.model.clone()).or_default().push(told);
    }
    let paused = acts::paused(folder).unwrap_or_else(|error| {
        tracing::error!(%error, "which models are paused cannot be read: all are watched");
        BTreeMap::new()
    });
    for entry in paused.values() {
        let MonitorEntry { model, who, reason, .. } = entry;
        tracing::warn!(model, who, reason, "monitors are paused since before the start");
        by_model.entry(model.clone()).or_default();
    }
    let model = |(name, open): (String, Vec<ToldAlarm>)| {
        let mut model = Model::open(folder, &name, rules, open);
        model.pause(paused.get(&name).cloned());
        (name, model)
    };
    by_model.into_iter().map(model).collect()
}

/// Which alerts were open when earlier servers ended; from now on kept in one place.
fn open_before(sinks: &Sinks) -> Vec<ToldAlarm> {
    let kept = sinks.kept(OPEN_ALERTS);
    let open = joined(&kept);
    if kept.len() > 1 {
        let folded = serde_json::to_string(&open).map_err(std::io::Error::other);
        if let Err(error) = folded.and_then(|open| sinks.fold(OPEN_ALERTS, &open)) {
            tracing::error!(%error, "open alerts of several servers cannot be kept as one");
        }
    }
    open
}

/// Every alert once, as it was noticed last.
fn joined(kept: &[String]) -> Vec<ToldAlarm> {
    let mut open: Vec<ToldAlarm> = Vec::new();
    for kept in kept {
        let told: Vec<ToldAlarm> = serde_json::from_str(kept).unwrap_or_else(|error| {
            tracing::error!(%error, "which alerts were open cannot be read");
            Vec::new()
        });
        for told in told {
            let is_it = |one: &&mut ToldAlarm| {
                one.model == told.model && one.signal == told.signal && one.how == told.how
            };
            match open.iter_mut().find(is_it) {
                Some(known) if known.at_ms >= told.at_ms => {}
                Some(known) => *known = told,
                None => open.push(told),
            }
        }
    }
    open
}

struct Watching {
    observer: Arc<dyn Observer>,
    monitors: Monitors,
}

impl Observer for Watching {
    fn record(&self, event: &RequestEvent) {
        self.observer.record(event);
        if Seen::is_watched(event) {
            self.monitors.offer(Seen::of(event));
        }
    }

    fn wants_steps(&self) -> bool {
        self.observer.wants_steps()
    }

    fn began(&self, begun: &AnswerBegun<'_>) {
        self.observer.began(begun);
    }

    fn stepped(&self, step: &StepEvent<'_>) {
        self.observer.stepped(step);
    }
}

/// One answer, or one look for alerts that are over.
fn watch(receiver: &Receiver<Seen>, inner: &Weak<Inner>, ticked: &mut Instant) -> Next {
    // The sender lives in what is shared, so that this ends with the last handle.
    let seen = receiver.recv_timeout(TICK).ok();
    let Some(inner) = inner.upgrade() else { return Next::Over };
    if let Some(seen) = seen {
        inner.see(seen);
    }
    if ticked.elapsed() >= TICK {
        *ticked = Instant::now();
        inner.tick();
    }
    Next::Round
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Instant;

    use super::*;
    use crate::AlertState;
    use crate::sinks::SinkSettings;

    fn monitors(home: &Path) -> Monitors {
        // Nobody listens at port 1.
        let settings = SinkSettings::new(&["http://127.0.0.1:1/".to_owned()], None, &[]).unwrap();
        Monitors::start(MonitorOptions {
            folder: home.join("monitors"),
            n_baseline: 500,
            renotify: Duration::ZERO,
            sinks: Some(Sinks::start(settings, &home.join("alerts")).unwrap()),
        })
        .unwrap()
    }

    fn entry(action: MonitorAction) -> MonitorEntry {
        let (who, reason) = ("ana".to_owned(), "a new prompt".to_owned());
        MonitorEntry { at_ms: now_ms(), who, action, model: "m".to_owned(), reason }
    }

    #[test]
    fn a_pause_outlives_a_restart_until_it_is_resumed() {
        let home = tempfile::tempdir().unwrap();
        let start = || {
            Monitors::start(MonitorOptions {
                folder: home.path().to_owned(),
                n_baseline: 500,
                renotify: Duration::ZERO,
                sinks: None,
            })
            .unwrap()
        };
        let first = start();
        let pause = entry(MonitorAction::Pause);
        assert_eq!(first.act(&pause).unwrap(), None, "no answer of it came yet");
        assert!(first.audit(10).unwrap().is_empty());
        first.rated("m".to_owned(), "r".to_owned(), RequestId(1), false);
        let began = Instant::now();
        while first.standing().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20), "the rating is not seen");
            std::thread::yield_now();
        }
        assert_eq!(first.act(&pause).unwrap(), Some("paused"));
        drop(first);
        let second = start();
        let standing = second.standing();
        assert_eq!((standing.len(), standing[0].state), (1, "paused"));
        assert_eq!(standing[0].paused, Some(pause.clone()));
        let resume = entry(MonitorAction::Resume);
        assert_eq!(second.act(&resume).unwrap(), Some("learning"));
        drop(second);
        let third = start();
        assert!(third.standing().is_empty());
        assert_eq!(third.audit(10).unwrap(), [resume, pause]);
    }

    fn told(model: &str, at_ms: i64) -> ToldAlarm {
        ToldAlarm {
            state: AlertState::Alert,
            since_ms: at_ms,
            at_ms,
            model: model.to_owned(),
            signal: "refusal".to_owned(),
            how: "higher".to_owned(),
            began_ago: 7,
            n_again: 2,
            examples: vec!["one".to_owned()],
            release: "new".to_owned(),
            usual_of: "old".to_owned(),
            is_provisional: true,
        }
    }

    fn keep(monitors: &Monitors, open: &[ToldAlarm]) {
        let kept = serde_json::to_string(open).unwrap();
        monitors.0.sinks.as_ref().unwrap().keep(OPEN_ALERTS, kept);
        monitors.close_sinks(Duration::from_secs(20));
    }

    #[test]
    fn whoever_takes_over_from_several_servers_knows_the_open_alerts_of_all() {
        let home = tempfile::tempdir().unwrap();
        let now_ms = now_ms();
        let (first, second) = (monitors(home.path()), monitors(home.path()));
        keep(&first, &[told("m", now_ms - 5), told("a", now_ms)]);
        keep(&second, &[told("m", now_ms), told("b", now_ms)]);
        drop((first, second));
        let file = |name: &str| home.path().join("alerts").join(name);
        // Their threads may hold the last handles for a moment.
        let is_free = |slot: &str| {
            std::fs::File::open(file(slot).join("owner.lock")).unwrap().try_lock().is_ok()
        };
        let began = Instant::now();
        while !(is_free("0") && is_free("1")) {
            assert!(began.elapsed() < Duration::from_secs(20), "the folders are not free");
            std::thread::sleep(Duration::from_millis(5));
        }
        let third = monitors(home.path());
        let by_model = |mut open: Vec<ToldAlarm>| {
            open.sort_by(|a, b| a.model.cmp(&b.model));
            open
        };
        let all = [told("a", now_ms), told("b", now_ms), told("m", now_ms)];
        assert_eq!(by_model(third.alarms()), all);
        // In one place, so that nobody takes them up again when they are over.
        let kept = std::fs::read_to_string(file("0/open.json")).unwrap();
        assert_eq!(by_model(serde_json::from_str(&kept).unwrap()), all);
        assert!(!file("0/open-1.json").exists() && !file("1/open.json").exists());
    }

    #[test]
    fn an_open_alert_outlives_a_restart_until_it_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let told = told("m", now_ms());
        let first = monitors(home.path());
        assert!(first.alarms().is_empty());
        keep(&first, std::slice::from_ref(&told));
        drop(first);
        // The thread of the first may hold the last handle for a moment.
        let began = Instant::now();
        let second = loop {
            let next = monitors(home.path());
            if !next.alarms().is_empty() || began.elapsed() > Duration::from_secs(20) {
                break next;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(second.alarms(), [told]);
        assert_eq!(second.standing()[0].signals["refusal"], "alert");
        assert_eq!(second.act(&entry(MonitorAction::Forget)).unwrap(), Some("learning"));
        second.close_sinks(Duration::from_secs(20));
        drop(second);
        let open = home.path().join("alerts/0/open.json");
        assert_eq!(std::fs::read_to_string(open).unwrap(), "[]");
    }
}
