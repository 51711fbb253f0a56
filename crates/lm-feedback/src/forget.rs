//! Conclusions about requests that were erased, and copies of the file.
//!
//! It must never leave in a file's log what was erased.
//!
//! Start reading at [`Book::forget`].

use std::fs::OpenOptions;
use std::path::Path;

use lm_store::StoreError;
use lm_store::sql::{self, Connection, ErrorKind};

use crate::{Book, FeedbackError};

impl Book {
    /// Erases what was concluded of these requests, given in their written form; returns how many rows. What a
    /// cluster was shown by goes with its last failure.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn forget(&mut self, request_ids: &[String]) -> Result<u64, FeedbackError> {
        let wrap = self.wrap("erase from");
        let transaction = self.begin()?;
        let mut n_rows = 0;
        let mut run = || -> sql::Result<()> {
            for id in request_ids {
                for sql in [
                    "DELETE FROM failure WHERE request_id = ?1",
                    "DELETE FROM tag WHERE request_id = ?1",
                ] {
                    n_rows += transaction.prepare_cached(sql)?.execute([id])? as u64;
                }
            }
            if n_rows > 0 {
                let sql =
                    "DELETE FROM sample WHERE cluster_id NOT IN (SELECT cluster_id FROM failure)";
                n_rows += transaction.execute(sql, ())? as u64;
            }
            Ok(())
        };
        run().map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
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
