//! Requests as they came, with their answers: to be sent again, or to be answered again.
//!
//! It must never give out what is not whole: a prompt that was not kept, or an answer that failed.

use serde::Serialize;
use serde_json::Value;

use crate::read::json_at;
use crate::{Reader, StoreError};

/// Most requests that are read at once.
const MAX_TRAFFIC: u32 = 100_000;

/// A request and its first answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// Unix milliseconds.
    pub arrived_at_ms: i64,
    /// `{"text" | "tokens" | "messages": …, "stop": […]}`.
    pub prompt: Value,
    /// What was answered.
    pub output_text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
}

impl Reader {
    /// The newest requests whose prompt and first answer are kept and whose answer is complete, oldest first. At most
    /// 100,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn traffic(&self, limit: u32) -> Result<Vec<Traffic>, StoreError> {
        let mut found: Vec<Traffic> = self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT r.arrived_at_ms, r.prompt, a.output_text, a.prompt_tokens, \
                     a.completion_tokens FROM request r JOIN attempt a ON a.request_id = r.id \
                     WHERE r.prompt IS NOT NULL AND a.choice = 0 AND a.output_text IS NOT NULL \
                     AND a.finish_reason IN ('stop', 'length') \
                     AND json_extract(r.params, '$.task') IS NULL \
                     ORDER BY r.arrived_at_ms DESC, r.id DESC LIMIT ?1",
                )?
                .query_map([limit.min(MAX_TRAFFIC)], |row| {
                    Ok(Traffic {
                        arrived_at_ms: row.get(0)?,
                        prompt: json_at(1, &row.get::<_, String>(1)?)?,
                        output_text: row.get(2)?,
                        prompt_tokens: row.get(3)?,
                        completion_tokens: row.get(4)?,
                    })
                })?
                .collect()
        })?;
        found.reverse();
        Ok(found)
    }
}
