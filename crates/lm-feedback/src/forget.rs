//! Conclusions about requests that were erased, and copies of the file.
//!
//! It must never leave in a file's log what was erased.
//!
//! Start reading at [`Book::forget`].

use std::fs::OpenOptions;
use std::path::Path;

use lm_store::StoreError;
use lm_store::sql::{self, Connection, ErrorKind, ToValue, Value};

use crate::{Book, FeedbackError};

/// Requests that are erased at once.
const AT_ONCE: usize = 500;

impl Book {
    /// Erases what was concluded of these requests, given in their written form; returns how many rows. What a
    /// cluster was shown by goes with its last failure. Others get their turn between two parts: an error leaves some of it
    /// undone, and the same may be asked again.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn forget(&mut self, request_ids: &[String]) -> Result<u64, FeedbackError> {
        let wrap = self.wrap("erase from");
        let mut n_rows = 0;
        for some in request_ids.chunks(AT_ONCE) {
            let mut ids: Vec<Value> = some.iter().map(ToValue::to_value).collect();
            // It is one statement, however many are erased.
            ids.resize(AT_ONCE, Value::Null);
            let transaction = self.begin()?;
            for table in ["failure", "tag"] {
                let marks: Vec<String> = (1..=AT_ONCE).map(|i| format!("?{i}")).collect();
                let marks = marks.join(", ");
                let sql = format!("DELETE FROM {table} WHERE request_id IN ({marks})");
                let deleted =
                    transaction.prepare_cached(&sql).and_then(|mut s| s.execute(ids.clone()));
                n_rows += deleted.map_err(&wrap)? as u64;
            }
            transaction.commit().map_err(&wrap)?;
        }
        if !request_ids.is_empty() {
            // Also of failures that went before: a part of this that was interrupted has erased them.
            let sql = "DELETE FROM sample WHERE cluster_id NOT IN (SELECT cluster_id FROM failure)";
            n_rows += self.write(sql, ())? as u64;
        }
        // What was erased also stands in the log, until it is folded into the file.
        self.connection.fold_log().map_err(&wrap)?;
        Ok(n_rows)
    }

    /// Writes a whole copy of the book's file to a new one.
    ///
    /// # Errors
    /// [`FeedbackError::Database`], also for a file that exists; [`FeedbackError::Store`] on a server.
    pub fn backup(&self, copy: &Path) -> Result<(), FeedbackError> {
        if let Connection::Postgres(_) = self.connection {
            let instead = "pg_dump writes backups there";
            return Err(StoreError::NotAFile { path: self.shown(), instead }.into());
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let made = options.open(copy).map(drop);
        let copy = copy.to_string_lossy();
        made.map_err(|e| sql::Error::new(ErrorKind::Other, e))
            .and_then(|()| self.connection.execute("VACUUM INTO ?1", [&*copy]))
            .map(drop)
            .map_err(self.wrap("copy"))
    }
}
