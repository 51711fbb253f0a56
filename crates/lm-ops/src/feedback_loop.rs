//! The loop from failures to fixes, as a server shows it.
//!
//! Pages look at what was concluded; what is new in the store is read by a thread of its own, at most a twentieth of the
//! time, so that pages that are looked at all day cost little. All else blocks, and belongs on a thread that may wait.
//!
//! It must never be waited for on the way of a request, and never hold a page up for longer than a moment.
//!
//! Start reading at [`FeedbackLoop::problems`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lm_api::{ApiError, OpsRefusal};
use lm_feedback::{Book, Decision, FeedbackError};
use lm_store::{Reader, Store};

use crate::failure_views::{Example, FixView, ProblemView, ReviewView};
use crate::loop_pages::{AsOf, FixPage, LearningPage, ProblemDetail, ProblemPage, ReviewPage};
use crate::now_ms;

/// The loop of one home. Clones share it.
#[derive(Clone)]
pub struct FeedbackLoop(Arc<Inner>);

struct Inner {
    path: PathBuf,
    store: Store,
    /// Opened when somebody first asks.
    book: Mutex<Option<Book>>,
    reading: Mutex<Reading>,
    read: Condvar,
}

/// The reading of what is new in the store.
#[derive(Default)]
struct Reading {
    goes_on: bool,
    failed: bool,
    not_before: Option<Instant>,
}

/// How long a page waits for what is new, or for who writes; what takes longer is in the next one, or refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// At least so long between two readings, and so many times what one takes.
const REST: Duration = Duration::from_secs(2);
const REST_TIMES: u32 = 20;
/// Parts of a trend.
const N_PARTS: usize = 14;
const N_WEEKS: usize = 8;

impl FeedbackLoop {
    /// The conclusions at `path`, a file that need not exist yet or the server of a URL, from the traffic in `store`.
    #[must_use]
    pub fn new(path: PathBuf, store: &Store) -> FeedbackLoop {
        FeedbackLoop(Arc::new(Inner {
            path,
            store: store.clone(),
            book: Mutex::default(),
            reading: Mutex::default(),
            read: Condvar::new(),
        }))
    }

    /// Where the conclusions lie.
    pub(crate) fn place(&self) -> &Path {
        &self.0.path
    }

    /// Problems that occurred since `from_ms` (Unix milliseconds), `limit` of them behind the first `skip`.
    ///
    /// # Errors
    /// `Internal` when the files cannot be read.
    pub fn problems(
        &self,
        from_ms: i64,
        skip: usize,
        limit: usize,
    ) -> Result<ProblemPage, ApiError> {
        self.catch_up()?;
        self.with(|book, reader| {
            let all = problems(book, reader, from_ms)?;
            Ok(ProblemPage {
                as_of: self.as_of(book)?,
                n_problems: all.len(),
                n_answers: reader.count_answers(from_ms, now_ms(), None)?,
                data: all.into_iter().skip(skip).take(limit).collect(),
            })
        })
    }

    /// The one problem whose id begins so, with its newest `limit` failures and its fixes.
    ///
    /// # Errors
    /// `Ops` when there is none, `Internal`.
    pub fn problem(
        &self,
        cluster: &str,
        from_ms: i64,
        limit: u32,
    ) -> Result<ProblemDetail, ApiError> {
        self.catch_up()?;
        self.with(|book, reader| {
            let cluster = book.cluster(cluster)?;
            let mut all = problems(book, reader, from_ms)?.into_iter();
            let problem = all.find(|one| one.ranked.cluster == cluster);
            let rows = book.failures(Some(&cluster), limit)?.into_iter();
            let fixes = book.fixes()?.into_iter().filter(|fix| fix.cluster == cluster);
            let fixes = fixes.take(limit as usize);
            let now_ms = now_ms();
            Ok(ProblemDetail {
                as_of: self.as_of(book)?,
                problem,
                examples: rows
                    .map(|row| Example::of(book, reader, row))
                    .collect::<Result<_, _>>()?,
                fixes: fixes
                    .map(|fix| FixView::of(book, reader, fix, now_ms))
                    .collect::<Result<_, _>>()?,
                cluster,
            })
        })
    }

    /// What was done, with what the traffic says of it.
    ///
    /// # Errors
    /// `Internal` when the files cannot be read.
    pub fn fixes(&self, skip: usize, limit: usize) -> Result<FixPage, ApiError> {
        self.catch_up()?;
        self.with(|book, reader| {
            let all = book.fixes()?;
            let now_ms = now_ms();
            Ok(FixPage {
                as_of: self.as_of(book)?,
                n_fixes: all.len(),
                data: all
                    .into_iter()
                    .skip(skip)
                    .take(limit)
                    .map(|fix| FixView::of(book, reader, fix, now_ms))
                    .collect::<Result<_, _>>()?,
            })
        })
    }

    /// Leases failures to a reviewer until there are `n`, see [`Book::lease_some`].
    ///
    /// # Errors
    /// `Ops` while much traffic is new, `Internal` when the files cannot be read or written.
    pub fn lease(&self, reviewer: &str, n: usize) -> Result<ReviewPage, ApiError> {
        if self.catch_up()? {
            let message = "the traffic is still being read: try again in a moment".to_owned();
            return Err(ApiError::Ops(OpsRefusal::Busy { message }));
        }
        self.with(|book, reader| {
            let items = book.lease_some(reviewer, n, now_ms())?.into_iter();
            let (n_failures, n_unreviewed) = book.n_unreviewed()?;
            Ok(ReviewPage {
                as_of: self.as_of(book)?,
                reviewer: reviewer.to_owned(),
                n_failures,
                n_unreviewed,
                data: items
                    .map(|item| ReviewView::of(book, reader, item))
                    .collect::<Result<_, _>>()?,
            })
        })
    }

    /// Says what a reviewer found, see [`Book::review`]. Returns the answer's whole name.
    ///
    /// # Errors
    /// `Ops` when there is no such failure, somebody else has or had it, or another one writes, `Invalid`, `Internal`.
    pub fn review(
        &self,
        answer: &str,
        decision: &Decision,
        reviewer: &str,
    ) -> Result<String, ApiError> {
        self.with(|book, _| book.review(answer, decision, reviewer, now_ms()))
    }

    /// Takes a verdict back, see [`Book::take_back`].
    ///
    /// # Errors
    /// `Ops` when the reviewer gave none, `Invalid`, `Internal`.
    pub fn take_back(&self, answer: &str, reviewer: &str) -> Result<ReviewView, ApiError> {
        self.with(|book, reader| {
            let item = book.take_back(answer, reviewer, now_ms())?;
            ReviewView::of(book, reader, item)
        })
    }

    /// Ends a reviewer's leases. Returns how many they were.
    ///
    /// # Errors
    /// `Internal` when the file cannot be written.
    pub fn give_back(&self, reviewer: &str) -> Result<usize, ApiError> {
        self.with(|book, _| book.give_back(reviewer))
    }

    /// How fast one learned from the failures since `from_ms`, in Unix milliseconds.
    ///
    /// # Errors
    /// `Internal` when the file cannot be read.
    pub fn learning(&self, from_ms: i64) -> Result<LearningPage, ApiError> {
        self.catch_up()?;
        self.with(|book, _| {
            Ok(LearningPage {
                as_of: self.as_of(book)?,
                learning: book.learning(from_ms)?,
                weeks: book.weeks(now_ms(), N_WEEKS)?,
            })
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Book, &Reader) -> Result<T, FeedbackError>,
    ) -> Result<T, ApiError> {
        let mut open = self.0.book.lock().unwrap_or_else(PoisonError::into_inner);
        let book = match open.take() {
            Some(book) => open.insert(book),
            None => {
                let book = Book::open_impatient(&self.0.path, PATIENCE).map_err(refusal)?;
                open.insert(book)
            }
        };
        work(book, self.0.store.reader()).map_err(refusal)
    }

    fn as_of(&self, book: &Book) -> Result<AsOf, FeedbackError> {
        let as_of_ms = book.collected_ms()?;
        let reading = self.0.reading();
        Ok(AsOf { as_of_ms, is_reading: reading.goes_on, is_failing: reading.failed })
    }

    /// Has what is new in the store read, unless that was done a moment ago, and waits a little for it. Returns whether
    /// it still goes on.
    fn catch_up(&self) -> Result<bool, ApiError> {
        // Opening the file would wait for who writes to it.
        self.with(|_, _| Ok(()))?;
        let mut reading = self.0.reading();
        let is_due = reading.not_before.is_none_or(|time| time <= Instant::now());
        if is_due && !reading.goes_on {
            reading.goes_on = true;
            let inner = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("lm-feedback".to_owned());
            if let Err(error) = thread.spawn(move || inner.read_what_is_new()) {
                tracing::error!(%error, "there is no thread to read the store with");
                (reading.goes_on, reading.failed) = (false, true);
            }
        }
        let waited = self.0.read.wait_timeout_while(reading, PATIENCE, |reading| reading.goes_on);
        let (reading, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok(reading.goes_on)
    }
}

impl Inner {
    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_what_is_new(&self) {
        let mut turn = Turn { inner: self, began: Instant::now(), has_failed: true };
        // A connection of its own: what was concluded before can be looked at meanwhile.
        let done =
            Book::open(&self.path).and_then(|mut book| book.collect(self.store.reader(), now_ms()));
        match done {
            Ok(_) => turn.has_failed = false,
            Err(error) => tracing::error!(%error, "what is new in the store cannot be read"),
        }
    }
}

/// The end of a reading is told however it ends.
struct Turn<'a> {
    inner: &'a Inner,
    began: Instant,
    has_failed: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let rest = REST.max(self.began.elapsed().saturating_mul(REST_TIMES));
        let mut reading = self.inner.reading();
        reading.goes_on = false;
        reading.failed = self.has_failed;
        reading.not_before = Instant::now().checked_add(rest);
        self.inner.read.notify_all();
    }
}

/// All problems of a window, what to solve first first.
fn problems(book: &Book, reader: &Reader, from_ms: i64) -> Result<Vec<ProblemView>, FeedbackError> {
    let now_ms = now_ms();
    let mut trends = book.trend(from_ms, now_ms, N_PARTS)?;
    let mut n_fixes: HashMap<String, usize> = HashMap::new();
    for fix in book.fixes()? {
        *n_fixes.entry(fix.cluster).or_default() += 1;
    }
    let ranked = book.ranked(reader, from_ms, now_ms)?.into_iter().zip(1..);
    let view = |(ranked, rank): (lm_feedback::Ranked, usize)| ProblemView {
        trend: trends.remove(&ranked.cluster).unwrap_or_else(|| vec![0; N_PARTS]),
        n_fixes: n_fixes.get(&ranked.cluster).copied().unwrap_or(0),
        ranked,
        rank,
    };
    Ok(ranked.map(view).collect())
}

/// What a client is told. Paths are for the operator.
fn refusal(error: FeedbackError) -> ApiError {
    if error.is_busy() {
        let message = "another one writes down failures: try again in a moment".to_owned();
        return ApiError::Ops(OpsRefusal::Busy { message });
    }
    let message = error.to_string();
    match error {
        FeedbackError::Invalid { field, value, limit } => {
            ApiError::Invalid { param: field.to_owned(), found: value, wanted: limit.to_owned() }
        }
        FeedbackError::Unknown { .. } => ApiError::Ops(OpsRefusal::Unknown { message }),
        FeedbackError::Leased { .. }
        | FeedbackError::Reviewed { .. }
        | FeedbackError::NotReviewed { .. }
        | FeedbackError::NoCheck { .. } => ApiError::Ops(OpsRefusal::WrongState { message }),
        FeedbackError::Store(_)
        | FeedbackError::Database { .. }
        | FeedbackError::OnlyThere { .. }
        | FeedbackError::Foreign { .. } => {
            tracing::error!(error = message, "failures could not be read or written");
            ApiError::Internal { what: "the failures could not be read or written".to_owned() }
        }
    }
}
