//! Who did what, and how often rules held.
//!
//! It must never change what was noted; triggers of the file see to it.
//!
//! Start reading at [`Desk::audit`] and [`Desk::hits`].

use std::collections::BTreeMap;

use rusqlite::{TransactionBehavior, params};
use serde::Serialize;

use crate::{Desk, Operator, RolloutError};

/// Entries that one call returns.
const MAX_ENTRIES: u32 = 10_000;
/// Of the reason of a switch.
const MAX_REASON_BYTES: usize = 1000;
/// How long single hits are kept.
const HITS_KEPT_MS: i64 = 400 * 86_400_000;

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Counted up from 1.
    pub id: i64,
    /// Unix milliseconds.
    pub at_ms: i64,
    /// Who did it.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// The rule, the switches, or what else there is to know.
    pub detail: String,
}

/// How the operator's switches stand, and why.
#[derive(Serialize)]
pub(crate) struct Switched<'a> {
    #[serde(flatten)]
    pub(crate) operator: &'a Operator,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) reason: &'a str,
}

pub(crate) fn reason_ok(reason: &str) -> Result<(), RolloutError> {
    if reason.len() <= MAX_REASON_BYTES {
        return Ok(());
    }
    let value = format!("{} bytes long", reason.len());
    Err(RolloutError::invalid("reason", value, format!("at most {MAX_REASON_BYTES} bytes long")))
}

/// A rule that held for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The rule's id.
    pub rule: String,
    /// The request.
    pub request_id: String,
    /// Which of its answers.
    pub choice: u32,
    /// What the rule did.
    pub action: &'static str,
    /// Unix milliseconds.
    pub at_ms: i64,
}

impl Desk {
    /// The audit log, newest first. At most 10,000 entries.
    ///
    /// # Errors
    /// [`RolloutError::Database`].
    pub fn audit(&self, limit: u32) -> Result<Vec<AuditEntry>, RolloutError> {
        let read = || -> rusqlite::Result<Vec<AuditEntry>> {
            self.connection
                .prepare_cached(
                    "SELECT id, at_ms, who, action, target, detail FROM audit ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([limit.min(MAX_ENTRIES)], |row| {
                    Ok(AuditEntry {
                        id: row.get(0)?,
                        at_ms: row.get(1)?,
                        who: row.get(2)?,
                        action: row.get(3)?,
                        target: row.get(4)?,
                        detail: row.get(5)?,
                    })
                })?
                .collect()
        };
        read().map_err(self.wrap("read"))
    }

    /// Notes that rules held; an answer counts once for each rule.
    ///
    /// # Errors
    /// [`RolloutError::Database`].
    pub fn count(&mut self, all: &[Counted]) -> Result<(), RolloutError> {
        let wrap = self.wrap("write");
        let Some(newest) = all.iter().map(|hit| hit.at_ms).max() else { return Ok(()) };
        let mut write = || {
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for hit in all {
                transaction
                    .prepare_cached("INSERT OR IGNORE INTO hit VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute(params![
                        hit.rule,
                        hit.request_id,
                        hit.choice,
                        hit.at_ms,
                        hit.action
                    ])?;
            }
            transaction
                .prepare_cached("DELETE FROM hit WHERE at_ms < ?1")?
                .execute([newest - HITS_KEPT_MS])?;
            transaction.commit()
        };
        write().map_err(wrap)
    }

    /// For how many answers each rule held since `since_ms`, Unix milliseconds.
    ///
    /// # Errors
    /// [`RolloutError::Database`].
    pub fn hits(&self, since_ms: i64) -> Result<BTreeMap<String, u64>, RolloutError> {
        let read = || -> rusqlite::Result<BTreeMap<String, u64>> {
            self.connection
                .prepare_cached("SELECT rule, count(*) FROM hit WHERE at_ms >= ?1 GROUP BY rule")?
                .query_map([since_ms], |row| {
                    Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
                })?
                .collect()
        };
        read().map_err(self.wrap("read"))
    }
}
