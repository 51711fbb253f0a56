//! The rows of the store as plain data: what goes in and what comes back.
//!
//! It must never know SQL. Reports serialise to JSON as they are; ids are written as text.
//!
//! Start reading at [`Feedback`] (in) and [`StoredRequest`] (out).

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lm_types::{ReleaseHash, RequestId, TenantId};
use serde::{Serialize, Serializer};

use crate::StoreError;

/// What produced answers. Stored once; every other row points at it by its hash.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// The digest of everything below.
    pub hash: ReleaseHash,
    /// The model's name as served.
    pub model: String,
    /// The version of the engine.
    pub engine_version: String,
    /// Kernel path, KV type, weights digest, tokenizer, chat template and so on, as JSON.
    pub facts: serde_json::Value,
    /// How it is started again, in words of whoever started it; the newest that is known. No part of the digest.
    pub how: Option<String>,
}

/// What somebody says about one answer. At least one of rating, comment and correction.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// The request whose answer it is about.
    pub request_id: RequestId,
    /// Who says it: only on requests of the same tenant. `None` may say it on any.
    pub by: Option<TenantId>,
    /// Which of its answers, from 0.
    pub choice: u32,
    /// Good or bad.
    pub rating: Option<Rating>,
    /// In words. At most 64 KiB.
    pub comment: Option<String>,
    /// What the answer should have been. At most 1 MiB.
    pub correction: Option<String>,
}

/// Good or bad.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rating {
    /// Thumb up or down.
    Boolean(bool),
    /// From 0 (worst) to 1 (best).
    Score(f64),
}

/// One feedback. Written as a UUID of version 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedbackId(pub u128);

/// The process that serves, as `doctor` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// Its process id.
    pub pid: u32,
    /// The version of the program.
    pub version: String,
    /// Where it listens.
    pub address: String,
    /// What it serves.
    pub model: String,
    /// What produces its answers.
    pub release: ReleaseHash,
}

/// One run of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// A UUID of version 7.
    pub id: String,
    /// Its process id.
    pub pid: u32,
    /// Unix milliseconds.
    pub started_at_ms: i64,
    /// Unix milliseconds.
    pub last_heartbeat_ms: i64,
    /// Unix milliseconds; `None` while it runs and after a crash.
    pub stopped_at_ms: Option<i64>,
    /// The version of the program.
    pub version: String,
    /// Where it listens.
    pub address: String,
    /// What it serves.
    pub model: String,
    /// What produces its answers, in hexadecimal.
    pub release_hash: String,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It ended in order.
    Stopped,
    /// Its last sign of life is fresh.
    Running,
    /// It neither ended in order nor shows a sign of life.
    Crashed,
}

/// One request with its answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredRequest {
    /// The request.
    #[serde(serialize_with = "as_text")]
    pub id: RequestId,
    /// What produced its first stored answer, in hexadecimal.
    pub release_hash: String,
    /// The model's name as served.
    pub model: String,
    /// Unix milliseconds.
    pub arrived_at_ms: i64,
    /// `{"text" | "tokens" | "messages": …, "stop": […]}`; `None` when not kept or erased. Beside tokens, `read_as` is
    /// what rules read in their place.
    pub prompt: Option<serde_json::Value>,
    /// Sampling and stop rules, without texts.
    pub params: serde_json::Value,
    /// How many answers were asked for.
    pub n: u32,
    /// `interactive`, `batch` or `background`.
    pub priority: String,
    /// On whose behalf, as 16 hexadecimal digits: the id of a key. `None` came without one.
    pub tenant: Option<String>,
    /// On whose behalf, as the client said, or a keyed hash of that.
    pub subject: Option<String>,
    /// A keyed hash of the prompt, in mode `hmac`.
    pub prompt_mac: Option<String>,
    /// The trace of who sent it, as 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The answers so far, by choice.
    pub attempts: Vec<StoredAttempt>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredAttempt {
    /// Which of the request's answers, from 0.
    pub choice: u32,
    /// What produced it, in hexadecimal.
    pub release_hash: String,
    /// `stop`, `length` or `abort`; `None` when it failed.
    pub finish_reason: Option<String>,
    /// The stable word of the error; `None` when it finished.
    pub error_code: Option<String>,
    /// The error's sentence; `None` also when it may quote what is private.
    pub error_message: Option<String>,
    /// The text as far as it came; `None` when not kept or erased.
    pub output_text: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Prompt tokens from the prefix cache.
    pub cached_tokens: u32,
    /// From arrival until first scheduled.
    pub queue_wait_ms: f64,
    /// From arrival until the first token; `None` when there was none.
    pub ttft_ms: Option<f64>,
    /// From arrival until the end.
    pub e2e_ms: f64,
    /// Its share of the process's CPU time.
    pub cpu_seconds: f64,
    /// How often it was preempted.
    pub n_preemptions: u32,
    /// Its share of what the machine drew; `None` where that could not be read.
    pub joules: Option<f64>,
    /// What it cost by the prices of then; `None` when there were none.
    pub cost: Option<f64>,
    /// Of the cost.
    pub currency: Option<String>,
    /// A keyed hash of the text, in mode `hmac`.
    pub output_mac: Option<String>,
}

/// One answer that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredError {
    /// The request.
    #[serde(serialize_with = "as_text")]
    pub request_id: RequestId,
    /// Which of its answers.
    pub choice: u32,
    /// When the request arrived, in Unix milliseconds.
    pub arrived_at_ms: i64,
    /// The model's name as served.
    pub model: String,
    /// The stable word of the error.
    pub code: String,
    /// The error's sentence; `None` when it may quote what is private.
    pub message: Option<String>,
    /// What produced it, in hexadecimal.
    pub release_hash: String,
}

/// One feedback as stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredFeedback {
    /// The feedback.
    #[serde(serialize_with = "as_text")]
    pub id: FeedbackId,
    /// The request whose answer it is about.
    #[serde(serialize_with = "as_text")]
    pub request_id: RequestId,
    /// Which of its answers.
    pub choice: u32,
    /// Good or bad.
    pub rating: Option<Rating>,
    /// In words.
    pub comment: Option<String>,
    /// What the answer should have been.
    pub correction: Option<String>,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// What produced the answer, in hexadecimal.
    pub release_hash: String,
}

const MAX_COMMENT_BYTES: usize = 64 << 10;
const MAX_CORRECTION_BYTES: usize = 1 << 20;

impl Feedback {
    pub(crate) fn validate(&self) -> Result<(), StoreError> {
        let refuse =
            |field, value: String, limit| Err(StoreError::InvalidFeedback { field, value, limit });
        let bytes = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        if self.rating.is_none() && self.comment.is_none() && self.correction.is_none() {
            let limit = "given, or else comment or correction";
            return refuse("rating", "absent".to_owned(), limit);
        }
        if let Some(Rating::Score(score)) = self.rating
            && !(0.0..=1.0).contains(&score)
        {
            return refuse("rating", score.to_string(), "between 0 and 1");
        }
        if bytes(&self.comment) > MAX_COMMENT_BYTES {
            let value = format!("{} bytes long", bytes(&self.comment));
            return refuse("comment", value, "at most 65536 bytes");
        }
        if bytes(&self.correction) > MAX_CORRECTION_BYTES {
            let value = format!("{} bytes long", bytes(&self.correction));
            return refuse("correction", value, "at most 1048576 bytes");
        }
        Ok(())
    }
}

impl Run {
    /// What became of it, as seen at `now`: a run whose last sign of life is older than
    /// `patience` (several heartbeats) is taken for crashed.
    #[must_use]
    pub fn state(&self, now: SystemTime, patience: Duration) -> RunState {
        let silent_ms = unix_ms(now).saturating_sub(self.last_heartbeat_ms);
        match self.stopped_at_ms {
            Some(_) => RunState::Stopped,
            None if i128::from(silent_ms) <= patience.as_millis().cast_signed() => {
                RunState::Running
            }
            None => RunState::Crashed,
        }
    }
}

impl Display for FeedbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The same written form as a request's id.
        RequestId(self.0).fmt(f)
    }
}

fn as_text<S: Serializer>(id: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// Unix milliseconds; negative before 1970, saturating at the ends of i64.
pub(crate) fn unix_ms(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}
