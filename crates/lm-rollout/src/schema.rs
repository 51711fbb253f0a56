//! The tables of the file, and how it is opened.
//!
//! It must never change a file of another program or of a later version.
//!
//! Start reading at [`UPGRADES`].

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

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

/// "lmov".
const APPLICATION_ID: i64 = 0x6c6d_6f76;
const BUSY: Duration = Duration::from_secs(10);

/// Opens the file, and makes it when there is none: readable by its owner only.
pub(crate) fn open(path: &Path) -> Result<Connection, RolloutError> {
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
        return Err(RolloutError::Foreign { path, application_id, schema, known });
    }
    // A write-ahead log would need room to be opened at all: on a full disk the rules must still hold.
    connection.pragma_update(None, "journal_mode", "DELETE").map_err(&wrap)?;
    connection.pragma_update(None, "secure_delete", true).map_err(&wrap)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&wrap)?;
    // Another process may have upgraded it meanwhile.
    let n_done = usize::try_from(pragma(&transaction, "user_version")?).unwrap_or(0);
    for sql in UPGRADES.iter().skip(n_done) {
        transaction.execute_batch(sql).map_err(&wrap)?;
    }
    if n_done < UPGRADES.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(&wrap)?;
        transaction.pragma_update(None, "user_version", known).map_err(&wrap)?;
    }
    transaction.commit().map_err(&wrap)?;
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
