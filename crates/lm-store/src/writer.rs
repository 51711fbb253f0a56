//! The one thread that writes: it takes what waits, commits it as a group and answers.
//!
//! It must never give up: what fails is counted, logged once per burst and answered with its
//! error, and the next group is tried as if nothing had happened.
//!
//! Start reading at [`Writer::run`], then `group`.

mod group;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use lm_types::Prices;

use crate::erase::erase;
use crate::error::ErrorContext;
use crate::job::{Job, Reply};
use crate::mask::Mask;
use crate::options::PRUNE_EVERY;
use crate::record::unix_ms;
use crate::sql::{self, Connection};
use crate::store::Counters;
use crate::write::{self, Written};
use crate::writer::group::{Entry, Failed, Fate, Group};
use crate::{Retention, StoreError, StoreOptions, retention};

/// Most entries of one commit: bounds both the latency of a feedback and the lock's hold time.
const MAX_GROUP: usize = 512;
/// How often the file's size is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Writer {
    connection: Connection,
    jobs: Receiver<Job>,
    mask: Mask,
    prices: Prices,
    retention: Retention,
    /// Where requests are written down before they are erased.
    erasing: Option<PathBuf>,
    heartbeat: Duration,
    context: ErrorContext,
    counters: Arc<Counters>,
    /// Set before the store is told to close.
    closed: Arc<AtomicBool>,
    /// Why a group was lost while the store closes: who waits for its end does not wait for each of the others.
    given_up: Option<StoreError>,
    run_id: Option<String>,
    next_heartbeat: Instant,
    next_prune: Instant,
    next_look: Instant,
    /// Whether the file was nearly full at the last look.
    is_tight: bool,
    /// Writes that failed since the last one that worked.
    n_failing: u64,
}

impl Writer {
    pub(crate) fn new(
        connection: Connection,
        jobs: Receiver<Job>,
        options: &StoreOptions,
        mask: Mask,
        context: ErrorContext,
        (counters, closed): (Arc<Counters>, Arc<AtomicBool>),
    ) -> Writer {
        let now = Instant::now();
        Writer {
            connection,
            jobs,
            mask,
            prices: options.prices.clone(),
            retention: options.retention,
            erasing: options.erasing.clone(),
            heartbeat: options.heartbeat,
            context,
            counters,
            closed,
            given_up: None,
            run_id: None,
            next_heartbeat: now,
            next_prune: now,
            next_look: now + LOOK_EVERY,
            is_tight: false,
            n_failing: 0,
        }
    }

    /// Writes until it is told to close; ends only with an empty queue.
    pub(crate) fn run(mut self) {
        loop {
            let next = self.next_heartbeat.min(self.next_prune).min(self.next_look);
            let wait = next.saturating_duration_since(Instant::now());
            let first = match self.jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Some(close) = first.and_then(|job| self.write_group(job)) {
                while let Ok(job) = self.jobs.try_recv() {
                    self.write_group(job);
                }
                let _ = close.send(self.finish());
                break;
            }
            if !self.is_closing() {
                self.heartbeat_if_due();
                self.prune_if_due();
                self.make_room_if_due();
            }
        }
    }

    /// Writes `first` and what waits behind it. Returns the reply of a close.
    fn write_group(&mut self, first: Job) -> Option<Reply<()>> {
        let mut jobs = vec![first];
        jobs.extend(self.jobs.try_iter().take(MAX_GROUP - 1));
        let group = Group::of(jobs, &self.mask);
        let fates = match &self.given_up {
            Some(error) => vec![Err(Failed::Lost(error.clone())); group.entries.len()],
            None => self.write_all(&group.entries, group.is_durable()),
        };
        let Group { entries, size_bytes, flushes, prune, erasures, make_room, close } = group;
        self.counters.queued_bytes.fetch_sub(size_bytes, Relaxed);
        self.settle(entries, fates);
        for reply in flushes {
            // Its promise is that nothing waits any more, not that all could be written.
            let _ = reply.send(Ok(()));
        }
        for (what, reply) in erasures {
            let erased = erase(&self.connection, &what, &self.mask, self.erasing.as_deref());
            let _ = reply.send(erased.map_err(|e| self.context.wrap("erase from", &e)));
        }
        if let Some(reply) = make_room {
            let made = retention::make_room(&self.connection, self.context.max_bytes);
            let _ = reply.send(made.map(drop).map_err(|e| self.context.wrap("make room in", &e)));
        }
        if let Some((now, reply)) = prune {
            let _ = reply.send(self.prune_all(now));
        }
        close
    }

    /// Counts and tells what became of each.
    fn settle(&mut self, entries: Vec<Entry>, fates: Vec<Fate>) {
        if entries.is_empty() {
            return;
        }
        self.tell_refused(&entries, &fates);
        let counters = Arc::clone(&self.counters);
        let mut lost = None;
        for (entry, fate) in entries.into_iter().zip(fates) {
            let counter = match (&entry, &fate) {
                (Entry::Answer(_), Ok(Written::New)) => Some(&counters.recorded),
                (Entry::Answer(_), Ok(Written::Duplicate)) => Some(&counters.duplicates),
                (Entry::Answer(_), Err(_)) => Some(&counters.write_errors),
                (Entry::Feedback(..), Ok(_)) => Some(&counters.feedback),
                _ => None,
            };
            if let Some(counter) = counter {
                counter.fetch_add(1, Relaxed);
            }
            if let (Entry::BeginRun(id, ..), Ok(_)) = (&entry, &fate) {
                self.run_id = Some(id.clone());
            }
            if let Err(Failed::Lost(error)) = &fate {
                lost.get_or_insert_with(|| error.clone());
            }
            group::answer(entry, fate);
        }
        if self.is_closing() && self.given_up.is_none() {
            self.given_up.clone_from(&lost);
        }
        self.note(lost);
    }

    fn is_closing(&self) -> bool {
        self.closed.load(Relaxed)
    }

    fn heartbeat_if_due(&mut self) {
        let now = Instant::now();
        if now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = now + self.heartbeat;
        let Some(run_id) = &self.run_id else { return };
        let now_ms = unix_ms(SystemTime::now());
        let beat = || write::heartbeat(&self.connection, run_id, now_ms);
        let result = self.counters.pace.time(beat);
        let result = result.map_err(|e| self.context.wrap("write a heartbeat", &e));
        self.count_failure(result.as_ref().err());
        self.note(result.err());
    }

    /// Erases one chunk, so that what waits in the queue gets its turn before the next.
    fn prune_if_due(&mut self) {
        if Instant::now() < self.next_prune {
            return;
        }
        let result = retention::prune_chunk(&self.connection, self.retention, SystemTime::now())
            .map_err(|e| self.context.wrap("erase old rows", &e));
        if !matches!(result, Ok(n) if n > 0) {
            self.next_prune = Instant::now() + PRUNE_EVERY;
        }
        self.count_failure(result.as_ref().err());
        self.note(result.err());
    }

    /// Makes room while the file is nearly full, a chunk with each round.
    fn make_room_if_due(&mut self) {
        if Instant::now() < self.next_look {
            return;
        }
        let result = retention::make_room(&self.connection, self.context.max_bytes)
            .map_err(|e| self.context.wrap("make room in", &e));
        match result {
            Ok(n_rows) if n_rows > 0 => {
                if !self.is_tight {
                    tracing::warn!(
                        max_bytes = self.context.max_bytes,
                        "the store is nearly full: its oldest texts are erased"
                    );
                }
                self.is_tight = true;
            }
            _ => {
                self.is_tight = false;
                self.next_look = Instant::now() + LOOK_EVERY;
            }
        }
        self.count_failure(result.as_ref().err());
        self.note(result.err());
    }

    fn prune_all(&mut self, now: SystemTime) -> Result<(), StoreError> {
        loop {
            let erased = retention::prune_chunk(&self.connection, self.retention, now)
                .map_err(|e| self.context.wrap("erase old rows", &e))?;
            if erased == 0 {
                return Ok(());
            }
        }
    }

    /// Notes the end of the run and folds the log into the file, which alone is then the store.
    fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(error @ StoreError::Unreachable { .. }) = &self.given_up {
            return Err(error.clone());
        }
        let wrap = |e: sql::Error| self.context.wrap("close", &e);
        if let Some(run_id) = &self.run_id {
            let stopped = self.connection.begin_write(true).and_then(|transaction| {
                write::stop_run(&transaction, run_id, unix_ms(SystemTime::now()))?;
                transaction.commit()
            });
            stopped.map_err(wrap)?;
        }
        // Another process that reads may hold parts of the log back; then it folds them in.
        self.connection.fold_log().map_err(wrap)
    }

    fn count_failure(&self, error: Option<&StoreError>) {
        if error.is_some() {
            self.counters.write_errors.fetch_add(1, Relaxed);
        }
    }

    /// Logs the first failure of a burst and its end.
    fn note(&mut self, error: Option<StoreError>) {
        match error {
            Some(error) => {
                if self.n_failing == 0 {
                    tracing::error!(%error, "the store cannot write; serving goes on");
                }
                self.n_failing += 1;
            }
            None if self.n_failing > 0 => {
                tracing::warn!(n_failing = self.n_failing, "the store writes again");
                self.n_failing = 0;
            }
            None => {}
        }
    }
}
