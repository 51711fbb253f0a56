//! The queue of answers and the thread that sends them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lm_types::RequestEvent;

use crate::answer::Answer;
use crate::post::{Posted, Poster};
use crate::settings::Limits;
use crate::wire::Span;
use crate::{OtelError, Settings, spans};

/// Sends the traces of answers to a collector, on a thread of its own. Clones share it.
#[derive(Clone)]
pub struct Exporter(Arc<Inner>);

/// Spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The collector took them.
    pub exported: u64,
    /// There was no room for them, or the exporter had ended.
    pub dropped: u64,
    /// The collector did not take them.
    pub failed: u64,
    /// Their sender does not record their trace.
    pub unsampled: u64,
}

struct Inner {
    queue: SyncSender<Note>,
    state: Arc<State>,
    /// Closed when the thread has ended.
    ended: Mutex<Receiver<()>>,
    limits: Limits,
}

/// What the thread is told.
enum Note {
    Ended(Box<Answer>),
    /// The state changed.
    Look,
}

#[derive(Default)]
struct State {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    unsampled: AtomicU64,
    /// Whether there is a deadline, for those that must not wait for its lock.
    is_stopping: AtomicBool,
    /// When the thread must have ended, once it must.
    deadline: Mutex<Option<Instant>>,
    stopped: Condvar,
}

impl Exporter {
    /// Starts the thread. The collector is not asked before there is something to send.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(settings: Settings) -> Result<Self, OtelError> {
        let limits = settings.limits;
        let (queue, notes) = sync_channel(limits.queue_answers);
        let (alive, ended) = channel();
        let state = Arc::new(State::default());
        let sending = Sending {
            poster: Poster::new(settings),
            state: Arc::clone(&state),
            limits,
            spans: Vec::new(),
            is_failing: false,
        };
        let run = move || {
            sending.run(&notes);
            drop(alive);
        };
        thread::Builder::new().name("otlp".to_owned()).spawn(run).map_err(OtelError::Thread)?;
        Ok(Exporter(Arc::new(Inner { queue, state, ended: Mutex::new(ended), limits })))
    }

    /// Spans that were sent, and those that were not.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = &self.0.state;
        Counts {
            exported: state.exported.load(Ordering::Relaxed),
            dropped: state.dropped.load(Ordering::Relaxed),
            failed: state.failed.load(Ordering::Relaxed),
            unsampled: state.unsampled.load(Ordering::Relaxed),
        }
    }

    /// Sends what waits, and ends the thread. Returns within [`Limits::shutdown`], whatever the collector does; answers
    /// that end later are dropped and counted.
    pub fn shutdown(&self) {
        self.0.state.stop(self.0.limits.shutdown);
        // A full queue wakes the thread as well.
        let _woken = self.0.queue.try_send(Note::Look);
        let ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(self.0.limits.shutdown) {
            tracing::warn!("the last traces did not reach the collector in time");
        }
    }

    /// Takes an answer that ended. Never waits: without room it is dropped and counted.
    pub(crate) fn offer(&self, event: &RequestEvent) {
        let answer = Answer::of(event);
        let n_spans = answer.n_spans() as u64;
        let state = &self.0.state;
        if !answer.is_sampled() {
            state.unsampled.fetch_add(n_spans, Ordering::Relaxed);
            return;
        }
        let is_late = state.is_stopping.load(Ordering::Relaxed);
        if is_late || self.0.queue.try_send(Note::Ended(Box::new(answer))).is_err() {
            state.dropped.fetch_add(n_spans, Ordering::Relaxed);
        }
    }
}

impl State {
    fn stop(&self, within: Duration) {
        let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        deadline.get_or_insert_with(|| Instant::now() + within);
        self.is_stopping.store(true, Ordering::Relaxed);
        self.stopped.notify_all();
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, but not beyond [`State::stop`].
    fn wait(&self, time: Duration) {
        let deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        let is_going_on = |deadline: &mut Option<Instant>| deadline.is_none();
        // What it says of the time is not needed: the caller asks for the deadline.
        drop(self.stopped.wait_timeout_while(deadline, time, is_going_on));
    }

    fn fail_spans(&self, n: usize) {
        self.failed.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// What the thread owns.
struct Sending {
    poster: Poster,
    state: Arc<State>,
    limits: Limits,
    /// The batch that is being filled.
    spans: Vec<Span>,
    /// Whether the last batch did not arrive.
    is_failing: bool,
}

impl Sending {
    /// Until [`Exporter::shutdown`], or until nobody can tell of an answer any more.
    fn run(mut self, notes: &Receiver<Note>) {
        let mut due: Option<Instant> = None;
        loop {
            let note = match due {
                None => notes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => notes.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let is_over = matches!(note, Err(RecvTimeoutError::Disconnected));
            let is_due = matches!(note, Err(RecvTimeoutError::Timeout));
            if let Ok(note) = note {
                self.take(&note);
            }
            if is_over || self.state.deadline().is_some() {
                return self.finish(notes);
            }
            if is_due || self.spans.len() >= self.limits.batch_spans {
                self.export();
                due = None;
            } else if !self.spans.is_empty() {
                due = due.or_else(|| Some(Instant::now() + self.limits.every));
            }
        }
    }

    fn take(&mut self, note: &Note) {
        if let Note::Ended(answer) = note {
            spans::append(answer, &mut self.spans);
        }
    }

    /// Sends what is left.
    fn finish(mut self, notes: &Receiver<Note>) {
        while let Ok(note) = notes.try_recv() {
            self.take(&note);
            if self.spans.len() >= self.limits.batch_spans {
                self.export();
            }
        }
        self.export();
    }

    /// Sends the batch, again where that may help.
    fn export(&mut self) {
        let spans = std::mem::take(&mut self.spans);
        let n_spans = spans.len();
        if n_spans == 0 {
            return;
        }
        let body = self.poster.encode(spans);
        let why = match self.tried(&body) {
            Ok(n_rejected) => {
                let n_rejected = usize::try_from(n_rejected).unwrap_or(n_spans).min(n_spans);
                let n_taken = (n_spans - n_rejected) as u64;
                self.state.exported.fetch_add(n_taken, Ordering::Relaxed);
                self.state.fail_spans(n_rejected);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("traces reach the collector again");
                }
                return;
            }
            Err(why) => why,
        };
        self.state.fail_spans(n_spans);
        // One line for each outage; the counter says how much was lost.
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(%why, n_spans, "traces do not reach the collector and are dropped");
        }
    }

    /// Spans that the collector rejected, or why it took none.
    fn tried(&self, body: &[u8]) -> Result<u64, String> {
        let mut backoff = self.limits.backoff;
        let mut last = "there was no time left".to_owned();
        for i in 1..=self.limits.tries {
            let Some(patience) = self.patience() else { break };
            match self.poster.post(body, patience) {
                Posted::Taken { n_rejected } => return Ok(n_rejected),
                Posted::Refused { why } => return Err(why),
                Posted::Later { why, after } => {
                    last = why;
                    if i < self.limits.tries {
                        let wait = after.unwrap_or_default().max(backoff);
                        self.state.wait(wait.min(self.limits.longest_backoff));
                        backoff = backoff.saturating_mul(2);
                    }
                }
            }
            // A second try would take the time of the other batches.
            if self.state.deadline().is_some() && i > 1 {
                break;
            }
        }
        Err(last)
    }

    /// How long the collector may take; `None` when there is no time left.
    fn patience(&self) -> Option<Duration> {
        let Some(deadline) = self.state.deadline() else { return Some(self.limits.timeout) };
        let left = deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(self.limits.timeout))
    }
}
