//! The handle: it puts work into the writer's bounded queue and keeps the counters.
//!
//! It must never write by itself and never wait in `record`.
//!
//! Start reading at [`Store::open`], then `Store::record`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, bounded};
use lm_types::{Observer, Prices, RequestEvent};
use serde::Serialize;

use crate::erase::{Erase, Erased};
use crate::error::{ErrorContext, READ_PATIENCE, WRITE_PATIENCE, io};
use crate::job::{self, Job, Reply};
use crate::mask::Mask;
use crate::pace::Pace;
use crate::sql::shown;
use crate::writer::Writer;
use crate::{Feedback, FeedbackId, Privacy, Reader, Release, RunInfo, StoreError, StoreOptions};
use crate::{read, schema};

/// Slots of the queue that only what may not be dropped can take: with telemetry at its own limit
/// feedback still gets in without a wait.
const RESERVED_SLOTS: usize = 64;

/// A handle to one store. Clones share one writer; when the last goes, all is written out.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What went through one handle and its clones since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreCounters {
    /// Answers committed.
    pub recorded: u64,
    /// Answers not taken because the queue was full (by number or by bytes) or the store closed.
    pub dropped: u64,
    /// Answers whose (request, choice) was stored already; the first one is kept.
    pub duplicates: u64,
    /// Feedback committed.
    pub feedback: u64,
    /// Answers, heartbeats and erasures that could not be written.
    pub write_errors: u64,
    /// Entries that wait for the writer.
    pub queue_len: u64,
    /// Answers that may wait for the writer.
    pub queue_capacity: u64,
    /// The longest commit of the last minute or two, the one that runs included.
    pub slowest_commit_ms: u64,
}

/// The counters as the handle and the writer share them.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) recorded: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) feedback: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) queued_bytes: AtomicUsize,
    pub(crate) pace: Pace,
}

struct Inner {
    path: PathBuf,
    options: StoreOptions,
    jobs: Sender<Job>,
    counters: Arc<Counters>,
    /// The writer tries less then.
    closed: Arc<AtomicBool>,
    writer: Mutex<Option<JoinHandle<()>>>,
    reader: Reader,
}

impl Store {
    /// Opens the file at `path`, or the database of a PostgreSQL server where that is a URL such as
    /// `postgres://user@host/database`; creates or upgrades it when needed, and starts the writer.
    ///
    /// # Errors
    /// An option outside its range; a file that is damaged, of another program or of a later
    /// version; what the file system refuses. Nothing is ever deleted.
    pub fn open(path: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        options.validate()?;
        let context = ErrorContext {
            path: shown(path),
            max_bytes: options.max_bytes,
            busy_timeout: options.busy_timeout,
            patience: WRITE_PATIENCE,
        };
        let connection = schema::open_writer(path, &options, &context)?;
        let reading = ErrorContext { patience: READ_PATIENCE, ..context.clone() };
        let reader = read::Reader::with_context(path, reading)?;
        let mask = Mask::open(options.mask_key.as_deref(), path, options.privacy)?;
        let counters = Arc::new(Counters::default());
        let (sender, jobs) = bounded(options.queue_capacity + RESERVED_SLOTS);
        let closed = Arc::new(AtomicBool::new(false));
        let shared = (Arc::clone(&counters), Arc::clone(&closed));
        let writer = Writer::new(connection, jobs, &options, mask, context, shared);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|e| io(path, "start the writer of", &e))?;
        Ok(Store {
            inner: Arc::new(Inner {
                path: shown(path),
                options,
                jobs: sender,
                counters,
                closed,
                writer: Mutex::new(Some(thread)),
                reader,
            }),
        })
    }

    /// Stores what a release is; a hash that is stored already keeps its first facts. Durable on
    /// return.
    ///
    /// # Errors
    /// [`StoreError::Closed`], or why it could not be written.
    pub fn put_release(&self, release: &Release) -> Result<(), StoreError> {
        self.ask(|reply| Job::Release(release.clone(), reply))
    }

    /// Stores feedback on a finished request. Durable on return and never dropped: waits for the
    /// writer, so an async caller uses a blocking thread.
    ///
    /// Answers recorded before this call are seen. With [`Privacy::Off`] comment and correction
    /// are not kept.
    ///
    /// # Errors
    /// [`StoreError::InvalidFeedback`], [`StoreError::UnknownRequest`],
    /// [`StoreError::UnknownChoice`], or why it could not be written.
    pub fn feedback(&self, feedback: Feedback) -> Result<FeedbackId, StoreError> {
        feedback.validate()?;
        self.ask(|reply| Job::Feedback(feedback, reply))
    }

    /// Stores several as [`Store::feedback`] does, many in one commit. One result for each, in their order.
    #[must_use]
    pub fn feedback_all(&self, all: Vec<Feedback>) -> Vec<Result<FeedbackId, StoreError>> {
        let mut asked = Vec::with_capacity(all.len());
        for feedback in all {
            let (reply, answer) = bounded(1);
            let sent = feedback.validate().and_then(|()| {
                let job = Job::Feedback(feedback, reply);
                self.inner.jobs.send(job).map_err(|_| StoreError::Closed)
            });
            asked.push(sent.map(|()| answer));
        }
        let told = |answer: Receiver<Result<FeedbackId, StoreError>>| {
            answer.recv().map_err(|_| StoreError::Closed)?
        };
        asked.into_iter().map(|asked| asked.and_then(told)).collect()
    }

    /// Notes that this process serves, and from then on its signs of life; returns the run's id.
    /// The run is noted as stopped when the store closes. A second call begins another run.
    ///
    /// # Errors
    /// [`StoreError::Closed`], or why it could not be written.
    pub fn begin_run(&self, info: RunInfo) -> Result<String, StoreError> {
        self.ask(|reply| Job::BeginRun(info, reply))
    }

    /// Erases what the retention says is too old at `now`. Runs by itself at open and daily.
    ///
    /// # Errors
    /// [`StoreError::Closed`], or why it could not be written.
    pub fn prune(&self, now: SystemTime) -> Result<(), StoreError> {
        self.ask(|reply| Job::Prune(now, reply))
    }

    /// Erases all that is stored of somebody, what was recorded before this call included. Answers that are still
    /// being generated are recorded later.
    ///
    /// # Errors
    /// [`StoreError::Closed`], or why it could not be written; what was erased until then stays erased.
    pub fn erase(&self, what: Erase) -> Result<Erased, StoreError> {
        self.ask(|reply| Job::Erase(what, reply))
    }

    /// Erases the oldest texts when the file is nearly as large as it may be. Runs by itself every few seconds.
    ///
    /// # Errors
    /// [`StoreError::Closed`], or why it could not be written.
    pub fn make_room(&self) -> Result<(), StoreError> {
        self.ask(Job::MakeRoom)
    }

    /// Waits until everything recorded before is committed or counted as a write error.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn flush(&self) -> Result<(), StoreError> {
        self.ask(Job::Flush)
    }

    /// Writes everything out, notes the run as stopped and ends the writer. Later answers are
    /// dropped and counted; a second call does nothing.
    ///
    /// # Errors
    /// Why the last write failed.
    pub fn close(&self) -> Result<(), StoreError> {
        self.inner.close()
    }

    /// What is stored, by a connection of its own.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// Whether texts are kept.
    #[must_use]
    pub fn privacy(&self) -> Privacy {
        self.inner.options.privacy
    }

    /// By what the cost of answers is written.
    #[must_use]
    pub fn prices(&self) -> &Prices {
        &self.inner.options.prices
    }

    /// Where it lies; of a server, without a password.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What went through this handle and its clones.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        let counters = &self.inner.counters;
        StoreCounters {
            recorded: counters.recorded.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            duplicates: counters.duplicates.load(Relaxed),
            feedback: counters.feedback.load(Relaxed),
            write_errors: counters.write_errors.load(Relaxed),
            queue_len: self.inner.jobs.len() as u64,
            queue_capacity: self.inner.options.queue_capacity as u64,
            slowest_commit_ms: counters.pace.slowest().as_millis() as u64,
        }
    }

    fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        ask(&self.inner.jobs, job)
    }
}

impl Observer for Store {
    /// Queues the answer, or drops and counts it when the queue is full. Never waits.
    fn record(&self, event: &RequestEvent) {
        let Inner { options, jobs, counters, closed, .. } = &*self.inner;
        let size_bytes = job::size_bytes(event, options.privacy);
        let queued_bytes = counters.queued_bytes.load(Relaxed);
        let full = jobs.len() >= options.queue_capacity
            || queued_bytes.saturating_add(size_bytes) > options.queue_bytes;
        if full || closed.load(Relaxed) {
            counters.dropped.fetch_add(1, Relaxed);
            return;
        }
        counters.queued_bytes.fetch_add(size_bytes, Relaxed);
        let event = job::admit(event, options.privacy);
        if jobs.try_send(Job::Event { event, size_bytes }).is_err() {
            counters.queued_bytes.fetch_sub(size_bytes, Relaxed);
            counters.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Inner {
    fn close(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = writer.take() else { return Ok(()) };
        self.closed.store(true, Relaxed);
        let result = ask(&self.jobs, Job::Close);
        if thread.join().is_err() { Err(StoreError::Closed) } else { result }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(path = %self.path.display(), %error, "the store did not close well");
        }
    }
}

fn ask<T>(jobs: &Sender<Job>, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
    let (reply, answer) = bounded(1);
    jobs.send(job(reply)).map_err(|_| StoreError::Closed)?;
    answer.recv().map_err(|_| StoreError::Closed)?
}
