//! The one thread that writes: it takes what waits, commits it as a group and answers.
//!
//! It must never give up: a failed group is counted, logged once per burst and answered with its
//! error, and the next group is tried as if nothing had happened.
//!
//! Start reading at [`Writer::run`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use lm_types::Prices;

use crate::erase::{Erase, Erased, erase};
use crate::error::ErrorContext;
use crate::job::{Job, Reply};
use crate::mask::Mask;
use crate::options::PRUNE_EVERY;
use crate::record::unix_ms;
use crate::sql::{self, Connection, Transaction};
use crate::store::Counters;
use crate::write::{self, Written};
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
    heartbeat: Duration,
    context: ErrorContext,
    counters: Arc<Counters>,
    run_id: Option<String>,
    next_heartbeat: Instant,
    next_prune: Instant,
    next_look: Instant,
    /// Whether the file was nearly full at the last look.
    is_tight: bool,
    /// Writes that failed since the last one that worked.
    n_failing: u64,
}

/// Answers a caller once the fate of the commit is known.
type Ack = Box<dyn FnOnce(&Result<(), StoreError>)>;

/// What is to be counted when the group is committed, and what is to be done after.
#[derive(Default)]
struct Group {
    recorded: u64,
    duplicates: u64,
    failed: u64,
    feedback: u64,
    first_error: Option<StoreError>,
    acks: Vec<Ack>,
    prune: Option<(SystemTime, Reply<()>)>,
    erasures: Vec<(Erase, Reply<Erased>)>,
    make_room: Option<Reply<()>>,
    close: Option<Reply<()>>,
}

impl Writer {
    pub(crate) fn new(
        connection: Connection,
        jobs: Receiver<Job>,
        options: &StoreOptions,
        mask: Mask,
        context: ErrorContext,
        counters: Arc<Counters>,
    ) -> Writer {
        let now = Instant::now();
        Writer {
            connection,
            jobs,
            mask,
            prices: options.prices.clone(),
            retention: options.retention,
            heartbeat: options.heartbeat,
            context,
            counters,
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
            self.heartbeat_if_due();
            self.prune_if_due();
            self.make_room_if_due();
        }
    }

    /// Writes `first` and what waits behind it as one commit. Returns the reply of a close.
    fn write_group(&mut self, first: Job) -> Option<Reply<()>> {
        let mut jobs = vec![first];
        jobs.extend(self.jobs.try_iter().take(MAX_GROUP - 1));
        // The telemetry before a feedback becomes durable with it: one log, one sync.
        let durable = jobs
            .iter()
            .any(|job| matches!(job, Job::Feedback(..) | Job::Release(..) | Job::BeginRun(..)));
        let mut group = Group::default();
        let result = self.commit(jobs, durable, &mut group);
        let Group { recorded, duplicates, failed, feedback, first_error, acks, .. } = group;
        let Group { prune, erasures, make_room, close, .. } = group;
        let add = |counter: &AtomicU64, n| {
            counter.fetch_add(n, Relaxed);
        };
        if result.is_ok() {
            add(&self.counters.recorded, recorded);
            add(&self.counters.duplicates, duplicates);
            add(&self.counters.feedback, feedback);
            add(&self.counters.write_errors, failed);
        } else {
            add(&self.counters.write_errors, recorded + duplicates + failed);
        }
        self.note(result.as_ref().err().or(first_error.as_ref()).cloned());
        for ack in acks {
            ack(&result);
        }
        for (what, reply) in erasures {
            let erased = erase(&self.connection, &what, &self.mask);
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

    /// One transaction. On an error every job of the group failed.
    fn commit(
        &mut self,
        jobs: Vec<Job>,
        durable: bool,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let context = &self.context;
        let transaction =
            self.connection.begin_write(durable).map_err(|e| context.wrap("begin to write", &e));
        let mut fatal = transaction.as_ref().err().cloned();
        for job in jobs {
            if let Job::Event { size_bytes, .. } = &job {
                self.counters.queued_bytes.fetch_sub(*size_bytes, Relaxed);
            }
            let open = match (&transaction, &fatal) {
                (Ok(transaction), None) => Ok(transaction),
                (_, Some(error)) | (Err(error), None) => Err(error.clone()),
            };
            let rules = Rules { mask: &self.mask, prices: &self.prices, context };
            apply(job, open, &rules, &mut self.run_id, group);
            // A full disk may have rolled back the whole transaction under our feet.
            if let Ok(transaction) = &transaction
                && fatal.is_none()
                && transaction.is_rolled_back()
            {
                fatal = Some(group.first_error.clone().unwrap_or(StoreError::Closed));
            }
        }
        match (fatal, transaction) {
            (Some(error), _) => Err(error),
            (None, transaction) => {
                let transaction = transaction?;
                let committed = self.counters.pace.time(|| transaction.commit());
                committed.map_err(|e| context.wrap("commit", &e))
            }
        }
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

/// What every row is written by.
#[derive(Clone, Copy)]
struct Rules<'a> {
    mask: &'a Mask,
    prices: &'a Prices,
    context: &'a ErrorContext,
}

/// Writes one job into the open transaction, or notes why there is none.
fn apply(
    job: Job,
    open: Result<&Transaction<'_>, StoreError>,
    rules: &Rules<'_>,
    run_id: &mut Option<String>,
    group: &mut Group,
) {
    let Rules { mask, prices, context } = *rules;
    let now_ms = unix_ms(SystemTime::now());
    let wrap = |e: sql::Error| context.wrap("write", &e);
    match job {
        Job::Event { event, .. } => {
            let answer = mask.answer(event);
            match open.and_then(|t| write::event(t, &answer, prices).map_err(wrap)) {
                Ok(Written::New) => group.recorded += 1,
                Ok(Written::Duplicate) => group.duplicates += 1,
                Err(error) => {
                    group.failed += 1;
                    group.first_error.get_or_insert(error);
                }
            }
        }
        Job::Feedback(feedback, reply) => {
            let feedback = mask.feedback(feedback);
            let own = open.and_then(|t| write::feedback(t, &feedback, now_ms, context));
            group.feedback += u64::from(own.is_ok());
            group.acknowledge(reply, own);
        }
        Job::Release(release, reply) => {
            let own = open.and_then(|t| write::release(t, &release, now_ms).map_err(wrap));
            group.acknowledge(reply, own);
        }
        Job::BeginRun(info, reply) => {
            let own = open.and_then(|t| write::begin_run(t, &info, now_ms).map_err(wrap));
            if let Ok(id) = &own {
                *run_id = Some(id.clone());
            }
            group.acknowledge(reply, own);
        }
        Job::Flush(reply) => {
            // Its promise is that nothing waits any more, not that all could be written.
            group.acks.push(Box::new(move |_| {
                let _ = reply.send(Ok(()));
            }));
        }
        Job::Erase(what, reply) => group.erasures.push((what, reply)),
        Job::MakeRoom(reply) => group.make_room = Some(reply),
        Job::Prune(now, reply) => group.prune = Some((now, reply)),
        Job::Close(reply) => group.close = Some(reply),
    }
}

impl Group {
    /// The caller gets its own error first, then the commit's.
    fn acknowledge<T: 'static>(&mut self, reply: Reply<T>, own: Result<T, StoreError>) {
        let refused = |e: &StoreError| {
            matches!(e, StoreError::UnknownRequest { .. } | StoreError::UnknownChoice { .. })
        };
        if let Err(error) = own.as_ref()
            && !refused(error)
        {
            self.first_error.get_or_insert_with(|| error.clone());
        }
        self.acks.push(Box::new(move |commit| {
            let _ = reply.send(own.and_then(|value| commit.clone().map(|()| value)));
        }));
    }
}
