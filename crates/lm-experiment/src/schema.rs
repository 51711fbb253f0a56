//! The tables of the file.
//!
//! It must never know how a file is opened: [`BookFile`] does.
//!
//! Start reading at [`UPGRADES`].

use std::path::Path;
use std::time::Duration;

use lm_store::{BookFile, Journal, OpenedBook};
use rusqlite::Connection;

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

const FILE: BookFile = BookFile {
    // "lmex"
    application_id: 0x6c6d_6578,
    upgrades: &UPGRADES,
    // As for overrides: what runs must be known on a full disk, too.
    journal: Journal::Rollback,
    secure_delete: false,
    busy: Duration::from_secs(10),
};

/// Opens the file, and makes it when there is none: readable by its owner only.
pub(crate) fn open(path: &Path) -> Result<Connection, ExperimentError> {
    match FILE.open(path).map_err(database("open", path))? {
        OpenedBook::Book(connection) => Ok(connection),
        OpenedBook::Foreign { application_id, schema, known } => {
            Err(ExperimentError::Foreign { path: path.to_owned(), application_id, schema, known })
        }
    }
}
