//! The tables of the file.
//!
//! It must never know how a file is opened: [`BookFile`] does.
//!
//! Start reading at [`UPGRADES`].

use std::path::Path;
use std::time::Duration;

use lm_store::{BookFile, Journal, OpenedBook};
use rusqlite::Connection;

use crate::RolloutError;
use crate::error::database;

/// Entry `i` brings a file from schema `i` to schema `i + 1`. Entries are never edited once released.
const UPGRADES: [&str; 1] = [r"
CREATE TABLE rule(
    id TEXT PRIMARY KEY, body TEXT NOT NULL, added_at_ms INTEGER NOT NULL, added_by TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL, published_at_ms INTEGER
) STRICT;
-- One row: what the operator decided.
CREATE TABLE operator(one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL) STRICT;
INSERT INTO operator VALUES (1, '{}');
-- What was done, and how things stood before: rules and operator, so that it can be taken back.
CREATE TABLE audit(
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, who TEXT NOT NULL,
    action TEXT NOT NULL, target TEXT NOT NULL, detail TEXT NOT NULL, before TEXT
) STRICT;
CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_holds BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TABLE hit(
    rule TEXT NOT NULL, request_id TEXT NOT NULL, choice INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    action TEXT NOT NULL, PRIMARY KEY(rule, request_id, choice)
) STRICT;
CREATE INDEX hit_at ON hit(at_ms);
CREATE TABLE queue(
    id TEXT PRIMARY KEY, tenant TEXT, rule TEXT NOT NULL, prompt TEXT, queued_at_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL, canned TEXT NOT NULL, answered_at_ms INTEGER, answered_by TEXT, answer TEXT
) STRICT;
CREATE INDEX queue_open ON queue(deadline_ms) WHERE answered_at_ms IS NULL;
"];

const FILE: BookFile = BookFile {
    // "lmov"
    application_id: 0x6c6d_6f76,
    upgrades: &UPGRADES,
    // A write-ahead log would need room to be opened at all: on a full disk the rules must still hold.
    journal: Journal::Rollback,
    secure_delete: true,
    busy: Duration::from_secs(10),
};

/// Opens the file, and makes it when there is none: readable by its owner only.
pub(crate) fn open(path: &Path) -> Result<Connection, RolloutError> {
    match FILE.open(path).map_err(database("open", path))? {
        OpenedBook::Book(connection) => Ok(connection),
        OpenedBook::Foreign { application_id, schema, known } => {
            Err(RolloutError::Foreign { path: path.to_owned(), application_id, schema, known })
        }
    }
}
