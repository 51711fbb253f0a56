//! The tables of the file, and how it is opened.
//!
//! It must never change a file of another program or of a later version.
//!
//! Start reading at [`UPGRADES`].

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::ExperimentError;
use crate::error::database;

/// Entry `i` brings a file from schema `i` to schema `i + 1`. Entries are never edited once released.
const UPGRADES: [&str; 1] = [r"
CREATE TABLE experiment(
    name TEXT PRIMARY KEY, spec TEXT NOT NULL, salt TEXT NOT NULL, stage TEXT NOT NULL, status TEXT NOT NULL,
    why TEXT NOT NULL, started_at_ms INTEGER NOT NULL, stage_at_ms INTEGER NOT NULL, systems TEXT NOT NULL
) STRICT;
-- The evidence, and how far the store was read for it: both change in one transaction, or neither.
CREATE TABLE evidence(
    experiment TEXT PRIMARY KEY, seq INTEGER NOT NULL, feedback_ms INTEGER NOT NULL, tally TEXT NOT NULL
) STRICT;
CREATE TABLE unit(experiment TEXT NOT NULL, unit TEXT NOT NULL, PRIMARY KEY(experiment, unit)) STRICT, WITHOUT ROWID;
-- Units that were counted for a rate: each counts once.
CREATE TABLE counted(
    experiment TEXT NOT NULL, metric TEXT NOT NULL, unit TEXT NOT NULL, PRIMARY KEY(experiment, metric, unit)
) STRICT, WITHOUT ROWID;
-- How the interval of the goal came about.
CREATE TABLE point(
    experiment TEXT NOT NULL, n INTEGER NOT NULL, at_ms INTEGER NOT NULL, stage TEXT NOT NULL, low REAL NOT NULL,
    high REAL NOT NULL, PRIMARY KEY(experiment, n)
) STRICT, WITHOUT ROWID;
CREATE TABLE prompt(
    name TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL, text TEXT NOT NULL, added_at_ms INTEGER NOT NULL,
    added_by TEXT NOT NULL, PRIMARY KEY(name, version)
) STRICT;
CREATE TRIGGER prompt_stays BEFORE UPDATE ON prompt BEGIN SELECT RAISE(ABORT, 'a version is never changed'); END;
CREATE TABLE audit(
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
    experiment TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_holds BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"];

/// "lmex".
const APPLICATION_ID: i64 = 0x6c6d_6578;
const BUSY: Duration = Duration::from_secs(10);

/// Opens the file, and makes it when there is none: readable by its owner only.
pub(crate) fn open(path: &Path) -> Result<Connection, ExperimentError> {
    let wrap = database("open", path);
    let known = UPGRADES.len() as i64;
    create_private(path).map_err(|e| wrap(rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?;
    let mut connection = Connection::open(path).map_err(&wrap)?;
    connection.busy_timeout(BUSY).map_err(&wrap)?;
    let pragma = |connection: &Connection, name| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(&wrap)
    };
    let n_tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(&wrap)?;
    let application_id = pragma(&connection, "application_id")?;
    let schema = pragma(&connection, "user_version")?;
    let is_foreign = application_id != APPLICATION_ID && (application_id != 0 || n_tables > 0);
    if is_foreign || schema > known {
        let path = path.to_owned();
        return Err(ExperimentError::Foreign { path, application_id, schema, known });
    }
    // As for overrides: a write-ahead log would need room to be opened at all.
    connection.pragma_update(None, "journal_mode", "DELETE").map_err(&wrap)?;
    if schema < known {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&wrap)?;
        // Another process may have upgraded it meanwhile.
        let n_done = usize::try_from(pragma(&transaction, "user_version")?).unwrap_or(0);
        for sql in UPGRADES.iter().skip(n_done) {
            transaction.execute_batch(sql).map_err(&wrap)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(&wrap)?;
        transaction.pragma_update(None, "user_version", known).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
    }
    Ok(connection)
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
