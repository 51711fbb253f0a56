//! A fix: what was done about a problem, what the traffic says of it, and what must stay true after.
//!
//! It must never change what was found once.
//!
//! Start reading at [`Fix`], then at [`Book::verify`].

use lm_store::sql::{self, Row, params};
use serde::Serialize;

use crate::{Book, FeedbackError, Scorer};

/// What was done about a problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fix {
    /// `f` and 12 hexadecimal digits.
    pub id: String,
    /// The problem.
    pub cluster: String,
    /// What was done, in words.
    pub note: String,
    /// The new system instruction, when that is what was done: the gate's prompts have it.
    pub system: Option<String>,
    /// What the user's last message became, with `{question}` for itself, when that is what was done.
    pub template: Option<String>,
    /// How the gate knows a good answer, as [`Scorer::parse`] reads it; `None` goes by the problem's kind.
    pub expect: Option<String>,
    /// The release that has the fix; `None` is all traffic since the fix was noted.
    pub release_hash: Option<String>,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// When it was first seen to help, in Unix milliseconds.
    pub verified_at_ms: Option<i64>,
    /// The dataset that must pass from then on.
    pub gate: Option<String>,
}

/// How far a fix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FixStatus {
    /// Not known to help.
    Open,
    /// It helps.
    Verified,
}

/// What the traffic says of a fix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// The fix.
    pub fix: String,
    /// When it was looked at, in Unix milliseconds.
    pub at_ms: i64,
    /// Answers before.
    pub before_n: u64,
    /// Of them those that failed as the problem does.
    pub before_failed: u64,
    /// Answers after.
    pub after_n: u64,
    /// Of them those that failed as the problem does, or as problems of its kind that began since.
    pub after_failed: u64,
    /// Of these those of problems that began since: what failed so before may have got another name by the fix.
    pub after_moved: u64,
    /// Failures count on either side that were noticed within so many milliseconds of their answer; answers that came later than
    /// that before the look do not count yet. 0 where an answer shows at its end whether it failed.
    pub horizon_ms: u64,
    /// The lower end of the interval of the failure rate after less the one before, without what may have moved.
    pub change_low: f64,
    /// Its upper end, with what may have moved: below 0 the fix helps.
    pub change_high: f64,
    /// `improved`, `worse` or `undecided`.
    pub verdict: &'static str,
}

const MAX_NOTE_BYTES: usize = 64 << 10;
const FIX_COLUMNS: &str = "id, cluster_id, note, system, template, expect, release_hash, \
    created_at_ms, verified_at_ms, gate";
pub(crate) const IMPROVED: &str = "improved";
pub(crate) const WORSE: &str = "worse";
pub(crate) const UNDECIDED: &str = "undecided";
/// Stands for the question in a template.
pub(crate) const QUESTION: &str = "{question}";

impl Fix {
    /// How far it is.
    #[must_use]
    pub fn status(&self) -> FixStatus {
        if self.verified_at_ms.is_some() { FixStatus::Verified } else { FixStatus::Open }
    }
}

impl Book {
    /// Notes a fix. `id`, `verified_at_ms` and `gate` are filled in.
    ///
    /// # Errors
    /// [`FeedbackError::Unknown`] when there is no such cluster, [`FeedbackError::Invalid`].
    pub fn add_fix(&mut self, fix: Fix) -> Result<Fix, FeedbackError> {
        let texts = [
            ("note", Some(&fix.note)),
            ("system", fix.system.as_ref()),
            ("template", fix.template.as_ref()),
        ];
        for (field, text) in texts {
            if text.is_some_and(|text| text.len() > MAX_NOTE_BYTES || text.trim().is_empty()) {
                let value = format!("{} bytes long", text.map_or(0, String::len));
                return Err(FeedbackError::invalid(field, &value, "1 to 65536 bytes of text"));
            }
        }
        if let Some(template) = fix.template.as_deref().filter(|text| !text.contains(QUESTION)) {
            let limit = "a text with {question} where the question goes";
            return Err(FeedbackError::invalid("template", template, limit));
        }
        fix.expect.as_deref().map(Scorer::parse).transpose()?;
        let cluster = self.cluster(&fix.cluster)?;
        let id = uuid::Uuid::now_v7();
        let id = format!("f{}", &blake3::hash(id.as_bytes()).to_hex()[..12]);
        let fix = Fix { id, cluster, verified_at_ms: None, gate: None, ..fix };
        let sql = "INSERT INTO fix(id, cluster_id, note, system, template, expect, release_hash, \
                   created_at_ms, seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, \
                   (SELECT coalesce(max(seq), 0) + 1 FROM fix))";
        let row = params![
            fix.id,
            fix.cluster,
            fix.note,
            fix.system,
            fix.template,
            fix.expect,
            fix.release_hash,
            fix.created_at_ms
        ];
        self.write(sql, row)?;
        Ok(fix)
    }

    /// All fixes, newest first.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn fixes(&self) -> Result<Vec<Fix>, FeedbackError> {
        let sql = format!("SELECT {FIX_COLUMNS} FROM fix ORDER BY created_at_ms DESC, seq DESC");
        self.query(&sql, (), fix_row)
    }

    /// The one fix whose id begins so.
    ///
    /// # Errors
    /// [`FeedbackError::Unknown`].
    pub fn fix(&self, id: &str) -> Result<Fix, FeedbackError> {
        let sql = "SELECT id FROM fix WHERE substr(id, 1, length(CAST(?1 AS TEXT))) = ?1";
        let id = self.only("fixes", sql, id)?;
        let sql = format!("SELECT {FIX_COLUMNS} FROM fix WHERE id = ?1");
        self.connection.query_row(&sql, [id], fix_row).map_err(self.wrap("read"))
    }

    /// What was found of a fix whenever it was verified, newest first.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn evidence(&self, fix: &str, limit: u32) -> Result<Vec<Evidence>, FeedbackError> {
        let sql = "SELECT fix_id, at_ms, before_n, before_failed, after_n, after_failed, \
                   change_low, change_high, verdict, coalesce(after_moved, 0), \
                   coalesce(horizon_ms, 0) FROM evidence WHERE fix_id = ?1 ORDER BY at_ms DESC, seq DESC LIMIT ?2";
        self.query(sql, params![fix, limit], evidence_row)
    }

    /// Names the dataset that guards a fix from now on.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn set_gate(&mut self, fix: &str, dataset: &str) -> Result<(), FeedbackError> {
        let sql = "UPDATE fix SET gate = ?2 WHERE id = ?1";
        self.write(sql, params![fix, dataset]).map(drop)
    }

    pub(crate) fn keep(&mut self, evidence: &Evidence) -> Result<(), FeedbackError> {
        let wrap = self.wrap("write");
        let transaction = self.begin()?;
        transaction
            .execute(
                "INSERT INTO evidence(fix_id, at_ms, before_n, before_failed, after_n, \
                 after_failed, change_low, change_high, verdict, after_moved, horizon_ms, seq) VALUES \
                 (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, (SELECT coalesce(max(seq), 0) + 1 FROM evidence))",
                params![
                    evidence.fix,
                    evidence.at_ms,
                    evidence.before_n.cast_signed(),
                    evidence.before_failed.cast_signed(),
                    evidence.after_n.cast_signed(),
                    evidence.after_failed.cast_signed(),
                    evidence.change_low,
                    evidence.change_high,
                    evidence.verdict,
                    evidence.after_moved.cast_signed(),
                    evidence.horizon_ms.cast_signed()
                ],
            )
            .map_err(&wrap)?;
        if evidence.verdict == IMPROVED {
            transaction
                .execute(
                    "UPDATE fix SET verified_at_ms = coalesce(verified_at_ms, ?2) WHERE id = ?1",
                    params![evidence.fix, evidence.at_ms],
                )
                .map_err(&wrap)?;
        }
        transaction.commit().map_err(&wrap)
    }
}

fn fix_row(row: &Row) -> sql::Result<Fix> {
    Ok(Fix {
        id: row.get(0)?,
        cluster: row.get(1)?,
        note: row.get(2)?,
        system: row.get(3)?,
        template: row.get(4)?,
        expect: row.get(5)?,
        release_hash: row.get(6)?,
        created_at_ms: row.get(7)?,
        verified_at_ms: row.get(8)?,
        gate: row.get(9)?,
    })
}

fn evidence_row(row: &Row) -> sql::Result<Evidence> {
    let count = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let verdict: String = row.get(8)?;
    Ok(Evidence {
        fix: row.get(0)?,
        at_ms: row.get(1)?,
        before_n: count(2)?,
        before_failed: count(3)?,
        after_n: count(4)?,
        after_failed: count(5)?,
        change_low: row.get(6)?,
        change_high: row.get(7)?,
        after_moved: count(9)?,
        horizon_ms: count(10)?,
        verdict: [IMPROVED, WORSE].into_iter().find(|word| *word == verdict).unwrap_or(UNDECIDED),
    })
}
