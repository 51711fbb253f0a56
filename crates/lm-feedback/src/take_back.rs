//! What a reviewer thinks better of: a verdict, or leases that somebody else could use.
//!
//! It must never take back what another reviewer said.
//!
//! Start reading at [`Book::take_back`].

use lm_store::sql::params;

use crate::answer::name;
use crate::book::{FAILURE_COLUMNS, failure_row};
use crate::review::{LEASE_MS, waiting};
use crate::{Book, FeedbackError, ReviewItem};

impl Book {
    /// Takes back what a reviewer said of an answer, by its name or the beginning of it: it is the reviewer's again for a
    /// while, and waits for another verdict. A correction goes with it; tags stay.
    ///
    /// # Errors
    /// [`FeedbackError::Unknown`], [`FeedbackError::NotReviewed`] when the verdict is not this reviewer's.
    pub fn take_back(
        &mut self,
        answer: &str,
        reviewer: &str,
        now_ms: i64,
    ) -> Result<ReviewItem, FeedbackError> {
        let (request_id, choice) = self.named(answer)?;
        let answer = name(&request_id, choice);
        let leased_until_ms = now_ms.saturating_add(LEASE_MS);
        let wrap = self.wrap("write");
        let transaction = self.begin()?;
        let n = transaction
            .execute(
                "UPDATE failure SET verdict = NULL, correction = NULL, reviewed_by = NULL, \
                 reviewed_at_ms = NULL, leased_by = ?3, leased_until_ms = ?4, \
                 taken_back_at_ms = ?5 WHERE request_id = ?1 AND choice = ?2 AND reviewed_by = ?3",
                params![request_id, choice, reviewer, leased_until_ms, now_ms],
            )
            .map_err(&wrap)?;
        if n == 0 {
            return Err(FeedbackError::NotReviewed { answer, reviewer: reviewer.to_owned() });
        }
        let sql =
            format!("SELECT {FAILURE_COLUMNS} FROM failure WHERE request_id = ?1 AND choice = ?2");
        let failure =
            transaction.query_row(&sql, params![request_id, choice], failure_row).map_err(&wrap)?;
        let n_waiting = waiting(&transaction, now_ms).map_err(&wrap)?.len();
        transaction.commit().map_err(&wrap)?;
        Ok(ReviewItem { failure, answer, leased_until_ms, chosen: "held", n_waiting })
    }

    /// Ends the leases of a reviewer, so that others need not wait for them to end. Returns how many they were.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn give_back(&mut self, reviewer: &str) -> Result<usize, FeedbackError> {
        let sql = "UPDATE failure SET leased_by = NULL, leased_until_ms = NULL \
                   WHERE leased_by = ?1 AND reviewed_at_ms IS NULL";
        self.write(sql, [reviewer])
    }

    /// How many failures are known, and how many of them nobody reviewed.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn n_unreviewed(&self) -> Result<(u64, u64), FeedbackError> {
        let sql = "SELECT count(*), count(*) FILTER (WHERE reviewed_at_ms IS NULL) FROM failure";
        let counts = self.connection.query_row(sql, (), |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
        });
        counts.map_err(self.wrap("read"))
    }
}
