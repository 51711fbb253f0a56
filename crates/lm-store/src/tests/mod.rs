//! The store through its public face, over temporary folders.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod costing;
mod evidence;
mod faults;
mod moving;
#[cfg(all(unix, feature = "postgres"))]
mod on_server;
mod privacy;
mod rows;
mod searching;
mod tenants;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lm_types::{
    ChatMessage, FinishReason, GenerateError, GenerateRequest, Observer, Outcome, Prompt,
    ReleaseHash, RequestEvent, RequestId, Role, Task, Timeline, Timings, Usage,
};

use crate::{Feedback, Privacy, Rating, Store, StoreError, StoreOptions};

const RELEASE: ReleaseHash = ReleaseHash([7; 16]);
const DAY: Duration = Duration::from_secs(86_400);

struct Home {
    folder: tempfile::TempDir,
    /// On a server rather than in the folder.
    url: Option<PathBuf>,
}

thread_local! {
    /// Makes the URL of an empty database for each home of this thread's tests; without, stores are files.
    static SERVER: RefCell<Option<Box<dyn FnMut() -> PathBuf>>> = const { RefCell::new(None) };
}

impl Home {
    fn new() -> Home {
        let url = SERVER.with_borrow_mut(|server| server.as_mut().map(|make| make()));
        Home { folder: tempfile::tempdir().unwrap(), url }
    }

    fn path(&self) -> PathBuf {
        self.url.clone().unwrap_or_else(|| self.folder.path().join("store").join("lastmile.db"))
    }

    fn open(&self) -> Store {
        self.open_with(|_| {})
    }

    fn open_with(&self, change: impl FnOnce(&mut StoreOptions)) -> Store {
        let mask_key = Some(self.folder.path().join("keys").join("mask.key"));
        let mut options = StoreOptions { mask_key, ..StoreOptions::default() };
        change(&mut options);
        Store::open(&self.path(), options).unwrap()
    }

    fn open_error(&self) -> StoreError {
        open_error(&self.path())
    }
}

fn open_error(path: &Path) -> StoreError {
    match Store::open(path, StoreOptions::default()) {
        Ok(_) => panic!("the store opened"),
        Err(error) => error,
    }
}

/// An answer that ended well. Arrived now, so that no retention touches it.
fn event(id: u128) -> RequestEvent {
    let messages = vec![ChatMessage { role: Role::User, content: "what is 2 + 2?".to_owned() }];
    let mut request = GenerateRequest::new(RequestId(id), Prompt::Chat(messages));
    request.stop.stop_strings = vec!["END".to_owned()];
    request.n = 2;
    RequestEvent {
        request,
        task: Task::Generate,
        choice: 0,
        model: "placeholder".to_owned(),
        release: RELEASE,
        arrived_at: SystemTime::now(),
        outcome: Outcome::Finished(FinishReason::Stop),
        output_text: "4".to_owned(),
        prompt_tokens: (0..10).collect(),
        output_tokens: vec![4, 2],
        hits: vec![],
        mean_logprob: None,
        timeline: Timeline::default(),
        usage: Usage {
            prompt_tokens: 10,
            completion_tokens: 2,
            cached_tokens: 3,
            ..Usage::default()
        },
        timings: Timings {
            queue_wait: Duration::from_millis(1),
            ttft: Duration::from_millis(20),
            e2e: Duration::from_millis(50),
            cpu_seconds: 0.25,
            n_preemptions: 1,
            ..Timings::default()
        },
    }
}

fn thumb_up(id: u128) -> Feedback {
    Feedback {
        request_id: RequestId(id),
        by: None,
        choice: 0,
        rating: Some(Rating::Boolean(true)),
        comment: Some("good".to_owned()),
        correction: None,
    }
}

fn record_all(store: &Store, ids: impl Iterator<Item = u128>) {
    ids.for_each(|id| store.record(&event(id)));
}
