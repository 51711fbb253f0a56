//! What is stored, read by a connection that cannot write: safe beside the writer and from other
//! processes.
//!
//! It must never create, upgrade or repair a file.
//!
//! Start reading at [`Reader::open`].

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lm_types::RequestId;
use serde::Serialize;

use crate::error::ErrorContext;
use crate::sql::{self, Connection, Error, OptionalExtension, Row, ToValue, Value};
use crate::{
    FeedbackId, Rating, Run, StoreError, StoredAttempt, StoredError, StoredFeedback, StoredRequest,
    schema,
};

/// Reads one store. Calls from several threads take turns.
pub struct Reader {
    connection: Mutex<Connection>,
    context: ErrorContext,
}

/// How many rows each table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// Releases.
    pub releases: u64,
    /// Requests.
    pub requests: u64,
    /// Answers.
    pub attempts: u64,
    /// Feedback.
    pub feedback: u64,
    /// Runs of the process.
    pub runs: u64,
}

/// Most rows that one call returns, whatever its `limit`.
const MAX_ROWS: u32 = 10_000;
/// Requests that are looked for at once.
const AT_ONCE: usize = 500;

impl Reader {
    /// Opens a store that exists, such as the one of a server that runs.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::SchemaOlder`], [`StoreError::SchemaNewer`],
    /// [`StoreError::NotAStore`], [`StoreError::Corrupt`].
    pub fn open(path: &Path) -> Result<Reader, StoreError> {
        Reader::with_context(path, ErrorContext::of_reader(path))
    }

    pub(crate) fn with_context(path: &Path, context: ErrorContext) -> Result<Reader, StoreError> {
        let connection = schema::open_reader(path, &context)?;
        Ok(Reader { connection: Mutex::new(connection), context })
    }

    /// Where the store is; of a server, without a password.
    pub(crate) fn place(&self) -> &Path {
        &self.context.path
    }

    /// One request with its answers, or `None` when it is unknown or was erased.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn request(&self, id: RequestId) -> Result<Option<StoredRequest>, StoreError> {
        self.read(|c| {
            let found = c
                .prepare_cached(
                    "SELECT release_hash, model, arrived_at_ms, prompt, params, n, priority, \
                     tenant, subject, prompt_mac, trace_id FROM request WHERE id = ?1",
                )?
                .query_row([id.to_string()], |row| request_row(id, row))
                .optional()?;
            let Some(mut request) = found else { return Ok(None) };
            request.attempts = c
                .prepare_cached(
                    "SELECT choice, release_hash, finish_reason, error_code, error_message, \
                     output_text, prompt_tokens, completion_tokens, cached_tokens, \
                     queue_wait_ms, ttft_ms, e2e_ms, cpu_seconds, n_preemptions, joules, \
                     cost, currency, output_mac FROM attempt \
                     WHERE request_id = ?1 ORDER BY choice",
                )?
                .query_map([id.to_string()], attempt_row)?
                .collect::<Result<_, _>>()?;
            Ok(Some(request))
        })
    }

    /// The newest answers that failed, newest first. At most 10,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn recent_errors(&self, limit: u32) -> Result<Vec<StoredError>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT a.request_id, a.choice, a.arrived_at_ms, coalesce(r.model, ''), \
                 a.error_code, a.error_message, a.release_hash FROM attempt a \
                 LEFT JOIN request r ON r.id = a.request_id WHERE a.error_code IS NOT NULL \
                 ORDER BY a.arrived_at_ms DESC, a.request_id DESC, a.choice DESC LIMIT ?1",
            )?
            .query_map([limit.min(MAX_ROWS)], |row| {
                Ok(StoredError {
                    request_id: id_at(row, 0)?,
                    choice: row.get(1)?,
                    arrived_at_ms: row.get(2)?,
                    model: row.get(3)?,
                    code: row.get(4)?,
                    message: row.get(5)?,
                    release_hash: row.get(6)?,
                })
            })?
            .collect()
        })
    }

    /// The feedback on one request, oldest first. At most 10,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn feedback_for(&self, id: RequestId) -> Result<Vec<StoredFeedback>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT id, choice, rating_kind, rating, comment, correction, created_at_ms, \
                 release_hash FROM feedback WHERE request_id = ?1 ORDER BY created_at_ms, id LIMIT ?2",
            )?
            .query_map((id.to_string(), MAX_ROWS), |row| feedback_row(id, row))?
            .collect()
        })
    }

    /// The newest runs, newest first. At most 10,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn runs(&self, limit: u32) -> Result<Vec<Run>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT id, pid, started_at_ms, last_heartbeat_ms, stopped_at_ms, version, \
                 address, model, release_hash FROM process_run \
                 ORDER BY started_at_ms DESC, id DESC LIMIT ?1",
            )?
            .query_map([limit.min(MAX_ROWS)], |row| {
                Ok(Run {
                    id: row.get(0)?,
                    pid: row.get(1)?,
                    started_at_ms: row.get(2)?,
                    last_heartbeat_ms: row.get(3)?,
                    stopped_at_ms: row.get(4)?,
                    version: row.get(5)?,
                    address: row.get(6)?,
                    model: row.get(7)?,
                    release_hash: row.get(8)?,
                })
            })?
            .collect()
        })
    }

    /// How many rows each table has.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn counts(&self) -> Result<RowCounts, StoreError> {
        self.read(|c| {
            c.query_row(
                "SELECT (SELECT count(*) FROM release), (SELECT count(*) FROM request), \
                 (SELECT count(*) FROM attempt), (SELECT count(*) FROM feedback), \
                 (SELECT count(*) FROM process_run)",
                (),
                |row| {
                    let n = |i| row.get::<_, i64>(i).map(i64::cast_unsigned);
                    Ok(RowCounts {
                        releases: n(0)?,
                        requests: n(1)?,
                        attempts: n(2)?,
                        feedback: n(3)?,
                        runs: n(4)?,
                    })
                },
            )
        })
    }

    /// Which of these requests, given in their written form, are stored.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn known(&self, ids: &[String]) -> Result<HashSet<String>, StoreError> {
        let marks: Vec<String> = (1..=AT_ONCE).map(|i| format!("?{i}")).collect();
        let sql = format!("SELECT id FROM request WHERE id IN ({})", marks.join(", "));
        self.read(|c| {
            let mut statement = c.prepare_cached(&sql)?;
            let mut known = HashSet::new();
            for some in ids.chunks(AT_ONCE) {
                let mut values: Vec<Value> = some.iter().map(ToValue::to_value).collect();
                // It is one statement, however many are asked for.
                values.resize(AT_ONCE, Value::Null);
                for id in statement.query_map(values, |row| row.get(0))? {
                    known.insert(id?);
                }
            }
            Ok(known)
        })
    }

    /// Runs `query` on one consistent state of the file.
    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> sql::Result<T>,
    ) -> Result<T, StoreError> {
        let connection: MutexGuard<'_, Connection> =
            self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.begin_read();
        transaction
            .and_then(|transaction| query(&transaction))
            .map_err(|e| self.context.wrap("read", &e))
    }
}

impl Reader {
    /// Runs what may not be in a transaction.
    pub(crate) fn read_outside<T>(
        &self,
        run: impl FnOnce(&Connection) -> sql::Result<T>,
    ) -> Result<T, StoreError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        run(&connection).map_err(|e| self.context.wrap("copy", &e))
    }
}

fn request_row(id: RequestId, row: &Row) -> sql::Result<StoredRequest> {
    let prompt: Option<String> = row.get(3)?;
    Ok(StoredRequest {
        id,
        release_hash: row.get(0)?,
        model: row.get(1)?,
        arrived_at_ms: row.get(2)?,
        prompt: prompt.map(|text| json_at(3, &text)).transpose()?,
        params: json_at(4, &row.get::<_, String>(4)?)?,
        n: row.get(5)?,
        priority: row.get(6)?,
        tenant: row.get(7)?,
        subject: row.get(8)?,
        prompt_mac: row.get(9)?,
        trace_id: row.get(10)?,
        attempts: Vec::new(),
    })
}

pub(crate) fn attempt_row(row: &Row) -> sql::Result<StoredAttempt> {
    Ok(StoredAttempt {
        choice: row.get(0)?,
        release_hash: row.get(1)?,
        finish_reason: row.get(2)?,
        error_code: row.get(3)?,
        error_message: row.get(4)?,
        output_text: row.get(5)?,
        prompt_tokens: row.get(6)?,
        completion_tokens: row.get(7)?,
        cached_tokens: row.get(8)?,
        queue_wait_ms: row.get(9)?,
        ttft_ms: row.get(10)?,
        e2e_ms: row.get(11)?,
        cpu_seconds: row.get(12)?,
        n_preemptions: row.get(13)?,
        joules: row.get(14)?,
        cost: row.get(15)?,
        currency: row.get(16)?,
        output_mac: row.get(17)?,
    })
}

pub(crate) fn feedback_row(request_id: RequestId, row: &Row) -> sql::Result<StoredFeedback> {
    let (kind, value): (Option<String>, Option<f64>) = (row.get(2)?, row.get(3)?);
    let rating = match (kind.as_deref(), value) {
        (Some("boolean"), Some(value)) => Some(Rating::Boolean(value > 0.5)),
        (Some(_), Some(value)) => Some(Rating::Score(value)),
        _ => None,
    };
    Ok(StoredFeedback {
        id: FeedbackId(id_at(row, 0)?.0),
        request_id,
        choice: row.get(1)?,
        rating,
        comment: row.get(4)?,
        correction: row.get(5)?,
        created_at_ms: row.get(6)?,
        release_hash: row.get(7)?,
    })
}

pub(crate) fn id_at(row: &Row, column: usize) -> sql::Result<RequestId> {
    row.get::<_, String>(column)?.parse().map_err(|e| Error::conversion(column, e))
}

pub(crate) fn json_at(column: usize, text: &str) -> sql::Result<serde_json::Value> {
    serde_json::from_str(text).map_err(|e| Error::conversion(column, e))
}
