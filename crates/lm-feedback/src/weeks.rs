//! What happened week by week, and how each problem went.
//!
//! It must never count a problem as solved before the traffic proved it.
//!
//! Start reading at [`Book::weeks`] and [`Book::trend`].

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Book, FeedbackError, Stage};

/// One week, from Monday to Sunday (UTC).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Week {
    /// Its beginning, in Unix milliseconds.
    pub from_ms: i64,
    /// Failures that were noticed, without those that a reviewer rejected.
    pub n_failures: u64,
    /// Verdicts of reviewers.
    pub n_reviews: u64,
    /// Corrections of reviewers, and answers that readers corrected.
    pub n_corrections: u64,
    /// Fixes that were noted.
    pub n_fixes: u64,
    /// Fixes that the traffic proved.
    pub n_verified: u64,
    /// From the first sign of a failure to the proof that its problem is fixed, of the proofs of this week.
    pub to_verified: Stage,
}

const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// The first Monday after the epoch began.
const MONDAY_MS: i64 = 4 * 24 * 60 * 60 * 1000;

/// Counts by week: `?1` is the beginning of the first one, `?2` the length of a week.
type Count = (&'static str, fn(&mut Week) -> &mut u64);
const COUNTS: [Count; 6] = [
    (
        "SELECT (noticed_at_ms - ?1) / ?2, count(*) FROM failure WHERE noticed_at_ms >= ?1 \
         AND coalesce(verdict, '') <> 'rejected' GROUP BY 1",
        |week| &mut week.n_failures,
    ),
    (
        "SELECT (reviewed_at_ms - ?1) / ?2, count(*) FROM failure WHERE reviewed_at_ms >= ?1 \
         GROUP BY 1",
        |week| &mut week.n_reviews,
    ),
    (
        "SELECT (reviewed_at_ms - ?1) / ?2, count(*) FROM failure WHERE reviewed_at_ms >= ?1 \
         AND correction IS NOT NULL GROUP BY 1",
        |week| &mut week.n_corrections,
    ),
    (
        "SELECT (noticed_at_ms - ?1) / ?2, count(*) FROM failure WHERE noticed_at_ms >= ?1 \
         AND ',' || kinds || ',' LIKE '%,corrected,%' GROUP BY 1",
        |week| &mut week.n_corrections,
    ),
    (
        "SELECT (created_at_ms - ?1) / ?2, count(*) FROM fix WHERE created_at_ms >= ?1 GROUP BY 1",
        |week| &mut week.n_fixes,
    ),
    (
        "SELECT (verified_at_ms - ?1) / ?2, count(*) FROM fix WHERE verified_at_ms >= ?1 \
         GROUP BY 1",
        |week| &mut week.n_verified,
    ),
];

impl Book {
    /// The last `n` weeks, oldest first; the last one goes on.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn weeks(&self, now_ms: i64, n: usize) -> Result<Vec<Week>, FeedbackError> {
        let this_ms = now_ms - (now_ms - MONDAY_MS).rem_euclid(WEEK_MS);
        let begins = (0..n as i64).rev().map(|ago| this_ms - ago * WEEK_MS);
        let mut weeks: Vec<Week> =
            begins.map(|from_ms| Week { from_ms, ..Week::default() }).collect();
        let Some(from_ms) = weeks.first().map(|week| week.from_ms) else { return Ok(weeks) };
        for (sql, count) in COUNTS {
            let counts: Vec<(i64, i64)> =
                self.query(sql, [from_ms, WEEK_MS], |row| Ok((row.get(0)?, row.get(1)?)))?;
            for (at, n) in counts {
                if let Some(week) = week_at(&mut weeks, at) {
                    *count(week) += n.cast_unsigned();
                }
            }
        }
        let mut times = vec![Vec::new(); weeks.len()];
        // The first proof of a problem counts, and what it had shown until then.
        let sql = "SELECT (x.verified_at_ms - ?1) / ?2, x.verified_at_ms - f.noticed_at_ms \
                   FROM failure f JOIN (SELECT cluster_id, min(verified_at_ms) AS verified_at_ms \
                   FROM fix WHERE verified_at_ms IS NOT NULL GROUP BY cluster_id) x \
                   ON x.cluster_id = f.cluster_id WHERE x.verified_at_ms >= ?1 \
                   AND f.noticed_at_ms <= x.verified_at_ms AND coalesce(f.verdict, '') <> 'rejected'";
        let proofs: Vec<(i64, i64)> =
            self.query(sql, [from_ms, WEEK_MS], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for (at, took) in proofs {
            if let Some(times) = usize::try_from(at).ok().and_then(|at| times.get_mut(at)) {
                times.push(took);
            }
        }
        for (week, times) in weeks.iter_mut().zip(times) {
            week.to_verified = Stage::of(times);
        }
        Ok(weeks)
    }

    /// How many failures each problem had in `n` equal parts of the time from `from_ms` to `now_ms`, oldest first. Those
    /// that a reviewer rejected do not count.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn trend(
        &self,
        from_ms: i64,
        now_ms: i64,
        n: usize,
    ) -> Result<BTreeMap<String, Vec<u64>>, FeedbackError> {
        let part_ms = (now_ms.saturating_sub(from_ms) / (n.max(1) as i64)).max(1);
        let sql = "SELECT cluster_id, (occurred_at_ms - ?1) / ?2, count(*) FROM failure \
                   WHERE occurred_at_ms >= ?1 AND occurred_at_ms <= ?3 \
                   AND coalesce(verdict, '') <> 'rejected' GROUP BY 1, 2";
        let counts: Vec<(String, i64, i64)> =
            self.query(sql, [from_ms, part_ms, now_ms], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        let mut trends: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (cluster, at, count) in counts {
            let parts = trends.entry(cluster).or_insert_with(|| vec![0; n]);
            // What is left over by the division belongs to the last part.
            let at = usize::try_from(at).unwrap_or(0).min(n.saturating_sub(1));
            if let Some(part) = parts.get_mut(at) {
                *part += count.cast_unsigned();
            }
        }
        Ok(trends)
    }
}

/// What is after the last week, by another clock, is in none.
fn week_at(weeks: &mut [Week], at: i64) -> Option<&mut Week> {
    usize::try_from(at).ok().and_then(|at| weeks.get_mut(at))
}
