//! The tables of the file, and how it is opened.
//!
//! It must never change a file of another program or of a later version.
//!
//! Start reading at [`UPGRADES`].

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::FeedbackError;
use crate::error::database;

/// Entry `i` brings a file from schema `i` to schema `i + 1`. Entries are never edited once released.
const UPGRADES: [&str; 1] = [r"
-- How far the store is read, and how many leases there were.
CREATE TABLE state(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE cluster(
    id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, first_seen_ms INTEGER NOT NULL,
    effort_days REAL NOT NULL
) STRICT;
CREATE TABLE sample(cluster_id TEXT NOT NULL, question BLOB, answer BLOB) STRICT;
CREATE TABLE failure(
    request_id TEXT NOT NULL, choice INTEGER NOT NULL, cluster_id TEXT NOT NULL,
    kind TEXT NOT NULL, kinds TEXT NOT NULL, severity REAL NOT NULL,
    release_hash TEXT NOT NULL, model TEXT NOT NULL, occurred_at_ms INTEGER NOT NULL,
    noticed_at_ms INTEGER NOT NULL, clustered_at_ms INTEGER NOT NULL,
    leased_by TEXT, leased_until_ms INTEGER, reviewed_by TEXT, reviewed_at_ms INTEGER,
    verdict TEXT, correction TEXT, PRIMARY KEY(request_id, choice)
) STRICT;
CREATE INDEX failure_cluster ON failure(cluster_id, occurred_at_ms);
CREATE INDEX failure_occurred ON failure(occurred_at_ms);
CREATE INDEX failure_unreviewed ON failure(occurred_at_ms) WHERE reviewed_at_ms IS NULL;
CREATE TABLE tag(
    request_id TEXT NOT NULL, choice INTEGER NOT NULL, tag TEXT NOT NULL,
    PRIMARY KEY(request_id, choice, tag)
) STRICT;
CREATE TABLE fix(
    id TEXT PRIMARY KEY, cluster_id TEXT NOT NULL, note TEXT NOT NULL, system TEXT,
    template TEXT, expect TEXT, release_hash TEXT, created_at_ms INTEGER NOT NULL, verified_at_ms INTEGER, gate TEXT
) STRICT;
CREATE TABLE evidence(
    fix_id TEXT NOT NULL, at_ms INTEGER NOT NULL, before_n INTEGER NOT NULL,
    before_failed INTEGER NOT NULL, after_n INTEGER NOT NULL, after_failed INTEGER NOT NULL,
    change_low REAL NOT NULL, change_high REAL NOT NULL, verdict TEXT NOT NULL
) STRICT;
CREATE INDEX evidence_fix ON evidence(fix_id, at_ms);
"];

/// "lmfb".
const APPLICATION_ID: i64 = 0x6c6d_6662;
const BUSY: Duration = Duration::from_secs(30);

/// Opens the file, and makes it when there is none: readable by its owner only.
pub(crate) fn open(path: &Path) -> Result<Connection, FeedbackError> {
    let wrap = database("open", path);
    let known = UPGRADES.len() as i64;
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
    if (application_id != APPLICATION_ID && (application_id != 0 || n_tables > 0)) || schema > known
    {
        return Err(FeedbackError::Foreign {
            path: path.to_owned(),
            application_id,
            schema,
            known,
        });
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(&wrap)?;
    connection.pragma_update(None, "secure_delete", true).map_err(&wrap)?;
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
    Ok(connection)
}
