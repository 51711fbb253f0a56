//! A SQLite file beside the store that people write to, such as that of overrides, or its tables in the store's database on a
//! PostgreSQL server: how they are made, opened and upgraded, whatever they are.
//!
//! It must never change a file of another program or of a later version.
//!
//! Start reading at [`BookFile::open`].

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::server;
use crate::sql::{self, server_url};

/// A kind of file.
#[derive(Clone, Copy, Debug)]
pub struct BookFile {
    /// Four letters that say whose it is.
    pub application_id: i64,
    /// Entry `i` brings a file from schema `i` to schema `i + 1`. Entries are never edited once released.
    pub upgrades: &'static [&'static str],
    /// How changes are made whole.
    pub journal: Journal,
    /// Whether what is removed is overwritten.
    pub secure_delete: bool,
    /// How long another process may hold the file.
    pub busy: Duration,
}

/// How changes are made whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// By a journal that is there while something changes. The file can be opened, and read, on a full disk.
    Rollback,
    /// By a log. It needs room to be opened at all; readers do not wait for who writes.
    WriteAhead,
}

/// What came of opening a file.
#[derive(Debug)]
pub enum OpenedBook<C = Connection> {
    /// It is of the newest schema that is known.
    Book(C),
    /// It is another program's, or of a later version, and was not changed.
    Foreign {
        /// The application id in the file.
        application_id: i64,
        /// The schema in the file.
        schema: i64,
        /// The newest schema that is known.
        known: i64,
    },
}

impl BookFile {
    /// Opens the file as [`BookFile::open`] does, or the tables on the PostgreSQL server that a URL names, whose operator decides
    /// on its log and on what is overwritten.
    ///
    /// # Errors
    /// What the database or the file system says.
    pub fn open_at(&self, place: &Path) -> sql::Result<OpenedBook<sql::Connection>> {
        if let Some(url) = server_url(place) {
            return server::open_book(url, self);
        }
        Ok(match self.open(place)? {
            OpenedBook::Book(connection) => OpenedBook::Book(sql::Connection::Sqlite(connection)),
            OpenedBook::Foreign { application_id, schema, known } => {
                OpenedBook::Foreign { application_id, schema, known }
            }
        })
    }

    /// Opens the file, and makes it and its folder when there are none: readable by its owner only.
    ///
    /// # Errors
    /// What SQLite or the file system says.
    pub fn open(&self, path: &Path) -> rusqlite::Result<OpenedBook> {
        let BookFile { application_id: own_id, upgrades, journal, secure_delete, busy } = *self;
        let known = upgrades.len() as i64;
        create_private(path)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(busy)?;
        let n_tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let application_id = pragma(&connection, "application_id")?;
        let schema = pragma(&connection, "user_version")?;
        let is_foreign = application_id != own_id && (application_id != 0 || n_tables > 0);
        if is_foreign || schema > known {
            return Ok(OpenedBook::Foreign { application_id, schema, known });
        }
        connection.pragma_update(None, "journal_mode", journal.as_str())?;
        connection.pragma_update(None, "secure_delete", secure_delete)?;
        if schema < known {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Another process may have upgraded it meanwhile.
            let n_done = usize::try_from(pragma(&transaction, "user_version")?).unwrap_or(0);
            for sql in upgrades.iter().skip(n_done) {
                transaction.execute_batch(sql)?;
            }
            transaction.pragma_update(None, "application_id", own_id)?;
            transaction.pragma_update(None, "user_version", known)?;
            transaction.commit()?;
        }
        Ok(OpenedBook::Book(connection))
    }
}

impl Journal {
    fn as_str(self) -> &'static str {
        match self {
            Journal::Rollback => "DELETE",
            Journal::WriteAhead => "WAL",
        }
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn create_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const FIRST: BookFile = BookFile {
        application_id: 0x6c6d_7473,
        upgrades: &["CREATE TABLE a(x INTEGER) STRICT;"],
        journal: Journal::Rollback,
        secure_delete: true,
        busy: Duration::from_secs(10),
    };
    const SECOND: BookFile = BookFile {
        upgrades: &["CREATE TABLE a(x INTEGER) STRICT;", "ALTER TABLE a ADD COLUMN y INTEGER;"],
        ..FIRST
    };

    #[track_caller]
    fn book(file: BookFile, path: &Path) -> Connection {
        match file.open(path).unwrap() {
            OpenedBook::Book(connection) => connection,
            foreign @ OpenedBook::Foreign { .. } => panic!("{foreign:?}"),
        }
    }

    #[test]
    fn a_file_is_made_upgraded_once_and_kept_from_others() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("folder/book.db");
        book(FIRST, &path).execute("INSERT INTO a VALUES (7)", []).unwrap();
        for _ in 0..2 {
            let connection = book(SECOND, &path);
            let sql = "SELECT x, y FROM a";
            let row: (i64, Option<i64>) =
                connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            assert_eq!(row, (7, None));
        }
        let bytes = std::fs::read(&path).unwrap();
        for other in [FIRST, BookFile { application_id: 1, ..SECOND }] {
            let opened = other.open(&path).unwrap();
            let OpenedBook::Foreign { application_id, schema, known } = opened else {
                panic!("{opened:?}")
            };
            let expect = (FIRST.application_id, 2, other.upgrades.len() as i64);
            assert_eq!((application_id, schema, known), expect);
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
