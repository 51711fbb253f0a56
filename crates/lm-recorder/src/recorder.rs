//! The recorder as the engine sees it: it takes what is told, and a thread writes it.
//!
//! Start reading at [`Recorder::open`].

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use lm_types::{
    AnswerBegun, GenerateRequest, Observer, RequestEvent, RequestId, StepEvent, TokenId,
};

use crate::entry::{encode_step, step_bytes};
use crate::ring::RingFile;
use crate::writer::Writer;
use crate::{Flight, RecorderError};

/// Bytes of steps that may wait for the writer.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// Answers whose beginning or end may wait for the writer.
const MAX_WAITING: usize = 4096;
const LEAST_BYTES: u64 = 1 << 16;

/// How a recorder is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecorderOptions {
    /// Bytes of the file.
    pub capacity: u64,
    /// Whether prompts and tokens are kept; without them nothing can be computed again.
    pub keeps_text: bool,
}

/// What went through a recorder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecorderCounters {
    /// Steps and answers that are in the file.
    pub recorded: u64,
    /// Those that had no room, or could not be written.
    pub dropped: u64,
}

/// Takes what engines tell. Clones share one file.
#[derive(Clone, Debug)]
pub struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    keeps_text: bool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the engine's threads and the writer share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) waiting: Mutex<Waiting>,
    pub(crate) has_work: Condvar,
    pub(crate) recorded: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

/// What waits for the writer.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) steps: Vec<u8>,
    pub(crate) begun: Vec<BegunAnswer>,
    pub(crate) ended: Vec<(RequestId, u32)>,
    pub(crate) is_closed: bool,
}

/// An answer that was taken in, before it is JSON.
#[derive(Debug)]
pub(crate) struct BegunAnswer {
    pub(crate) request: Arc<GenerateRequest>,
    pub(crate) choice: u32,
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) model: String,
    pub(crate) release: String,
    pub(crate) arrived_at_ms: i64,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.begun.is_empty() && self.ended.is_empty()
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what waits. The writer is woken by the first of it only.
    fn add(&self, add: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        let was_empty = waiting.is_empty();
        add(&mut waiting);
        drop(waiting);
        if was_empty {
            self.has_work.notify_one();
        }
    }
}

impl Recorder {
    /// Begins to record into `folder`. What a process that did not end in order has left there is kept beside
    /// it and given back.
    ///
    /// # Errors
    /// Another process records there; what the system refuses.
    pub fn open(
        folder: &Path,
        options: RecorderOptions,
    ) -> Result<(Self, Option<Flight>), RecorderError> {
        if options.capacity < LEAST_BYTES {
            let (found, least) = (options.capacity, LEAST_BYTES);
            return Err(RecorderError::TooSmall { found, least });
        }
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| RecorderError::Io { what, path, source }
        };
        std::fs::create_dir_all(folder).map_err(io("create the folder", folder))?;
        let path = ring_path(folder);
        let lock = private(&lock_path(folder))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RecorderError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(io("lock", &path)(source)),
        }
        let crashed = Flight::read(&path)?.filter(Flight::has_crashed);
        if crashed.is_some() {
            let kept = crash_path(folder);
            std::fs::rename(&path, &kept).map_err(io("keep the crash in", &kept))?;
        }
        let file = private(&path)?;
        let ring = RingFile::new(file, options.capacity).map_err(io("write", &path))?;
        let shared = Arc::new(Shared::default());
        let writer = Writer::new(ring, Arc::clone(&shared), options, lock);
        let thread = std::thread::Builder::new()
            .name("flight-recorder".to_owned())
            .spawn(move || writer.run())
            .map_err(io("start the writer of", &path))?;
        let inner =
            Inner { shared, keeps_text: options.keeps_text, writer: Mutex::new(Some(thread)) };
        Ok((Recorder { inner: Arc::new(inner) }, crashed))
    }

    /// What went through it.
    #[must_use]
    pub fn counters(&self) -> RecorderCounters {
        let shared = &self.inner.shared;
        RecorderCounters {
            recorded: shared.recorded.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
        }
    }

    /// Writes everything out and ends the writer.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Observer for Recorder {
    fn record(&self, event: &RequestEvent) {
        let (id, choice) = (event.request.id, event.choice);
        self.inner.shared.add(|waiting| match waiting.ended.len() < MAX_WAITING {
            true => waiting.ended.push((id, choice)),
            false => self.inner.dropped(),
        });
    }

    fn wants_steps(&self) -> bool {
        true
    }

    fn began(&self, begun: &AnswerBegun<'_>) {
        let answer = BegunAnswer {
            request: Arc::clone(begun.request),
            choice: begun.choice,
            prompt: begun.prompt.to_vec(),
            model: begun.model.to_owned(),
            release: begun.release.to_string(),
            arrived_at_ms: unix_micros(begun.arrived_at).cast_signed() / 1000,
        };
        self.inner.shared.add(|waiting| match waiting.begun.len() < MAX_WAITING {
            true => waiting.begun.push(answer),
            false => self.inner.dropped(),
        });
    }

    fn stepped(&self, step: &StepEvent<'_>) {
        let (at_us, keeps_text) = (unix_micros(SystemTime::now()), self.inner.keeps_text);
        let size = step_bytes(step.rows.len());
        self.inner.shared.add(|waiting| match waiting.steps.len() + size <= MAX_WAITING_BYTES {
            true => encode_step(step, at_us, keeps_text, &mut waiting.steps),
            false => self.inner.dropped(),
        });
    }
}

impl Inner {
    fn dropped(&self) {
        self.shared.dropped.fetch_add(1, Relaxed);
    }

    fn close(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = writer.take() else { return };
        self.shared.lock().is_closed = true;
        self.shared.has_work.notify_one();
        if thread.join().is_err() {
            tracing::error!("the flight recorder's writer panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where a home's ring is.
pub(crate) fn ring_path(folder: &Path) -> PathBuf {
    folder.join("flight.ring")
}

/// What a process locks while it records.
pub(crate) fn lock_path(folder: &Path) -> PathBuf {
    folder.join("flight.lock")
}

/// Where the ring of the last crash is kept.
pub(crate) fn crash_path(folder: &Path) -> PathBuf {
    folder.join("crash.ring")
}

/// Opens a file that only its owner reads; it is there afterwards.
pub(crate) fn private(path: &Path) -> Result<File, RecorderError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|source| RecorderError::Io {
        what: "open",
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn unix_micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
