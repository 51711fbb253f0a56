//! How fast one learns: from a failure to the proof that it is fixed.
//!
//! It must never count what did not happen yet as fast.
//!
//! Start reading at [`Book::learning`].

use serde::Serialize;

use crate::{Book, FeedbackError};

/// How fast failures are noticed, clustered, fixed, and proved fixed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Learning {
    /// Failures that occurred, without those that a reviewer rejected.
    pub n_failures: u64,
    /// From the answer to the first sign that it failed.
    pub noticed: Stage,
    /// From then until it had its cluster.
    pub clustered: Stage,
    /// From then until somebody noted a fix, or nothing when the fix was there before.
    pub fixed: Stage,
    /// From the fix until the traffic proved it.
    pub verified: Stage,
    /// From the answer to the proof.
    pub whole: Stage,
}

/// Of those failures that came so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stage {
    /// How many they are.
    pub n: u64,
    /// The median, in seconds; `None` when there are none.
    pub median_s: Option<f64>,
    /// The 90th percentile, in seconds.
    pub p90_s: Option<f64>,
}

impl Stage {
    /// Of times in milliseconds; by nearest rank.
    #[must_use]
    pub fn of(mut times_ms: Vec<i64>) -> Stage {
        times_ms.sort_unstable();
        let n = times_ms.len();
        let at = |share: f64| {
            let rank = (share * n as f64).ceil().max(1.0) as usize;
            times_ms.get(rank - 1).map(|ms| *ms as f64 / 1e3)
        };
        Stage { n: n as u64, median_s: at(0.5), p90_s: at(0.9) }
    }
}

impl Book {
    /// Of the failures that occurred since `from_ms`, in Unix milliseconds. The first fix of a problem counts that was
    /// proved since the failure was noticed, or else the first one without a proof: what fails after a proof waits for
    /// another fix.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn learning(&self, from_ms: i64) -> Result<Learning, FeedbackError> {
        let sql = "SELECT f.occurred_at_ms, f.noticed_at_ms, f.clustered_at_ms, x.created_at_ms, \
                   x.verified_at_ms FROM failure f LEFT JOIN fix x ON x.seq = (SELECT y.seq \
                   FROM fix y WHERE y.cluster_id = f.cluster_id \
                   AND (y.verified_at_ms IS NULL OR y.verified_at_ms >= f.noticed_at_ms) \
                   ORDER BY y.verified_at_ms IS NULL, y.created_at_ms, y.seq LIMIT 1) \
                   WHERE f.occurred_at_ms >= ?1 AND coalesce(f.verdict, '') <> 'rejected'";
        let rows = self.query(sql, [from_ms], |row| {
            let at = |column: usize| row.get::<_, Option<i64>>(column);
            Ok([at(0)?, at(1)?, at(2)?, at(3)?, at(4)?])
        })?;
        let mut times: [Vec<i64>; 5] = Default::default();
        for [occurred, noticed, clustered, fixed, verified] in rows {
            let steps = [
                (occurred, noticed),
                (noticed, clustered),
                (clustered, fixed),
                (fixed, verified),
                (occurred, verified),
            ];
            for (step, (from, to)) in steps.into_iter().enumerate() {
                if let (Some(from), Some(to)) = (from, to) {
                    times[step].push((to - from).max(0));
                }
            }
        }
        let [noticed, clustered, fixed, verified, whole] = times.map(Stage::of);
        Ok(Learning { n_failures: noticed.n, noticed, clustered, fixed, verified, whole })
    }
}
