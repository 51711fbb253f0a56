//! What people wrote in one place that another one does not have: a copy over it would take it away.
//!
//! It must never overlook what nobody can derive again: verdicts, verdicts that were taken back, tags, fixes with their gates
//! and evidence, and efforts.
//!
//! Start reading at [`refuse`].

use std::collections::{HashMap, HashSet};
use std::path::Path;

use lm_store::sql::{self, Connection, Row};

use crate::answer::name;
use crate::carry::digest;
use crate::error::database;
use crate::{Book, FeedbackError};

/// An answer: the request and the choice.
type Key = (String, u32);

/// What people wrote, as it is read from either place.
struct Written {
    /// When a verdict was given, and when one was taken back, in Unix milliseconds; in the order of the answers.
    verdicts: Vec<(Key, Option<i64>, Option<i64>)>,
    tags: Vec<(Key, String)>,
    fixes: Vec<WrittenFix>,
    /// The fix, and a digest of all that was seen of it.
    evidence: Vec<(String, [u8; 32])>,
    /// Clusters and the bits of what a fix of them takes, where somebody said so.
    efforts: Vec<(String, u64)>,
}

struct WrittenFix {
    id: String,
    gate: Option<String>,
    verified_at_ms: Option<i64>,
}

const VERDICTS: &str = "SELECT request_id, choice, reviewed_at_ms, taken_back_at_ms FROM failure \
    WHERE reviewed_at_ms IS NOT NULL OR taken_back_at_ms IS NOT NULL ORDER BY request_id, choice";
const TAGS: &str = "SELECT request_id, choice, tag FROM tag ORDER BY request_id, choice, tag";
const FIXES: &str = "SELECT id, gate, verified_at_ms FROM fix ORDER BY id";
const EVIDENCE: &str = "SELECT fix_id, at_ms, before_n, before_failed, after_n, after_failed, \
    change_low, change_high, verdict FROM evidence ORDER BY seq";
const EFFORTS: &str = "SELECT id, effort_days FROM cluster WHERE effort_days <> 1.0 ORDER BY id";

/// Refuses when `new`, shown as `place`, has something of people's that `old` does not have.
pub(crate) fn refuse(old: &Book, new: &Connection, place: &Path) -> Result<(), FeedbackError> {
    let there = Written::read(new).map_err(database("read", place))?;
    let own = Written::read(&old.connection).map_err(old.wrap("read"))?;
    let missing = there.without(&own);
    let n = missing.len() as u64;
    match missing.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(FeedbackError::OnlyThere { path: place.to_owned(), n, first }),
    }
}

impl Written {
    fn read(connection: &Connection) -> sql::Result<Written> {
        Ok(Written {
            verdicts: rows(connection, VERDICTS, |row| Ok((key(row)?, row.get(2)?, row.get(3)?)))?,
            tags: rows(connection, TAGS, |row| Ok((key(row)?, row.get(2)?)))?,
            fixes: rows(connection, FIXES, |row| {
                Ok(WrittenFix { id: row.get(0)?, gate: row.get(1)?, verified_at_ms: row.get(2)? })
            })?,
            evidence: rows(connection, EVIDENCE, |row| Ok((row.get(0)?, digest(row.values()))))?,
            efforts: rows(connection, EFFORTS, |row| {
                Ok((row.get(0)?, row.get::<_, f64>(1)?.to_bits()))
            })?,
        })
    }

    /// What is here and not in `own`, in words.
    fn without(&self, own: &Written) -> Vec<String> {
        let mut missing = self.verdicts_without(own);
        let tags: HashSet<&(Key, String)> = own.tags.iter().collect();
        let lost = self.tags.iter().filter(|tag| !tags.contains(tag));
        missing.extend(lost.map(|((id, choice), _)| format!("a tag on {}", name(id, *choice))));
        missing.extend(self.fixes_without(own));
        let evidence: HashSet<&(String, [u8; 32])> = own.evidence.iter().collect();
        let lost = self.evidence.iter().filter(|one| !evidence.contains(one));
        missing.extend(lost.map(|(fix, _)| format!("evidence of fix {fix}")));
        let efforts: HashSet<&(String, u64)> = own.efforts.iter().collect();
        let lost = self.efforts.iter().filter(|one| !efforts.contains(one));
        missing.extend(lost.map(|(cluster, _)| format!("the effort of cluster {cluster}")));
        missing
    }

    /// Whatever was done last to a verdict holds: it was given, or taken back.
    fn verdicts_without(&self, own: &Written) -> Vec<String> {
        let known = own.verdicts.iter().map(|(key, given, back)| (key, (*given, *back)));
        let known: HashMap<&Key, (Option<i64>, Option<i64>)> = known.collect();
        let mut missing = Vec::new();
        for (key, given, back) in &self.verdicts {
            let (own_given, own_back) = known.get(key).copied().unwrap_or_default();
            if own_given.max(own_back) >= (*given).max(*back) {
                continue;
            }
            let answer = name(&key.0, key.1);
            match (given, own_given) {
                (Some(_), _) => missing.push(format!("the verdict on {answer}")),
                (None, Some(_)) => {
                    missing.push(format!("that the verdict on {answer} was taken back"))
                }
                (None, None) => {}
            }
        }
        missing
    }

    fn fixes_without(&self, own: &Written) -> Vec<String> {
        let known: HashMap<&str, &WrittenFix> =
            own.fixes.iter().map(|fix| (fix.id.as_str(), fix)).collect();
        let mut missing = Vec::new();
        for WrittenFix { id, gate, verified_at_ms } in &self.fixes {
            let Some(own) = known.get(id.as_str()) else {
                missing.push(format!("fix {id}"));
                continue;
            };
            if gate.is_some() && *gate != own.gate {
                missing.push(format!("the gate of fix {id}"));
            }
            let is_earlier = |at_ms: &i64| own.verified_at_ms.is_none_or(|own| own > *at_ms);
            if verified_at_ms.as_ref().is_some_and(is_earlier) {
                missing.push(format!("that fix {id} was verified"));
            }
        }
        missing
    }
}

fn key(row: &Row) -> sql::Result<Key> {
    Ok((row.get(0)?, row.get(1)?))
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&Row) -> sql::Result<T>,
) -> sql::Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map((), read)?.collect()
}
