//! People look at failures: one at a time, what they are most needed for first.
//!
//! It must never give one answer to two people at once.
//!
//! Start reading at [`next`] (which one), then [`Book::lease`].

use std::collections::HashMap;

use lm_store::sql::{self, Connection, OptionalExtension, params};
use serde::Serialize;

use crate::answer::name;
use crate::book::{FAILURE_COLUMNS, failure_row};
use crate::{Book, FailureRow, FeedbackError, Kind};

/// A failure that waits for a reviewer.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// How likely it is a real failure, from 0 to 1.
    pub probability: f64,
    /// Failures of its cluster that were reviewed.
    pub n_reviewed_of_cluster: u64,
    /// Of the answer's name, so that a draw depends on nothing else.
    pub hash: u64,
}

/// A failure that a reviewer has for a while.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReviewItem {
    /// The failure.
    #[serde(flatten)]
    pub failure: FailureRow,
    /// The name by which it is reviewed.
    pub answer: String,
    /// Until when it is the reviewer's, in Unix milliseconds.
    pub leased_until_ms: i64,
    /// Why this one: `uncertain`, or `random` for one in five.
    pub chosen: &'static str,
    /// Failures that wait besides.
    pub n_waiting: usize,
}

/// What a reviewer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is a failure.
    Accept,
    /// It is none.
    Reject,
    /// It is one, and this is what it should have been.
    Correct(String),
    /// A word to find it by; the review goes on.
    Tag(String),
}

/// How long an answer is one reviewer's.
pub(crate) const LEASE_MS: i64 = 15 * 60 * 1000;
/// One lease in so many is drawn at random, so that what nobody doubts is looked at as well.
const RANDOM_ONE_IN: u64 = 5;
/// The newest failures that are chosen from.
const MAX_PENDING: u32 = 10_000;
/// How many reviews a kind's first credibility is worth.
const CREDIBILITY_WEIGHT: f64 = 10.0;
const MAX_TAG_CHARS: usize = 64;
const MAX_CORRECTION_BYTES: usize = 1 << 20;

/// Which of the pending failures, oldest first, the next reviewer gets, and whether it was drawn at random: the most
/// uncertain one, among equals one of the cluster that was reviewed least; every fifth time any.
#[must_use]
pub fn next(pending: &[Pending], n_leases_before: u64) -> Option<(usize, bool)> {
    if n_leases_before % RANDOM_ONE_IN == RANDOM_ONE_IN - 1 {
        let any = pending.iter().enumerate().min_by_key(|(_, item)| item.hash);
        return any.map(|(i, _)| (i, true));
    }
    let uncertainty = |item: &Pending| 1.0 - (2.0 * item.probability - 1.0).abs();
    let best = pending.iter().enumerate().min_by(|(_, a), (_, b)| {
        let by_uncertainty = uncertainty(b).total_cmp(&uncertainty(a));
        by_uncertainty.then(a.n_reviewed_of_cluster.cmp(&b.n_reviewed_of_cluster))
    });
    best.map(|(i, _)| (i, false))
}

impl Book {
    /// Leases the next failure to a reviewer, or gives again the one that the reviewer has; `None` when all are
    /// reviewed or leased to others.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn lease(
        &mut self,
        reviewer: &str,
        now_ms: i64,
    ) -> Result<Option<ReviewItem>, FeedbackError> {
        Ok(self.lease_some(reviewer, 1, now_ms)?.into_iter().next())
    }

    /// Leases failures to a reviewer until `n` are, those first that the reviewer has already: their leases begin anew.
    /// Fewer, when the rest is reviewed or leased to others.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn lease_some(
        &mut self,
        reviewer: &str,
        n: usize,
        now_ms: i64,
    ) -> Result<Vec<ReviewItem>, FeedbackError> {
        let wrap = self.wrap("write");
        let transaction = self.begin()?;
        let items = lease(&transaction, reviewer, n, now_ms).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        Ok(items)
    }

    /// Says what a reviewer found of an answer, by its name or the beginning of it, in the place of what the same
    /// reviewer said before. Returns the name.
    ///
    /// # Errors
    /// [`FeedbackError::Unknown`], [`FeedbackError::Leased`] when another reviewer has it, [`FeedbackError::Reviewed`]
    /// when another one gave a verdict, [`FeedbackError::Invalid`].
    pub fn review(
        &mut self,
        answer: &str,
        decision: &Decision,
        reviewer: &str,
        now_ms: i64,
    ) -> Result<String, FeedbackError> {
        let (request_id, choice) = self.named(answer)?;
        let answer = name(&request_id, choice);
        let wrap = self.wrap("write");
        let transaction = self.begin()?;
        let sql = "SELECT leased_by FROM failure WHERE request_id = ?1 AND choice = ?2 \
                   AND leased_until_ms > ?3 AND reviewed_at_ms IS NULL AND leased_by != ?4";
        let holder: Option<String> = transaction
            .query_row(sql, params![request_id, choice, now_ms, reviewer], |row| row.get(0))
            .optional()
            .map_err(&wrap)?;
        if let Some(holder) = holder {
            return Err(FeedbackError::Leased { answer, holder });
        }
        let (verdict, correction) = match decision {
            Decision::Tag(tag) => {
                if tag.trim().is_empty() || tag.chars().count() > MAX_TAG_CHARS {
                    let limit = "1 to 64 characters";
                    return Err(FeedbackError::invalid("tag", tag, limit));
                }
                transaction
                    .execute(
                        "INSERT INTO tag(request_id, choice, tag) VALUES (?1, ?2, ?3) \
                         ON CONFLICT DO NOTHING",
                        params![request_id, choice, tag],
                    )
                    .map_err(&wrap)?;
                transaction.commit().map_err(&wrap)?;
                return Ok(answer);
            }
            Decision::Accept => ("accepted", None),
            Decision::Reject => ("rejected", None),
            Decision::Correct(text) if text.len() > MAX_CORRECTION_BYTES => {
                let value = format!("{} bytes long", text.len());
                return Err(FeedbackError::invalid("correction", &value, "at most 1048576 bytes"));
            }
            Decision::Correct(text) => ("accepted", Some(text)),
        };
        // A lease that ended may have been another one's since, up to the verdict.
        let sql = "SELECT reviewed_by FROM failure WHERE request_id = ?1 AND choice = ?2 \
                   AND reviewed_at_ms IS NOT NULL AND reviewed_by != ?3";
        let by: Option<String> = transaction
            .query_row(sql, params![request_id, choice, reviewer], |row| row.get(0))
            .optional()
            .map_err(&wrap)?;
        if let Some(by) = by {
            return Err(FeedbackError::Reviewed { answer, by });
        }
        transaction
            .execute(
                "UPDATE failure SET verdict = ?3, correction = ?4, \
                 reviewed_by = ?5, reviewed_at_ms = ?6, leased_by = NULL, leased_until_ms = NULL \
                 WHERE request_id = ?1 AND choice = ?2",
                params![request_id, choice, verdict, correction, reviewer, now_ms],
            )
            .map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        Ok(answer)
    }

    /// The requests with an answer that reviewers called a failure, or corrected, since `from_ms` (Unix milliseconds).
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn called_bad(&self, from_ms: i64) -> Result<Vec<String>, FeedbackError> {
        let sql =
            "SELECT request_id FROM failure WHERE reviewed_at_ms >= ?1 AND verdict = 'accepted'";
        self.query(sql, [from_ms], |row| row.get(0))
    }

    /// `REQUEST` or `REQUEST/CHOICE`, as far as it names one failure.
    pub(crate) fn named(&self, answer: &str) -> Result<(String, u32), FeedbackError> {
        let (id, choice) = answer.split_once('/').unwrap_or((answer, "0"));
        let limit = "a request's id, and after a slash the number of its answer";
        let choice: u32 =
            choice.parse().map_err(|_| FeedbackError::invalid("answer", answer, limit))?;
        let sql = "SELECT DISTINCT request_id FROM failure \
                   WHERE substr(request_id, 1, length(CAST(?1 AS TEXT))) = ?1";
        let request_id = self.only("failures", sql, id)?;
        let sql = "SELECT count(*) FROM failure WHERE request_id = ?1 AND choice = ?2";
        let n: i64 = self
            .connection
            .query_row(sql, params![request_id, choice], |row| row.get(0))
            .map_err(self.wrap("read"))?;
        if n == 0 {
            let id = answer.chars().take(80).collect();
            return Err(FeedbackError::Unknown { what: "failures", id, n_matches: 0 });
        }
        Ok((request_id, choice))
    }
}

/// Those that the reviewer has, then the next ones.
fn lease(
    connection: &Connection,
    reviewer: &str,
    n: usize,
    now_ms: i64,
) -> sql::Result<Vec<ReviewItem>> {
    let held = format!(
        "SELECT {FAILURE_COLUMNS} FROM failure WHERE reviewed_at_ms IS NULL AND leased_by = ?1 \
         AND leased_until_ms > ?2 ORDER BY leased_until_ms, occurred_at_ms, request_id, choice \
         LIMIT ?3"
    );
    let mut taken: Vec<(FailureRow, &'static str)> = connection
        .prepare_cached(&held)?
        .query_map(params![reviewer, now_ms, n as i64], failure_row)?
        .map(|row| row.map(|failure| (failure, "held")))
        .collect::<sql::Result<_>>()?;
    let mut waiting = waiting(connection, now_ms)?;
    if taken.len() < n {
        take_next(connection, n, &mut waiting, &mut taken)?;
    }
    let leased_until_ms = now_ms.saturating_add(LEASE_MS);
    for (failure, _) in &taken {
        connection.execute(
            "UPDATE failure SET leased_by = ?3, leased_until_ms = ?4 \
             WHERE request_id = ?1 AND choice = ?2",
            params![failure.request_id, failure.choice, reviewer, leased_until_ms],
        )?;
    }
    let n_waiting = waiting.len();
    let item = |(failure, chosen): (FailureRow, &'static str)| ReviewItem {
        answer: failure.answer(),
        failure,
        leased_until_ms,
        chosen,
        n_waiting,
    };
    Ok(taken.into_iter().map(item).collect())
}

/// Moves failures from `waiting` to `taken`, until `n` are taken or none waits.
fn take_next(
    connection: &Connection,
    n: usize,
    waiting: &mut Vec<FailureRow>,
    taken: &mut Vec<(FailureRow, &'static str)>,
) -> sql::Result<()> {
    let mut n_leases: i64 = connection
        .query_row("SELECT value FROM state WHERE name = 'n_leases'", (), |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let mut pending = pending(connection, waiting)?;
    while taken.len() < n {
        let Some((i, is_random)) = next(&pending, n_leases.cast_unsigned()) else { break };
        pending.remove(i);
        let chosen = if is_random { "random" } else { "uncertain" };
        taken.push((waiting.remove(i), chosen));
        n_leases += 1;
    }
    let sql = "INSERT INTO state(name, value) VALUES ('n_leases', ?1) \
               ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.execute(sql, [n_leases]).map(drop)
}

/// The newest failures that nobody reviewed or has, oldest first.
pub(crate) fn waiting(connection: &Connection, now_ms: i64) -> sql::Result<Vec<FailureRow>> {
    let free = format!(
        "SELECT {FAILURE_COLUMNS} FROM (SELECT * FROM failure WHERE reviewed_at_ms IS NULL \
         AND (leased_until_ms IS NULL OR leased_until_ms <= ?1) \
         ORDER BY occurred_at_ms DESC LIMIT ?2) AS newest ORDER BY occurred_at_ms, request_id, choice"
    );
    connection
        .prepare_cached(&free)?
        .query_map(params![now_ms, MAX_PENDING], failure_row)?
        .collect()
}

fn pending(connection: &Connection, waiting: &[FailureRow]) -> sql::Result<Vec<Pending>> {
    let mut by_kind: HashMap<String, (f64, f64)> = HashMap::new();
    let mut by_cluster: HashMap<String, u64> = HashMap::new();
    let mut statement = connection.prepare_cached(
        "SELECT kind, cluster_id, count(*), count(*) FILTER (WHERE verdict = 'accepted') \
         FROM failure WHERE reviewed_at_ms IS NOT NULL GROUP BY kind, cluster_id",
    )?;
    let counts = statement.query_map((), |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
    })?;
    for count in counts {
        let (kind, cluster, n, n_accepted) = count?;
        let of_kind = by_kind.entry(kind).or_default();
        of_kind.0 += n_accepted as f64;
        of_kind.1 += n as f64;
        *by_cluster.entry(cluster).or_default() += n.cast_unsigned();
    }
    let of = |failure: &FailureRow| {
        let kinds = failure.kinds.split(',').filter_map(|kind| Kind::of(kind).ok());
        let first = kinds.map(Kind::credibility).fold(0.0, f64::max);
        let (accepted, n) = by_kind.get(&failure.kind).copied().unwrap_or_default();
        let hash = blake3::hash(name(&failure.request_id, failure.choice).as_bytes());
        let hash = hash.as_bytes().iter().take(8).fold(0, |h, byte| h << 8 | u64::from(*byte));
        Pending {
            probability: (CREDIBILITY_WEIGHT * first + accepted) / (CREDIBILITY_WEIGHT + n),
            n_reviewed_of_cluster: by_cluster.get(&failure.cluster).copied().unwrap_or(0),
            hash,
        }
    };
    Ok(waiting.iter().map(of).collect())
}
