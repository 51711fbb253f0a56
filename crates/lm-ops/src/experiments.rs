//! Experiments, as a server needs them: what runs now, and a thread that weighs what came and acts on it.
//!
//! It must never be waited for on the way of a request but for what runs, which lies in memory: what writes or reads the
//! file blocks, and belongs on a thread of its own.
//!
//! Start reading at [`Experiments::live`], then [`Keeper::round`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use lm_api::ApiError;
use lm_experiment::{
    Advice, Book, Experiment, ExperimentError, Live, Metric, Promote, Report, Stage, Status,
};
use lm_feedback::{Answer, Kind, json_of, signals};
use lm_store::{Answered, BookWatch, Reader, Store};
use serde::Serialize;

use crate::attendant::{AttendantStanding, Next, Pulse, attend};
use crate::losses::{Losses, Troubled};
use crate::now_ms;
use crate::refusals::experiment_refusal;

/// How often it is looked whether somebody else wrote to the file, and what came is weighed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Who acts when nobody does.
const BY_EVIDENCE: &str = "the evidence";

/// The experiments of one server. Clones share them.
#[derive(Clone)]
pub struct Experiments(Arc<Inner>);

struct Inner {
    book: Mutex<Book>,
    live: RwLock<Arc<Vec<Live>>>,
    /// Held from reading the file to noting what was read, so that nothing older is noted after it.
    reloading: Mutex<()>,
    rolled_back: RwLock<Arc<Vec<RolledBack>>>,
    losses: Losses,
    /// Whose lot is not as drawn, and how.
    mismatches: Mutex<BTreeMap<String, String>>,
    books: Vec<PathBuf>,
    pulse: Arc<Pulse>,
}

/// An experiment that the evidence ended, and after which none began about the same model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RolledBack {
    /// Its name.
    pub experiment: String,
    /// The model whose requests it was about.
    pub model: String,
    /// How far it was.
    pub stage: Stage,
    /// Why it was ended.
    pub why: String,
    /// Unix milliseconds.
    pub at_ms: i64,
}

impl Experiments {
    /// Opens the file of experiments. `books` is where fixes may be, whose gates hold automatic promotion back.
    ///
    /// # Errors
    /// The file cannot be used.
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn open(
        path: &Path,
        books: &[PathBuf],
        store: &Store,
    ) -> Result<Experiments, ExperimentError> {
        let book = Book::open(path)?;
        let live = RwLock::new(Arc::new(book.live()?));
        let rolled_back = RwLock::new(Arc::new(rolled_back(&book)?));
        let (pulse, books) = (Pulse::new("lm-experiments"), books.to_vec());
        let inner = Arc::new(Inner {
            book: Mutex::new(book),
            live,
            reloading: Mutex::default(),
            rolled_back,
            losses: Losses::default(),
            mismatches: Mutex::default(),
            books: books.clone(),
            pulse: Arc::clone(&pulse),
        });
        let mut keeper = Keeper {
            inner: Arc::downgrade(&inner),
            book: Book::open(path)?,
            store: store.clone(),
            books,
            watch: BookWatch::new(path),
            generation: -1,
            n_looks: 0,
        };
        attend(pulse, move || keeper.round()).expect("the system has a thread for experiments");
        Ok(Experiments(inner))
    }

    /// How the thread is that weighs what came.
    #[must_use]
    pub fn attendant(&self) -> AttendantStanding {
        self.0.pulse.standing()
    }

    /// Experiments that the evidence ended, and that nothing took the place of.
    #[must_use]
    pub fn rolled_back(&self) -> Arc<Vec<RolledBack>> {
        Arc::clone(&self.0.rolled_back.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Experiments that run, and whose candidate cannot answer or whose lot is not as drawn.
    #[must_use]
    pub fn troubled(&self) -> Vec<Troubled> {
        let mismatches = self.0.mismatches().clone();
        let of = |one: &Live| {
            let name = &one.spec.name;
            let why = self.0.losses.told(name).or_else(|| mismatches.get(name).cloned())?;
            let (experiment, model) = (name.clone(), one.spec.model.clone());
            Some(Troubled { experiment, model, stage: one.stage, why })
        };
        self.live().iter().filter_map(of).collect()
    }

    /// A request that was drawn for the candidate, which could not answer it. After ten in a row an alert tells; when they
    /// went on for two minutes, the experiment is rolled back.
    pub fn lost(&self, experiment: &str, why: &str, at_ms: i64) {
        self.0.losses.lost(experiment, why, at_ms);
    }

    /// Whether the candidate could not answer ten in a row: nobody should wait for it.
    #[must_use]
    pub fn is_losing(&self, experiment: &str) -> bool {
        self.0.losses.is_losing(experiment)
    }

    /// A request that the candidate could take.
    pub fn answers(&self, experiment: &str) {
        self.0.losses.answers(experiment);
    }

    /// What decides who answers now. Never waits.
    #[must_use]
    pub fn live(&self) -> Arc<Vec<Live>> {
        self.0.live()
    }

    /// Whether a gate stands in the way of a promotion here.
    ///
    /// # Errors
    /// Where it can be passed.
    pub fn gate(&self) -> Result<(), String> {
        match has_gates(&self.0.books) {
            true => Err("verified fixes have gates: `lastmile exp promote` asks them".to_owned()),
            false => Ok(()),
        }
    }

    /// Changes or reads the experiments; changes hold when this returns. Blocks.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn act<T>(
        &self,
        act: impl FnOnce(&mut Book) -> Result<T, ExperimentError>,
    ) -> Result<T, ApiError> {
        let mut book = self.0.book.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut book).map_err(experiment_refusal)?;
        self.0.reload(&book).map_err(experiment_refusal)?;
        Ok(done)
    }
}

impl Inner {
    fn live(&self) -> Arc<Vec<Live>> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn mismatches(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.mismatches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether an experiment's lot is as drawn.
    fn note_lot(&self, report: &Report) {
        let is_off = report.sample_ratio_mismatch || report.ratings_mismatch;
        let before = match is_off {
            true => self.mismatches().insert(report.name.clone(), report.advice.why().to_owned()),
            false => self.mismatches().remove(&report.name),
        };
        if is_off && before.is_none() {
            let (experiment, why) = (&report.name, report.advice.why());
            tracing::error!(experiment, why, "ALERT: an experiment is not as drawn");
        }
    }

    fn reload(&self, book: &Book) -> Result<(), ExperimentError> {
        let _reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let (live, rolled_back) = (Arc::new(book.live()?), Arc::new(rolled_back(book)?));
        let runs = |name: &str| live.iter().any(|one| one.spec.name == name);
        self.losses.keep(runs);
        self.mismatches().retain(|name, _| runs(name));
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        *self.rolled_back.write().unwrap_or_else(PoisonError::into_inner) = rolled_back;
        Ok(())
    }
}

fn cannot(what: &str, error: &ExperimentError) -> String {
    format!("{what}: {error}")
}

/// What a person took back, that person knows of.
fn rolled_back(book: &Book) -> Result<Vec<RolledBack>, ExperimentError> {
    let all = book.experiments()?;
    let is_followed = |one: &Experiment| {
        let follows = |other: &Experiment| {
            other.spec.model == one.spec.model && other.started_at_ms > one.stage_at_ms
        };
        all.iter().any(follows)
    };
    let mut found = Vec::new();
    for one in &all {
        if one.status != Status::RolledBack || is_followed(one) {
            continue;
        }
        let last = book.audit(Some(&one.spec.name), 1)?;
        if last.first().is_some_and(|entry| entry.who == BY_EVIDENCE) {
            found.push(RolledBack {
                experiment: one.spec.name.clone(),
                model: one.spec.model.clone(),
                stage: one.stage,
                why: one.why.clone(),
                at_ms: one.stage_at_ms,
            });
        }
    }
    Ok(found)
}

/// Sees what others wrote, weighs what came, and moves experiments.
struct Keeper {
    inner: Weak<Inner>,
    book: Book,
    store: Store,
    books: Vec<PathBuf>,
    watch: BookWatch,
    generation: i64,
    n_looks: usize,
}

impl Keeper {
    /// One look. It is over with the last handle.
    fn round(&mut self) -> Next {
        std::thread::sleep(LOOK_EVERY);
        let Some(inner) = self.inner.upgrade() else { return Next::Over };
        inner.pulse.note(self.look(&inner).err());
        Next::Round
    }

    /// Takes in what others wrote.
    fn reread(&mut self, inner: &Inner) -> Result<(), String> {
        let found = self.book.generation();
        let found = found.map_err(|e| cannot("experiments cannot be read", &e))?;
        if found != self.generation {
            let reload = inner.reload(&self.book);
            reload.map_err(|e| cannot("the experiments that ran before go on", &e))?;
            self.generation = found;
        }
        Ok(())
    }

    /// Takes in what others wrote and weighs all that runs; else what could not be done.
    fn look(&mut self, inner: &Inner) -> Result<(), String> {
        if self.watch.may_have_changed() {
            self.reread(inner)?;
            self.watch.note_read();
        }
        let turn = self.n_looks;
        self.n_looks = turn.wrapping_add(1);
        let live = inner.live();
        let mut failed = None;
        // Each is the first in its turn: one that panics does not leave those behind it unattended.
        for one in live.iter().cycle().skip(turn % live.len().max(1)).take(live.len()) {
            let moved = self.weigh(one, inner).and_then(|is_moved| match is_moved {
                true => inner.reload(&self.book),
                false => Ok(()),
            });
            match moved {
                // A person was faster.
                Ok(()) | Err(ExperimentError::WrongState { .. }) => {}
                Err(error) => {
                    failed = Some(cannot(&format!("{} is not weighed", one.spec.name), &error));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Weighs what came; whether the experiment was moved.
    fn weigh(&mut self, live: &Live, inner: &Inner) -> Result<bool, ExperimentError> {
        let (name, now_ms) = (live.spec.name.as_str(), now_ms());
        // One page for each look: what a person does is seen between two.
        self.book.collect(self.store.reader(), name, &measured, now_ms)?;
        let report = self.book.report(name)?;
        inner.note_lot(&report);
        let hopeless = inner.losses.hopeless(name).map(|why| Advice::Rollback { why });
        match hopeless.unwrap_or(report.advice) {
            Advice::Rollback { why } => {
                self.book.rollback(name, &why, BY_EVIDENCE, now_ms)?;
                tracing::error!(experiment = name, why, "ALERT: an experiment was rolled back");
                Ok(true)
            }
            Advice::Promote { why } if live.spec.promote == Promote::Automatic => {
                // Gates ask a model, which is for a person to begin.
                if has_gates(&self.books) {
                    return Ok(false);
                }
                let moved = self.book.promote(name, Ok(()), None, BY_EVIDENCE, now_ms)?;
                tracing::info!(experiment = name, stage = %moved.stage, why, "promoted");
                Ok(true)
            }
            Advice::Promote { .. } | Advice::Hold { .. } => Ok(false),
        }
    }
}

/// Whether a fix is guarded by a dataset that must pass. What cannot be read may hold one.
pub(crate) fn has_gates(books: &[PathBuf]) -> bool {
    books.iter().filter(|place| lm_feedback::Book::may_be_at(place)).any(|place| {
        let fixes = lm_feedback::Book::open(place).and_then(|book| book.fixes());
        fixes.map_or(true, |fixes| fixes.iter().any(|fix| fix.gate.is_some()))
    })
}

/// Weighs all that came of an experiment since the last time, page by page.
///
/// # Errors
/// Why the files could not be used.
pub fn collect_experiment(
    book: &mut Book,
    reader: &Reader,
    name: &str,
    now_ms: i64,
) -> Result<(), ExperimentError> {
    while book.collect(reader, name, &measured, now_ms)? {}
    Ok(())
}

/// What an answer's texts show.
fn measured(metric: Metric, answered: &Answered) -> Option<f64> {
    let truth = |good: bool| Some(f64::from(u8::from(good)));
    match metric {
        Metric::NotFailure => {
            let mut signals = signals(&Answer::new(answered, &[]), None);
            // Who is surer is not the better one.
            signals.retain(|signal| signal.kind != Kind::LowProbability);
            let attempt = &answered.attempt;
            // Where texts are not kept, most signs cannot be seen: none of them is no good sign.
            let is_known = attempt.output_text.is_some() || attempt.error_code.is_some();
            (is_known || !signals.is_empty()).then_some(f64::from(u8::from(signals.is_empty())))
        }
        Metric::ValidJson => {
            let text = answered.attempt.output_text.as_deref();
            match (text, &answered.attempt.error_code) {
                (_, Some(_)) => truth(false),
                (Some(text), None) => truth(json_of(text).is_some()),
                (None, None) => None,
            }
        }
        _ => None,
    }
}
