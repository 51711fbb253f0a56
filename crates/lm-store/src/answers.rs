//! Answers and feedback in bulk, page by page in the order of arrival: for whoever learns from them.
//!
//! It must never hold more than a page.
//!
//! Start reading at [`Reader::answers`].

use crate::read::{attempt_row, feedback_row, id_at, json_at};
use crate::sql::{self, Row, params};
use crate::{Reader, StoreError, StoredAttempt, StoredFeedback};
use lm_types::RequestId;

/// One answer with what was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The request.
    pub request_id: RequestId,
    /// The model's name as served.
    pub model: String,
    /// As 16 hexadecimal digits; `None` came without a key.
    pub tenant: Option<String>,
    /// Unix milliseconds.
    pub arrived_at_ms: i64,
    /// As of [`crate::StoredRequest::prompt`].
    pub prompt: Option<serde_json::Value>,
    /// As of [`crate::StoredRequest::params`].
    pub params: serde_json::Value,
    /// How many answers were asked for.
    pub n: u32,
    /// `interactive`, `batch` or `background`.
    pub priority: String,
    /// The answer.
    pub attempt: StoredAttempt,
    /// The mean log-probability of its tokens; `None` where the request asked for none.
    pub mean_logprob: Option<f64>,
}

/// Where a page ended: the next one begins after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    at_ms: i64,
    id: String,
    choice: u32,
}

/// Most rows of a page, whatever its `limit`.
const MAX_ROWS: u32 = 10_000;

impl Answered {
    /// Where a page ends whose last answer this is.
    #[must_use]
    pub fn place(&self) -> Place {
        let choice = self.attempt.choice;
        Place { at_ms: self.arrived_at_ms, id: self.request_id.to_string(), choice }
    }
}

impl Place {
    /// Before all that arrived at this time or later, in Unix milliseconds.
    #[must_use]
    pub fn before(at_ms: i64) -> Place {
        Place { at_ms, id: String::new(), choice: 0 }
    }

    /// Where a page of feedback ends whose last entry this is.
    #[must_use]
    pub fn of_feedback(feedback: &StoredFeedback) -> Place {
        Place { at_ms: feedback.created_at_ms, id: feedback.id.to_string(), choice: 0 }
    }
}

impl Reader {
    /// The generated answers after a place whose requests arrived before `end_ms` (Unix milliseconds), in order. At most 10,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn answers(
        &self,
        after: &Place,
        end_ms: i64,
        limit: u32,
    ) -> Result<Vec<Answered>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT a.choice, a.release_hash, a.finish_reason, a.error_code, \
                 a.error_message, a.output_text, a.prompt_tokens, a.completion_tokens, \
                 a.cached_tokens, a.queue_wait_ms, a.ttft_ms, a.e2e_ms, a.cpu_seconds, \
                 a.n_preemptions, a.joules, a.cost, a.currency, a.output_mac, a.request_id, r.model, r.tenant, a.arrived_at_ms, r.prompt, \
                 r.params, r.n, r.priority, \
                 CAST(json_extract(a.timeline, '$.mean_logprob') AS DOUBLE PRECISION) FROM attempt a JOIN request r ON r.id = a.request_id \
                 WHERE a.arrived_at_ms >= ?1 AND a.arrived_at_ms < ?4 \
                 AND (a.arrived_at_ms, a.request_id, a.choice) > (?1, ?2, ?3) \
                 AND json_extract(r.params, '$.task') IS NULL AND NOT EXISTS (SELECT 1 FROM assignment s \
                 WHERE s.request_id = a.request_id AND s.arm = 'shadow') \
                 ORDER BY a.arrived_at_ms, a.request_id, a.choice LIMIT ?5",
            )?
            .query_map(
                params![after.at_ms, after.id, after.choice, end_ms, limit.min(MAX_ROWS)],
                answered_row,
            )?
            .collect()
        })
    }

    /// How many generated answers there are whose requests arrived from `from_ms` and before `end_ms`, in Unix milliseconds, and
    /// of one release when it is given.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn count_answers(
        &self,
        from_ms: i64,
        end_ms: i64,
        release_hash: Option<&str>,
    ) -> Result<u64, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT count(*) FROM attempt a JOIN request r ON r.id = a.request_id \
                 WHERE a.arrived_at_ms >= ?1 AND a.arrived_at_ms < ?2 \
                 AND (CAST(?3 AS TEXT) IS NULL OR a.release_hash = ?3) \
                 AND json_extract(r.params, '$.task') IS NULL AND NOT EXISTS (SELECT 1 FROM assignment s \
                 WHERE s.request_id = a.request_id AND s.arm = 'shadow')",
            )?
            .query_row(params![from_ms, end_ms, release_hash], |row| row.get::<_, i64>(0))
            .map(i64::cast_unsigned)
        })
    }

    /// The feedback after a place that was given before `end_ms`, in order. At most 10,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn feedback(
        &self,
        after: &Place,
        end_ms: i64,
        limit: u32,
    ) -> Result<Vec<StoredFeedback>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT id, choice, rating_kind, rating, comment, correction, created_at_ms, \
                 release_hash, request_id FROM feedback \
                 WHERE created_at_ms >= ?1 AND created_at_ms < ?3 \
                 AND (created_at_ms, id) > (?1, ?2) ORDER BY created_at_ms, id LIMIT ?4",
            )?
            .query_map(params![after.at_ms, after.id, end_ms, limit.min(MAX_ROWS)], |row| {
                feedback_row(id_at(row, 8)?, row)
            })?
            .collect()
        })
    }
}

impl Reader {
    /// The requests of which an answer was called bad or corrected, after a place: each with the place where it was. At
    /// most 10,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn bad_feedback(
        &self,
        after: &Place,
        limit: u32,
    ) -> Result<Vec<(Place, RequestId)>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT created_at_ms, id, request_id FROM feedback \
                 WHERE created_at_ms >= ?1 AND (created_at_ms, id) > (?1, ?2) \
                 AND (correction IS NOT NULL OR rating < 0.5) ORDER BY created_at_ms, id LIMIT ?3",
            )?
            .query_map(params![after.at_ms, after.id, limit.min(MAX_ROWS)], |row| {
                let place = Place { at_ms: row.get(0)?, id: row.get(1)?, choice: 0 };
                Ok((place, id_at(row, 2)?))
            })?
            .collect()
        })
    }
}

pub(crate) fn answered_row(row: &Row) -> sql::Result<Answered> {
    let prompt: Option<String> = row.get(22)?;
    Ok(Answered {
        attempt: attempt_row(row)?,
        request_id: id_at(row, 18)?,
        model: row.get(19)?,
        tenant: row.get(20)?,
        arrived_at_ms: row.get(21)?,
        prompt: prompt.map(|text| json_at(22, &text)).transpose()?,
        params: json_at(23, &row.get::<_, String>(23)?)?,
        n: row.get(24)?,
        priority: row.get(25)?,
        mean_logprob: row.get(26)?,
    })
}
