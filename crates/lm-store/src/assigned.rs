//! Answers of experiments, in the order of their commits: for whoever weighs the evidence.
//!
//! It must never give a row out under another number than before.
//!
//! Start reading at [`Reader::assigned`].

use lm_types::{Arm, ArmTag, RequestId};

use crate::answers::answered_row;
use crate::read::id_at;
use crate::sql::{self, Error, OptionalExtension, Row, params};
use crate::{Answered, Reader, StoreError};

/// An answer of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Assigned {
    /// Its number: a later commit has a greater one, and none is given twice.
    pub seq: i64,
    /// Its place in the experiment.
    pub tag: ArmTag,
    /// What was asked and answered.
    pub answered: Answered,
}

/// As `answered_row` reads them.
const COLUMNS: &str = "a.choice, a.release_hash, a.finish_reason, a.error_code, a.error_message, \
    a.output_text, a.prompt_tokens, a.completion_tokens, a.cached_tokens, a.queue_wait_ms, \
    a.ttft_ms, a.e2e_ms, a.cpu_seconds, a.n_preemptions, a.joules, a.cost, a.currency, \
    a.output_mac, a.request_id, r.model, r.tenant, a.arrived_at_ms, r.prompt, r.params, r.n, \
    r.priority, CAST(json_extract(a.timeline, '$.mean_logprob') AS DOUBLE PRECISION), s.seq, \
    s.experiment, s.arm, s.unit, s.percent, s.variant, s.shadow_of";
const FROM: &str = "FROM assignment s JOIN attempt a ON a.request_id = s.request_id \
    AND a.choice = s.choice JOIN request r ON r.id = s.request_id";
/// Most rows of a page.
const MAX_ROWS: u32 = 10_000;

impl Reader {
    /// The answers of an experiment after a number, in order. At most 10,000.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn assigned(
        &self,
        experiment: &str,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<Assigned>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} {FROM} WHERE s.experiment = ?1 AND s.seq > ?2 ORDER BY s.seq LIMIT ?3"
        );
        self.read(|c| {
            c.prepare_cached(&sql)?
                .query_map(params![experiment, after_seq, limit.min(MAX_ROWS)], assigned_row)?
                .collect()
        })
    }

    /// The number that was given last; 0 when none was.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn last_assignment(&self) -> Result<i64, StoreError> {
        // Numbers of rows that were deleted are not given again, so the rows alone do not tell.
        self.read(|c| c.last_number("assignment"))
    }

    /// A request's place in an experiment, by its first answer that is stored; `None` when it has none.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn arm_of(&self, id: RequestId) -> Result<Option<Assigned>, StoreError> {
        let sql =
            format!("SELECT {COLUMNS} {FROM} WHERE s.request_id = ?1 ORDER BY s.choice LIMIT 1");
        self.read(|c| c.prepare_cached(&sql)?.query_row([id.to_string()], assigned_row).optional())
    }
}

fn assigned_row(row: &Row) -> sql::Result<Assigned> {
    let word: String = row.get(29)?;
    let unknown =
        || Error::conversion(29, format!("an arm {word:?} that this version does not know"));
    let has_original: Option<String> = row.get(33)?;
    Ok(Assigned {
        seq: row.get(27)?,
        tag: ArmTag {
            experiment: row.get(28)?,
            arm: Arm::of(&word).ok_or_else(unknown)?,
            unit: row.get(30)?,
            percent: row.get(31)?,
            variant: row.get(32)?,
            shadow_of: has_original.map(|_| id_at(row, 33)).transpose()?,
        },
        answered: answered_row(row)?,
    })
}
