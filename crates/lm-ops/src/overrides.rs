//! Overrides, as a server needs them: the policy of now, breakers, hits, and what waits for a person.
//!
//! It must never be waited for on the way of a request but for the policy, which lies in memory: what writes or reads the
//! file blocks, and belongs on a thread of its own.
//!
//! Start reading at [`Overrides::policy`].

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lastmile::{
    AnswerBegun, GenerateError, Observer, Outcome, RequestEvent, RequestId, RuleHit, StepEvent,
};
use lm_api::ApiError;
use lm_rollout::{Breakers, Counted, Desk, Policy, RolloutError};
use lm_store::{BookWatch, Feedback, Implied, Rating, Store};
use tokio::sync::watch;

use crate::attendant::{AttendantStanding, Next, Pulse, attend};
use crate::refusals::override_refusal;

/// How often it is looked whether somebody else wrote to the file.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Answers with hits that wait to be counted; more are dropped and counted as such.
const MAX_WAITING_HITS: usize = 4096;

/// The overrides of one server. Clones share them.
#[derive(Clone)]
pub struct Overrides(Arc<Inner>);

struct Inner {
    /// Rules are read, compiled and put into the policy by who holds it.
    desk: Mutex<Desk>,
    /// The operator's switches are read and put into the policy by who holds it: it is never held while rules are compiled.
    switches: Mutex<Desk>,
    policy: RwLock<Arc<Policy>>,
    breakers: Mutex<Breakers>,
    hits: SyncSender<Hit>,
    n_dropped_hits: AtomicU64,
    changes: watch::Sender<u64>,
    pulse: Arc<Pulse>,
}

/// An answer for which rules held.
struct Hit {
    request_id: RequestId,
    choice: u32,
    at_ms: i64,
    hits: Vec<RuleHit>,
}

impl Overrides {
    /// Opens the file of overrides; what they do becomes feedback in `store`.
    ///
    /// # Errors
    /// The file cannot be used, or holds a rule that this version cannot compile.
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn open(path: &Path, store: &Store) -> Result<Overrides, RolloutError> {
        let desk = Desk::open(path)?;
        let generation = desk.generation()?;
        let policy = RwLock::new(Arc::new(desk.policy()?));
        let switches = Mutex::new(desk.again()?);
        let (hits, waiting) = sync_channel(MAX_WAITING_HITS);
        let pulse = Pulse::new("lm-overrides");
        let inner = Arc::new(Inner {
            desk: Mutex::new(desk),
            switches,
            policy,
            breakers: Mutex::default(),
            hits,
            n_dropped_hits: AtomicU64::new(0),
            changes: watch::Sender::new(0),
            pulse: Arc::clone(&pulse),
        });
        let mut keeper = Keeper {
            inner: Arc::downgrade(&inner),
            waiting,
            store: store.clone(),
            watch: BookWatch::new(path),
            generation,
        };
        attend(pulse, move || keeper.round()).expect("the system has a thread for overrides");
        Ok(Overrides(inner))
    }

    /// How the thread is that counts hits and sees what others wrote.
    #[must_use]
    pub fn attendant(&self) -> AttendantStanding {
        self.0.pulse.standing()
    }

    /// What holds now. Never waits.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.0.policy()
    }

    /// Changes the overrides; they hold when this returns. Blocks.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn act<T>(
        &self,
        act: impl FnOnce(&mut Desk) -> Result<T, RolloutError>,
    ) -> Result<T, ApiError> {
        let mut desk = self.0.desk();
        let done = act(&mut desk).map_err(override_refusal)?;
        self.0.reload(&desk).map_err(override_refusal)?;
        Ok(done)
    }

    /// Changes the operator's switches; they hold when this returns, whatever becomes of rules. Blocks, but for no rule.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn switch<T>(
        &self,
        act: impl FnOnce(&mut Desk) -> Result<T, RolloutError>,
    ) -> Result<T, ApiError> {
        let mut desk = self.0.switches();
        let done = act(&mut desk).map_err(override_refusal)?;
        self.0.obey(&desk).map_err(override_refusal)?;
        Ok(done)
    }

    /// Reads what is kept. Blocks.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&Desk) -> Result<T, RolloutError>,
    ) -> Result<T, ApiError> {
        read(&self.0.desk()).map_err(override_refusal)
    }

    /// Reads for long, while others change them. Blocks.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn read_apart<T>(
        &self,
        read: impl FnOnce(&Desk) -> Result<T, RolloutError>,
    ) -> Result<T, ApiError> {
        let desk = self.0.desk().again().map_err(override_refusal)?;
        read(&desk).map_err(override_refusal)
    }

    /// Counts up with every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Whether a model's breaker lets a request through.
    #[must_use]
    pub fn may_ask(&self, model: &str) -> bool {
        self.0.breakers().may_ask(model, now_ms())
    }

    /// A model could not be had.
    pub fn note_failure(&self, model: &str) {
        self.0.breakers().note(model, true, now_ms());
    }

    /// The breakers of models that failed lately.
    #[must_use]
    pub fn breakers(&self) -> Breakers {
        self.0.breakers().clone()
    }

    /// Answers whose hits were not counted.
    #[must_use]
    pub fn n_dropped_hits(&self) -> u64 {
        self.0.n_dropped_hits.load(Relaxed)
    }

    /// Counts what a rule did to an answer after the engine was done with it. Never waits.
    pub fn note_hit(&self, request_id: RequestId, choice: u32, hit: RuleHit) {
        self.0.note(Hit { request_id, choice, at_ms: now_ms(), hits: vec![hit] });
    }

    /// Hears of each answer after `observer`.
    #[must_use]
    pub(crate) fn observer(&self, observer: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(Watching { observer, overrides: self.clone() })
    }
}

impl Inner {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, hit: Hit) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.hits.try_send(hit)
        {
            self.n_dropped_hits.fetch_add(1, Relaxed);
        }
    }

    fn switches(&self) -> MutexGuard<'_, Desk> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles the rules; the switches stay as they are.
    fn reload(&self, desk: &Desk) -> Result<(), RolloutError> {
        let fresh = desk.policy()?;
        self.put(|policy| fresh.with_operator(policy.operator().clone()));
        Ok(())
    }

    /// Lets the operator's switches hold; the rules stay as they are.
    fn obey(&self, switches: &Desk) -> Result<(), RolloutError> {
        let operator = switches.operator()?;
        if *self.policy().operator() != operator {
            self.put(|policy| policy.with_operator(operator));
        }
        Ok(())
    }

    fn put(&self, change: impl FnOnce(&Policy) -> Policy) {
        let mut policy = self.policy.write().unwrap_or_else(PoisonError::into_inner);
        *policy = Arc::new(change(&policy));
        drop(policy);
        self.changes.send_modify(|n| *n += 1);
    }
}

struct Watching {
    observer: Arc<dyn Observer>,
    overrides: Overrides,
}

impl Observer for Watching {
    fn wants_steps(&self) -> bool {
        self.observer.wants_steps()
    }

    fn began(&self, begun: &AnswerBegun<'_>) {
        self.observer.began(begun);
    }

    fn stepped(&self, step: &StepEvent<'_>) {
        self.observer.stepped(step);
    }

    fn record(&self, event: &RequestEvent) {
        self.observer.record(event);
        let inner = &self.overrides.0;
        // What a client did wrong, or the load, says nothing of the model.
        let failed = match &event.outcome {
            // What was told from the response cache says nothing of it either.
            Outcome::Finished(_) if event.timings.computed_by.is_some() => None,
            Outcome::Finished(_) => Some(false),
            Outcome::Failed(
                GenerateError::Backend { .. }
                | GenerateError::Sequence { .. }
                | GenerateError::EngineDied,
            ) => Some(true),
            Outcome::Failed(_) => None,
        };
        if let Some(failed) = failed {
            inner.breakers().note(&event.model, failed, now_ms());
        }
        if event.hits.is_empty() {
            return;
        }
        inner.note(Hit {
            request_id: event.request.id,
            choice: event.choice,
            at_ms: unix_ms(event.arrived_at),
            hits: event.hits.clone(),
        });
    }
}

/// Counts hits, turns them into feedback, and sees what others wrote.
struct Keeper {
    inner: Weak<Inner>,
    waiting: Receiver<Hit>,
    store: Store,
    watch: BookWatch,
    generation: i64,
}

impl Keeper {
    /// One look. It is over with the last handle.
    fn round(&mut self) -> Next {
        let mut batch = Vec::new();
        match self.waiting.recv_timeout(LOOK_EVERY) {
            Ok(hit) => batch.push(hit),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Next::Over,
        }
        batch.extend(self.waiting.try_iter().take(MAX_WAITING_HITS));
        let Some(inner) = self.inner.upgrade() else { return Next::Over };
        // What an operator decided comes before what is only counted.
        if self.watch.may_have_changed() {
            let failed = self.look(&inner).err();
            if failed.is_none() {
                self.watch.note_read();
            }
            inner.pulse.note(failed);
        }
        if !batch.is_empty() {
            count(&inner, &batch);
            tell(&self.store, &batch);
        }
        Next::Round
    }

    fn look(&mut self, inner: &Inner) -> Result<(), String> {
        let unreadable = |e: RolloutError| format!("the overrides cannot be read: {e}");
        let desk = inner.desk();
        let found = desk.generation().map_err(unreadable)?;
        if found != self.generation {
            inner.obey(&inner.switches()).map_err(unreadable)?;
            let reload = inner.reload(&desk);
            reload.map_err(|e| format!("the overrides that held before go on: {e}"))?;
            self.generation = found;
        }
        Ok(())
    }
}

fn count(inner: &Inner, batch: &[Hit]) {
    let counted = batch.iter().flat_map(|hit| {
        hit.hits.iter().map(|one| Counted {
            rule: one.rule.to_string(),
            request_id: hit.request_id.to_string(),
            choice: hit.choice,
            action: one.action,
            at_ms: hit.at_ms,
        })
    });
    let counted: Vec<Counted> = counted.collect();
    if let Err(error) = inner.desk().count(&counted) {
        inner.n_dropped_hits.fetch_add(batch.len() as u64, Relaxed);
        tracing::error!(%error, "hits of overrides were not counted");
    }
}

fn said_of(rule: &str, action: &str) -> Implied {
    Implied::Overridden { rule: rule.to_owned(), action: action.to_owned() }
}

/// What was overridden is something to learn from: what a model said and must not say counts as bad.
fn tell(store: &Store, batch: &[Hit]) {
    let feedback = |hit: &Hit, RuleHit { rule, action }: &RuleHit| Feedback {
        request_id: hit.request_id,
        by: None,
        choice: hit.choice,
        rating: action.starts_with("ban").then_some(Rating::Boolean(false)),
        comment: Some(said_of(rule, action).to_string()),
        correction: None,
    };
    let all = batch.iter().flat_map(|hit| hit.hits.iter().map(move |one| feedback(hit, one)));
    for told in store.feedback_all(all.collect()) {
        if let Err(error) = told {
            tracing::warn!(%error, "an override did not become feedback");
        }
    }
}

/// Unix milliseconds of now.
#[must_use]
pub fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}

fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
