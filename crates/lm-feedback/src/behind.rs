//! Conclusions that stayed in a home's file when its store went to a server: nothing reads them there.
//!
//! It must never call those left behind that were carried, whatever became of them since in the new place.
//!
//! Start reading at [`Book::stays_behind`].

use std::path::Path;

use lm_store::sql::{self, Connection, server_url};

use crate::{Book, FeedbackError};

/// What tells one book from all others.
const ID: &str = "id";

/// The name under which a place notes how much it took over from the book with this number.
pub(crate) fn mark(id: i64) -> String {
    format!("carried {id}")
}

/// When people last wrote something, in Unix milliseconds; 0 where no time is known of it, `None` where they never did.
pub(crate) fn newest_ms(connection: &Connection) -> sql::Result<Option<i64>> {
    let sql = "SELECT max(at_ms) FROM (\
               SELECT max(reviewed_at_ms) AS at_ms FROM failure \
               UNION ALL SELECT max(taken_back_at_ms) FROM failure \
               UNION ALL SELECT max(created_at_ms) FROM fix \
               UNION ALL SELECT max(at_ms) FROM evidence \
               UNION ALL SELECT min(0) FROM tag \
               UNION ALL SELECT min(0) FROM cluster WHERE effort_days <> 1.0) AS times";
    connection.query_row(sql, (), |row| row.get(0))
}

impl Book {
    /// Whether people wrote into a home's `file` what was not carried to the server at `place`, where its store is now. Never
    /// where the store is a file.
    ///
    /// # Errors
    /// What opening a book says, [`FeedbackError::Database`].
    pub fn stays_behind(place: &Path, file: &Path) -> Result<bool, FeedbackError> {
        if server_url(place).is_none() || !file.exists() {
            return Ok(false);
        }
        let file = Book::open(file)?;
        let Some(newest_ms) = newest_ms(&file.connection).map_err(file.wrap("read"))? else {
            return Ok(false);
        };
        let book = Book::open(place)?;
        // Carried from here, or once taken from there.
        let carried_ms = file.carried_to(&book)?.max(book.carried_to(&file)?);
        Ok(carried_ms.is_none_or(|carried_ms| carried_ms < newest_ms))
    }

    /// How much of this book another one took over, as [`newest_ms`] says it; `None` where it took nothing.
    fn carried_to(&self, other: &Book) -> Result<Option<i64>, FeedbackError> {
        match self.state(ID)? {
            Some(id) => other.state(&mark(id)),
            None => Ok(None),
        }
    }

    /// The number of this book, which no other has; it is given when it is first asked for.
    pub(crate) fn identity(&mut self) -> Result<i64, FeedbackError> {
        if let Some(id) = self.state(ID)? {
            return Ok(id);
        }
        let hash = blake3::hash(uuid::Uuid::now_v7().as_bytes());
        let bytes = hash.as_bytes().iter().take(8);
        let id = bytes.fold(0_i64, |id, byte| id << 8 | i64::from(*byte));
        let sql = "INSERT INTO state(name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING";
        self.write(sql, sql::params![ID, id])?;
        // Another process may have been faster.
        Ok(self.state(ID)?.unwrap_or(id))
    }
}
