//! Everything that is stored of one answer for computing it again, and how it went.
//!
//! It must never be read in bulk: it is the largest that is stored of an answer.
//!
//! Start reading at [`Reader::recorded`].

use lm_types::{RequestId, TokenId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::read::json_at;
use crate::sql::{self, Error, OptionalExtension, Row, params};
use crate::{Reader, StoreError, StoredTimeline};

/// What is stored of one answer besides [`crate::StoredAttempt`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedAnswer {
    /// Which of the request's answers, from 0.
    pub choice: u32,
    /// What produced it, in hexadecimal.
    pub release_hash: String,
    /// As of [`crate::StoredRequest::prompt`].
    pub prompt: Option<Value>,
    /// As [`crate::recipe::to_json`] writes it; `None` when not kept, erased or from an older version.
    pub recipe: Option<Value>,
    /// The prompt's tokens; `None` as above.
    pub prompt_tokens: Option<Vec<TokenId>>,
    /// The answer's tokens; `None` as above, and when there were none.
    pub output_tokens: Option<Vec<TokenId>>,
    /// `stop`, `length` or `abort`; `None` when it failed.
    pub finish_reason: Option<String>,
    /// The stable word of the error; `None` when it finished.
    pub error_code: Option<String>,
    /// `None` when it is from an older version.
    pub timeline: Option<StoredTimeline>,
}

/// What produced answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedRelease {
    /// Its digest, in hexadecimal.
    pub hash: String,
    /// The model's name as served.
    pub model: String,
    /// The version of the engine.
    pub engine_version: String,
    /// What answers depend on, by name.
    pub facts: Value,
    /// How it is started again.
    pub how: Option<String>,
    /// Unix milliseconds.
    pub first_seen_ms: i64,
}

/// Most releases that are read at once.
const MAX_RELEASES: u32 = 1000;

impl Reader {
    /// The answers of a request, by choice.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn recorded(&self, id: RequestId) -> Result<Vec<RecordedAnswer>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT a.choice, a.release_hash, r.prompt, r.recipe, r.prompt_tokens, \
                 a.output_tokens, a.finish_reason, a.error_code, a.timeline FROM attempt a \
                 JOIN request r ON r.id = a.request_id WHERE r.id = ?1 ORDER BY a.choice",
            )?
            .query_map([id.to_string()], |row| {
                Ok(RecordedAnswer {
                    choice: row.get(0)?,
                    release_hash: row.get(1)?,
                    prompt: json(row, 2)?,
                    recipe: json(row, 3)?,
                    prompt_tokens: json(row, 4)?.map(|value| typed(4, value)).transpose()?,
                    output_tokens: json(row, 5)?.map(|value| typed(5, value)).transpose()?,
                    finish_reason: row.get(6)?,
                    error_code: row.get(7)?,
                    timeline: json(row, 8)?.map(|value| typed(8, value)).transpose()?,
                })
            })?
            .collect()
        })
    }

    /// A request as [`crate::recipe::to_json`] writes it; `None` when not kept, erased or from an older version.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn recipe(&self, id: RequestId) -> Result<Option<Value>, StoreError> {
        let found = self.read(|c| {
            c.prepare_cached("SELECT recipe FROM request WHERE id = ?1")?
                .query_row([id.to_string()], |row| json(row, 0))
                .optional()
        })?;
        Ok(found.flatten())
    }

    /// The releases whose digests begin so, newest first; all of them for the empty text. At most 1,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn releases(&self, prefix: &str) -> Result<Vec<RecordedRelease>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT hash, model, engine_version, facts, how, first_seen_ms FROM release \
                 WHERE substr(hash, 1, length(CAST(?1 AS TEXT))) = CAST(?1 AS TEXT) \
                 ORDER BY first_seen_ms DESC, hash DESC LIMIT ?2",
            )?
            .query_map(params![prefix, MAX_RELEASES], release_row)?
            .collect()
        })
    }

    /// One release by its whole digest.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn release(&self, hash: &str) -> Result<Option<RecordedRelease>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT hash, model, engine_version, facts, how, first_seen_ms FROM release \
                 WHERE hash = ?1",
            )?
            .query_row([hash], release_row)
            .optional()
        })
    }
}

fn release_row(row: &Row) -> sql::Result<RecordedRelease> {
    Ok(RecordedRelease {
        hash: row.get(0)?,
        model: row.get(1)?,
        engine_version: row.get(2)?,
        facts: json_at(3, &row.get::<_, String>(3)?)?,
        how: row.get(4)?,
        first_seen_ms: row.get(5)?,
    })
}

fn json(row: &Row, column: usize) -> sql::Result<Option<Value>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| json_at(column, &text)).transpose()
}

fn typed<T: serde::de::DeserializeOwned>(column: usize, value: Value) -> sql::Result<T> {
    serde_json::from_value(value).map_err(|error| Error::conversion(column, error))
}
