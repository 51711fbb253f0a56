//! The loop through its public face, over a store in a temporary folder or on a PostgreSQL server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod carrying;
mod evaluating;
mod finding;
#[cfg(all(unix, feature = "postgres"))]
mod on_server;
mod reviewing;
mod turning;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use lm_store::{Feedback, Rating, Retention, Store, StoreOptions};
use lm_types::{
    ChatMessage, FinishReason, GenerateError, GenerateRequest, Observer, Outcome as Ended, Prompt,
    ReleaseHash, RequestEvent, RequestId, Role, Task, Timeline, Timings, Usage,
};

use crate::{Book, Collected};

/// Some day, in Unix milliseconds.
const DAY_0: i64 = 1_790_000_000_000;
const MINUTE: i64 = 60_000;

thread_local! {
    /// Makes the URL of an empty database for each home of this thread's tests; without, both are files.
    static SERVER: RefCell<Option<Box<dyn FnMut() -> PathBuf>>> = const { RefCell::new(None) };
}

/// A store and a book, gone at the end of the test.
struct Home {
    folder: tempfile::TempDir,
    /// On a server rather than in the folder.
    url: Option<PathBuf>,
    store: Store,
    book: Book,
    n_requests: u128,
}

impl Home {
    fn new() -> Home {
        let url = SERVER.with_borrow_mut(|server| server.as_mut().map(|make| make()));
        let folder = tempfile::tempdir().unwrap();
        // What happened on the days of these tests is old, and a writer that starts late would erase it.
        let for_ever = Duration::from_secs(u64::from(u32::MAX));
        let retention = Retention { bodies: for_ever, metadata: for_ever };
        let options = StoreOptions { retention, ..StoreOptions::default() };
        let place = url.clone().unwrap_or_else(|| folder.path().join("lastmile.db"));
        let store = Store::open(&place, options).unwrap();
        let book = Book::open(&Book::place(&place, folder.path().join("feedback.db"))).unwrap();
        Home { folder, url, store, book, n_requests: 0 }
    }

    /// Of the book.
    fn path(&self) -> PathBuf {
        self.url.clone().unwrap_or_else(|| self.folder.path().join("feedback.db"))
    }

    /// An answer that arrived at a time and took a second. Returns the request's id.
    fn answer(&mut self, at_ms: i64, asked: &[(Role, &str)], output: &str, ended: Ended) -> String {
        self.answer_with(at_ms, asked, output, ended, |_| ())
    }

    /// The same, with changes.
    fn answer_with(
        &mut self,
        at_ms: i64,
        asked: &[(Role, &str)],
        output: &str,
        ended: Ended,
        change: impl FnOnce(&mut RequestEvent),
    ) -> String {
        self.n_requests += 1;
        let id = RequestId(self.n_requests << 64);
        let message = |(role, text): &(Role, &str)| ChatMessage {
            role: role.clone(),
            content: (*text).to_owned(),
        };
        let prompt = Prompt::Chat(asked.iter().map(message).collect());
        let mut event = RequestEvent {
            request: GenerateRequest::new(id, prompt),
            task: Task::Generate,
            choice: 0,
            model: "placeholder".to_owned(),
            release: ReleaseHash([7; 16]),
            arrived_at: UNIX_EPOCH + Duration::from_millis(at_ms.cast_unsigned()),
            outcome: ended,
            output_text: output.to_owned(),
            prompt_tokens: Vec::new(),
            output_tokens: Vec::new(),
            hits: Vec::new(),
            mean_logprob: None,
            timeline: Timeline::default(),
            usage: Usage {
                prompt_tokens: 10,
                completion_tokens: 2,
                cached_tokens: 0,
                ..Usage::default()
            },
            timings: Timings {
                queue_wait: Duration::ZERO,
                ttft: Duration::from_millis(20),
                e2e: Duration::from_secs(1),
                cpu_seconds: 0.0,
                n_preemptions: 0,
                ..Timings::default()
            },
        };
        change(&mut event);
        self.store.record(&event);
        id.to_string()
    }

    fn good(&mut self, at_ms: i64, question: &str) -> String {
        let stopped = Ended::Finished(FinishReason::Stop);
        self.answer(at_ms, &[(Role::User, question)], "A fine answer.", stopped)
    }

    fn rate(&self, request_id: &str, good: bool) {
        self.store.flush().unwrap();
        let rating = Some(Rating::Boolean(good));
        let feedback = Feedback {
            request_id: request_id.parse().unwrap(),
            by: None,
            choice: 0,
            rating,
            comment: None,
            correction: None,
        };
        self.store.feedback(feedback).unwrap();
    }

    fn collect(&mut self, now_ms: i64) -> Collected {
        self.store.flush().unwrap();
        self.book.collect(self.store.reader(), now_ms).unwrap()
    }
}

fn backend_error() -> Ended {
    Ended::Failed(GenerateError::Backend { message: "it broke".to_owned() })
}
