//! Whether answers are as usual: every answer of a server goes through the detectors, model by model.
//!
//! What is usual is learned from a model's first answers and kept in a file; from then on it belongs to the release that gave
//! them, until an operator forgets it. While it spans less than two weeks it goes on to learn what is not unusual, because
//! it has not seen every hour of a week.
//!
//! It must never be waited for: an answer that finds the queue full is not watched, and counted.
//!
//! Start reading at [`Monitors::observer`], then `Model::see`.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lastmile::{AnswerBegun, Observer, RequestEvent, RequestId, StepEvent};
use lm_feedback::is_refusal;
use lm_monitor::{Alarm, Baseline, N_SIGNALS, Promise, Signal, Standing, Watcher};
use serde::Serialize;

use crate::baseline_file::BaselineFile;
use crate::now_ms;
use crate::seen::Seen;

/// Answers that may wait to be looked at.
const QUEUE: usize = 4096;
const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// A baseline that spans this has seen every hour twice.
const RIPE_MS: i64 = 2 * WEEK_MS;
/// False alarms in a week, over all signals of a model.
const FALSE_ALARMS_PER_WEEK: f64 = 0.5;
/// Windows are closed so often; together they may err this often in a day.
const WINDOW_MS: i64 = 5 * 60 * 1000;
const WINDOW_ALPHA_A_DAY: f64 = 0.05;
const MAX_ALARMS: usize = 100;
/// Answers learned from that a restart may lose.
const KEPT_EVERY: u64 = 100;
/// How long an alarm is told of.
const TOLD_MS: i64 = 60 * 60 * 1000;

/// The monitors of one server. Clones share them.
#[derive(Clone)]
pub struct Monitors(Arc<Inner>);

struct Inner {
    sender: SyncSender<Seen>,
    models: Mutex<BTreeMap<String, Model>>,
    n_dropped: AtomicU64,
    folder: PathBuf,
    /// Answers without which nothing is usual.
    n_baseline: u64,
}

struct Model {
    usual: BaselineFile,
    watcher: Option<Watcher>,
    n_seen: u64,
    release: String,
    window_at_ms: i64,
    alarms: VecDeque<ToldAlarm>,
    counts: [u64; N_SIGNALS],
}

/// Something that is not as usual.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToldAlarm {
    /// When it was noticed last, in Unix milliseconds.
    pub at_ms: i64,
    /// Of which model.
    pub model: String,
    /// What is not as usual.
    pub signal: &'static str,
    /// `higher`, `lower` or `otherwise distributed`.
    pub how: &'static str,
    /// How many answers ago it began, as far as can be said.
    pub began_ago: u64,
    /// How often it was noticed again since, each within an hour of the time before.
    pub n_again: u64,
    /// The requests that are most unlike what is usual.
    pub examples: Vec<String>,
    /// The release that answers.
    pub release: String,
    /// The release that what is usual is of.
    pub usual_of: String,
    /// Whether what is usual spans less than two weeks.
    pub is_provisional: bool,
}

/// How a model stands.
#[derive(Clone, Debug, Serialize)]
pub struct ModelStanding {
    /// The model's name as served.
    pub model: String,
    /// `learning` or `watching`.
    pub state: &'static str,
    /// Answers that what is usual was learned from.
    pub baseline_answers: u64,
    /// Answers that are needed.
    pub baseline_needs: u64,
    /// The release that they are of.
    pub usual_of: String,
    /// Whether they span less than two weeks.
    pub is_provisional: bool,
    /// Answers seen since the start.
    pub seen: u64,
    /// `unknown`, `ok` or `warning`, by signal.
    pub signals: BTreeMap<&'static str, &'static str>,
    /// Alarms since the start, by signal.
    pub alarm_counts: BTreeMap<&'static str, u64>,
    /// The newest first.
    pub alarms: Vec<ToldAlarm>,
}

impl Monitors {
    /// Watches with the baselines of a folder; a model is watched after its first `n_baseline` answers.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(folder: &Path, n_baseline: u64) -> std::io::Result<Monitors> {
        let (sender, receiver) = sync_channel(QUEUE);
        let inner = Arc::new(Inner {
            sender,
            models: Mutex::default(),
            n_dropped: AtomicU64::new(0),
            folder: folder.to_owned(),
            n_baseline,
        });
        let weak = Arc::downgrade(&inner);
        let watch = move || watch(&receiver, &weak);
        std::thread::Builder::new().name("lm-monitors".to_owned()).spawn(watch)?;
        Ok(Monitors(inner))
    }

    /// Hears what `observer` hears, after it.
    #[must_use]
    pub fn observer(&self, observer: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(Watching { observer, monitors: self.clone() })
    }

    /// How every model stands.
    #[must_use]
    pub fn standing(&self) -> Vec<ModelStanding> {
        let needs = self.0.n_baseline;
        self.0.models().iter().map(|(name, model)| model.standing(name, needs)).collect()
    }

    /// Alarms of the last hour, the newest first.
    #[must_use]
    pub fn alarms(&self) -> Vec<ToldAlarm> {
        let now = now_ms();
        let models = self.0.models();
        let all = models.values().flat_map(|model| &model.alarms);
        let mut all: Vec<ToldAlarm> = all.filter(|one| is_fresh(one.at_ms, now)).cloned().collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.at_ms));
        all
    }

    /// Answers that found the queue full.
    #[must_use]
    pub fn n_dropped(&self) -> u64 {
        self.0.n_dropped.load(Relaxed)
    }

    /// Forgets what is usual of a model: it is learned anew. Whether there was anything to forget.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(&self, model: &str) -> std::io::Result<bool> {
        let mut models = self.0.models();
        let was_there = BaselineFile::remove(&self.0.folder, model)?;
        Ok(models.remove(model).is_some() || was_there)
    }
}

impl Inner {
    fn models(&self) -> MutexGuard<'_, BTreeMap<String, Model>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, seen: Seen) {
        let mut models = self.models();
        let model = models
            .entry(seen.model.clone())
            .or_insert_with(|| Model::open(&self.folder, &seen.model, self.n_baseline));
        let name = seen.model.clone();
        let kept = model.see(seen, self.n_baseline).then(|| model.usual.clone());
        drop(models);
        // Pages and metrics do not wait for the disk.
        if let Some(usual) = kept
            && let Err(error) = usual.write(&self.folder, &name)
        {
            tracing::error!(%error, "what is usual cannot be kept");
        }
    }
}

struct Watching {
    observer: Arc<dyn Observer>,
    monitors: Monitors,
}

impl Observer for Watching {
    fn record(&self, event: &RequestEvent) {
        self.observer.record(event);
        if !Seen::is_watched(event) {
            return;
        }
        if self.monitors.0.sender.try_send(Seen::of(event)).is_err() {
            self.monitors.0.n_dropped.fetch_add(1, Relaxed);
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

fn watch(receiver: &Receiver<Seen>, inner: &std::sync::Weak<Inner>) {
    loop {
        // The sender lives in what is shared, so that this ends with the last handle.
        match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok(seen) => match inner.upgrade() {
                Some(inner) => inner.see(seen),
                None => return,
            },
            Err(_) if inner.strong_count() == 0 => return,
            Err(_) => {}
        }
    }
}

impl Model {
    fn open(folder: &Path, name: &str, n_baseline: u64) -> Model {
        let usual = BaselineFile::read(folder, name).unwrap_or_else(|error| {
            tracing::error!(%error, model = name, "what is usual is learned anew");
            BaselineFile::default()
        });
        let watcher = (usual.n_answers >= n_baseline).then(|| watcher(&usual));
        Model {
            usual,
            watcher,
            n_seen: 0,
            release: String::new(),
            window_at_ms: 0,
            alarms: VecDeque::new(),
            counts: [0; N_SIGNALS],
        }
    }

    /// Whether what is usual is to be kept.
    fn see(&mut self, mut seen: Seen, n_baseline: u64) -> bool {
        if let Some(opening) = &seen.opening {
            let refuses = f64::from(u8::from(is_refusal(opening)));
            seen.reading.values[Signal::Refusal as usize] = Some(refuses);
        }
        self.n_seen += 1;
        self.release.clone_from(&seen.release);
        let Some(watcher) = &mut self.watcher else {
            return self.learn(&seen, n_baseline);
        };
        let mut found = watcher.add(&seen.reading);
        // The clock may have gone back.
        if (seen.at_ms - self.window_at_ms).abs() >= WINDOW_MS {
            self.window_at_ms = seen.at_ms;
            let windows_a_day = (24 * 60 * 60 * 1000 / WINDOW_MS) as f64;
            let alpha = WINDOW_ALPHA_A_DAY / (windows_a_day * N_SIGNALS as f64);
            found.extend(watcher.close_window(alpha));
        }
        let is_unusual = !found.is_empty()
            || Signal::ALL.into_iter().any(|signal| watcher.standing(signal) == Standing::Warning);
        found.iter().for_each(|alarm| self.tell(alarm, &seen));
        let is_usual = !is_unusual && self.usual.release == seen.release;
        is_usual && self.usual.span_ms() < RIPE_MS && self.learn(&seen, n_baseline)
    }

    /// Whether what is usual is to be kept.
    fn learn(&mut self, seen: &Seen, n_baseline: u64) -> bool {
        self.usual.add(&seen.reading, seen.at_ms, &seen.release);
        let n = self.usual.n_answers;
        // Limits are set anew each time that twice as much is known; sums begin anew with them.
        if n >= n_baseline && n.is_multiple_of(n_baseline) && (n / n_baseline).is_power_of_two() {
            if self.watcher.is_none() {
                let model = &seen.model;
                tracing::info!(model, n, "what is usual is known: answers are watched");
            }
            self.watcher = Some(watcher(&self.usual));
            return true;
        }
        n.is_multiple_of(KEPT_EVERY)
    }

    fn tell(&mut self, alarm: &Alarm, seen: &Seen) {
        let how = match alarm.is_up {
            Some(true) => "higher",
            Some(false) => "lower",
            None => "otherwise distributed",
        };
        let told = ToldAlarm {
            at_ms: now_ms(),
            model: seen.model.clone(),
            signal: alarm.signal.as_str(),
            how,
            began_ago: alarm.began_ago,
            n_again: 0,
            examples: alarm.examples.iter().map(|id| RequestId(*id).to_string()).collect(),
            release: seen.release.clone(),
            usual_of: self.usual.release.clone(),
            is_provisional: self.usual.span_ms() < RIPE_MS,
        };
        self.counts[alarm.signal as usize] += 1;
        let is_told = |one: &&mut ToldAlarm| {
            one.signal == told.signal && one.how == told.how && is_fresh(one.at_ms, told.at_ms)
        };
        if let Some(known) = self.alarms.iter_mut().find(is_told) {
            // It goes on.
            (known.at_ms, known.n_again) = (told.at_ms, known.n_again + 1);
            return;
        }
        let (model, signal, began_ago) = (&told.model, told.signal, told.began_ago);
        tracing::error!(model, signal, how, began_ago, "ALERT: answers are not as usual");
        self.alarms.push_front(told);
        self.alarms.truncate(MAX_ALARMS);
    }

    fn standing(&self, name: &str, needs: u64) -> ModelStanding {
        let word = |signal: Signal| match self.watcher.as_ref().map(|w| w.standing(signal)) {
            None | Some(Standing::Unknown) => "unknown",
            Some(Standing::Ok) => "ok",
            Some(Standing::Warning) => "warning",
        };
        let signals = Signal::ALL.into_iter();
        let counts = signals.clone().map(|one| (one.as_str(), self.counts[one as usize]));
        ModelStanding {
            model: name.to_owned(),
            state: if self.watcher.is_some() { "watching" } else { "learning" },
            baseline_answers: self.usual.n_answers,
            baseline_needs: needs,
            usual_of: self.usual.release.clone(),
            is_provisional: self.usual.span_ms() < RIPE_MS,
            seen: self.n_seen,
            signals: signals.map(|one| (one.as_str(), word(one))).collect(),
            alarm_counts: counts.collect(),
            alarms: self.alarms.iter().cloned().collect(),
        }
    }
}

/// The clock may have gone back.
fn is_fresh(at_ms: i64, now_ms: i64) -> bool {
    (now_ms - at_ms).abs() < TOLD_MS
}

fn watcher(usual: &BaselineFile) -> Watcher {
    let span_ms = usual.span_ms().max(1) as f64;
    // A burst says little of a week; more answers make the limits higher, so the guess is on the safe side.
    let answers_per_week = (usual.n_answers as f64 * WEEK_MS as f64 / span_ms).clamp(1e3, 1e8);
    let promise = Promise { false_alarms_per_week: FALSE_ALARMS_PER_WEEK, answers_per_week };
    let baseline: &Baseline = &usual.baseline;
    Watcher::new(baseline, promise)
}
