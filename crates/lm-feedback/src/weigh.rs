//! What the traffic says of a fix: how often answers failed as its problem does, before and since.
//!
//! It must never call a fix good on less than the agreed evidence, nor because what failed before fails under another name, nor
//! because nobody complained yet.
//!
//! Start reading at [`Book::weigh`].

use lm_evidence::{Comparison, Counts, Verdict, compare};
use lm_store::Reader;
use lm_store::sql::{ToValue, params};

use crate::fix::{IMPROVED, UNDECIDED, WORSE};
use crate::{Book, Evidence, FeedbackError, Fix, Kind};

/// What counts as a failure of a fix's problem.
struct Problem<'a> {
    cluster: &'a str,
    fingerprint: String,
    /// How an answer's kinds look that have the problem's; nothing looks so where the fingerprint has a detail.
    among_kinds: String,
    /// A problem of the kind that began from then on may be this one under another name.
    moved_from_ms: i64,
    /// How late a failure may be noticed and still count, where that takes time.
    horizon_ms: Option<i64>,
}

/// Answers, and those of them that failed.
#[derive(Clone, Copy)]
struct Counted {
    n: u64,
    /// In the problem's own cluster.
    own: u64,
    /// In clusters that may be the same problem.
    moved: u64,
}

/// At most so many of the fixes that do nothing are ever called anything.
const ALPHA: f64 = 0.05;
/// Traffic that counts as before.
const BEFORE_MS: i64 = 14 * DAY_MS;
const MINUTE_MS: i64 = 60 * 1000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// What a horizon may be: few steps, so that it hangs on chance as little as can be. Later complaints do not count.
const HORIZONS_MS: [i64; 7] =
    [MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS, 3 * DAY_MS, 7 * DAY_MS];
/// So many in a hundred complaints come within the horizon.
const WITHIN_PERCENT: i64 = 90;

impl Book {
    /// Compares how often answers failed as the problem does, in the 14 days before the fix and since, and keeps what it
    /// found. One may ask as often as one likes: see [`compare`]. Call [`Book::collect`] first.
    ///
    /// A fix may change questions and answers so much that what still fails is like nothing that failed before. So problems of
    /// the same kind that began since count against it: it is improved only if it is with all of them, and worse only
    /// if it is without.
    ///
    /// People complain late, and those before the fix had more time to. So where it takes people to see a failure, one counts
    /// on either side only if it was noticed within the time in which nine of ten were before the fix, a week at most, and
    /// an answer only once that time is over.
    ///
    /// That traffic is as it was before is assumed, and cannot be seen from here; a problem that was chosen because it
    /// was at its worst gets better without a fix.
    ///
    /// # Errors
    /// [`FeedbackError::Store`], [`FeedbackError::Database`].
    pub fn verify(
        &mut self,
        fix: &Fix,
        reader: &Reader,
        now_ms: i64,
    ) -> Result<Evidence, FeedbackError> {
        let evidence = self.weigh(fix, reader, now_ms)?;
        self.keep(&evidence)?;
        Ok(evidence)
    }

    /// What [`Book::verify`] would find, without keeping it.
    ///
    /// # Errors
    /// [`FeedbackError::Store`], [`FeedbackError::Database`].
    pub fn weigh(
        &self,
        fix: &Fix,
        reader: &Reader,
        now_ms: i64,
    ) -> Result<Evidence, FeedbackError> {
        let from_ms = fix.created_at_ms.saturating_sub(BEFORE_MS);
        let problem = self.problem(fix, from_ms)?;
        let horizon_ms = problem.horizon_ms.unwrap_or(0);
        let seen_ms = self.state("collected_ms")?.unwrap_or(now_ms);
        let end_ms = seen_ms.saturating_sub(horizon_ms);
        let count = |from_ms, end_ms, release: Option<&str>| {
            self.count(reader, &problem, (from_ms, end_ms), release)
        };
        let (before, after) = match fix.release_hash.as_deref() {
            None => (
                count(from_ms, fix.created_at_ms.min(end_ms), None)?.without_moved(),
                count(fix.created_at_ms, end_ms, None)?,
            ),
            Some(release) => {
                let all = count(from_ms, end_ms, None)?;
                let after = count(from_ms, end_ms, Some(release))?;
                // What is collected meanwhile is in the second count alone.
                let hits = all.own.saturating_sub(after.own);
                (Counts { n: all.n.saturating_sub(after.n).max(hits), hits }, after)
            }
        };
        let own = compare(before, after.without_moved(), ALPHA);
        let with_moved = match after.moved {
            0 => own,
            _ => compare(before, after.with_moved(), ALPHA),
        };
        Ok(Evidence {
            fix: fix.id.clone(),
            at_ms: now_ms,
            before_n: before.n,
            before_failed: before.hits,
            after_n: after.n,
            after_failed: after.with_moved().hits,
            after_moved: after.moved,
            horizon_ms: horizon_ms.cast_unsigned(),
            change_low: own.change.low,
            change_high: with_moved.change.high,
            verdict: verdict(own, with_moved),
        })
    }

    fn problem<'f>(&self, fix: &'f Fix, from_ms: i64) -> Result<Problem<'f>, FeedbackError> {
        let sql = "SELECT fingerprint FROM cluster WHERE id = ?1";
        let fingerprint: Vec<String> = self.query(sql, [&fix.cluster], |row| row.get(0))?;
        let fingerprint = fingerprint.into_iter().next().unwrap_or_default();
        let is_plain = !fingerprint.is_empty() && !fingerprint.contains(':');
        let among_kinds = if is_plain { format!("%,{fingerprint},%") } else { String::new() };
        // A release may have run before its fix was noted.
        let began_ms = match &fix.release_hash {
            None => None,
            Some(release) => {
                let sql = "SELECT min(occurred_at_ms) FROM failure WHERE release_hash = ?1 \
                           AND occurred_at_ms >= ?2";
                let began_ms: Vec<Option<i64>> =
                    self.query(sql, params![release, from_ms], |row| row.get(0))?;
                began_ms.into_iter().next().flatten()
            }
        };
        let moved_from_ms = began_ms.unwrap_or(fix.created_at_ms).min(fix.created_at_ms);
        let kind = Kind::of(fingerprint.split(':').next().unwrap_or_default());
        let horizon_ms = match kind {
            Ok(kind) if kind.is_late() => Some(self.horizon_ms(fix, from_ms)?),
            _ => None,
        };
        Ok(Problem { cluster: &fix.cluster, fingerprint, among_kinds, moved_from_ms, horizon_ms })
    }

    /// From what was noticed before the fix was noted, without the release that has it: nothing that happens later changes it.
    fn horizon_ms(&self, fix: &Fix, from_ms: i64) -> Result<i64, FeedbackError> {
        let noticed = "coalesce(kind_noticed_at_ms, noticed_at_ms)";
        let rows = format!(
            "FROM failure WHERE cluster_id = ?1 AND occurred_at_ms >= ?2 AND {noticed} < ?3 \
             AND (CAST(?4 AS TEXT) IS NULL OR release_hash <> CAST(?4 AS TEXT))"
        );
        let mut params = params![fix.cluster, from_ms, fix.created_at_ms, fix.release_hash];
        let n: i64 = self
            .connection
            .query_row(&format!("SELECT count(*) {rows}"), params.clone(), |row| row.get(0))
            .map_err(self.wrap("read"))?;
        let longest = HORIZONS_MS[HORIZONS_MS.len() - 1];
        if n == 0 {
            return Ok(longest);
        }
        let n_within = (n * WITHIN_PERCENT + 99) / 100;
        params.push((n_within - 1).to_value());
        let sql = format!("SELECT {noticed} - occurred_at_ms {rows} ORDER BY 1 LIMIT 1 OFFSET ?5");
        let late_ms: i64 =
            self.connection.query_row(&sql, params, |row| row.get(0)).map_err(self.wrap("read"))?;
        Ok(HORIZONS_MS.into_iter().find(|step| *step >= late_ms).unwrap_or(longest))
    }

    fn count(
        &self,
        reader: &Reader,
        problem: &Problem<'_>,
        (from_ms, end_ms): (i64, i64),
        release_hash: Option<&str>,
    ) -> Result<Counted, FeedbackError> {
        let sql = "SELECT count(*) FILTER (WHERE f.cluster_id = ?1), \
                   count(*) FILTER (WHERE f.cluster_id <> ?1) \
                   FROM failure f LEFT JOIN cluster c ON c.id = f.cluster_id \
                   WHERE f.occurred_at_ms >= ?2 AND f.occurred_at_ms < ?3 \
                   AND coalesce(f.kind_noticed_at_ms, f.noticed_at_ms) - f.occurred_at_ms <= ?8 \
                   AND coalesce(f.verdict, '') <> 'rejected' \
                   AND (CAST(?4 AS TEXT) IS NULL OR f.release_hash = CAST(?4 AS TEXT)) \
                   AND (f.cluster_id = ?1 OR (c.first_seen_ms >= ?5 \
                   AND (c.fingerprint = ?6 OR ',' || f.kinds || ',' LIKE ?7)))";
        let Problem { cluster, fingerprint, among_kinds, moved_from_ms, horizon_ms } = problem;
        let params = params![
            *cluster,
            from_ms,
            end_ms,
            release_hash,
            *moved_from_ms,
            *fingerprint,
            *among_kinds,
            horizon_ms.unwrap_or(i64::MAX)
        ];
        let (own, moved): (i64, i64) = self
            .connection
            .query_row(sql, params, |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(self.wrap("read"))?;
        let (own, moved) = (own.cast_unsigned(), moved.cast_unsigned());
        // Retention may have taken answers whose failures are still known.
        let n = reader.count_answers(from_ms, end_ms, release_hash)?.max(own + moved);
        Ok(Counted { n, own, moved })
    }
}

impl Counted {
    fn without_moved(self) -> Counts {
        Counts { n: self.n, hits: self.own }
    }

    fn with_moved(self) -> Counts {
        Counts { n: self.n, hits: self.own + self.moved }
    }
}

/// Whatever of both readings is the less certain one.
fn verdict(own: Comparison, with_moved: Comparison) -> &'static str {
    match (own.verdict, with_moved.verdict) {
        (_, Verdict::Improved) => IMPROVED,
        (Verdict::Worse, _) => WORSE,
        _ => UNDECIDED,
    }
}
