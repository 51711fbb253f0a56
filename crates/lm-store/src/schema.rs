//! The tables, how a connection is opened, and how an older file is upgraded.
//!
//! It must never delete or recreate a file: what it cannot read it names.
//!
//! Start reading at `UPGRADES` (the tables), then `open_writer`.

use std::path::Path;

use rusqlite::{OpenFlags, TransactionBehavior};

use crate::error::{ErrorContext, io};
use crate::sql::{self, Connection, server_url};
use crate::{StoreError, StoreOptions, server};

/// Entry `i` brings a file from schema `i` to schema `i + 1`. Entries are never edited once
/// released; a change to the tables is a new entry.
pub(crate) const UPGRADES: [&str; 6] = [
    r"
CREATE TABLE release(
    hash TEXT PRIMARY KEY, model TEXT NOT NULL, engine_version TEXT NOT NULL,
    facts TEXT NOT NULL, first_seen_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE request(
    id TEXT PRIMARY KEY, release_hash TEXT NOT NULL, model TEXT NOT NULL,
    arrived_at_ms INTEGER NOT NULL, prompt TEXT, params TEXT NOT NULL,
    n INTEGER NOT NULL, priority TEXT NOT NULL
) STRICT;
CREATE INDEX request_arrived ON request(arrived_at_ms);
CREATE INDEX request_body ON request(arrived_at_ms) WHERE prompt IS NOT NULL;
CREATE TABLE attempt(
    request_id TEXT NOT NULL, choice INTEGER NOT NULL, release_hash TEXT NOT NULL,
    arrived_at_ms INTEGER NOT NULL, finish_reason TEXT, error_code TEXT, error_message TEXT,
    output_text TEXT, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL, queue_wait_ms REAL NOT NULL, ttft_ms REAL,
    e2e_ms REAL NOT NULL, cpu_seconds REAL NOT NULL, n_preemptions INTEGER NOT NULL,
    PRIMARY KEY(request_id, choice)
) STRICT;
CREATE INDEX attempt_arrived ON attempt(arrived_at_ms);
CREATE INDEX attempt_body ON attempt(arrived_at_ms) WHERE output_text IS NOT NULL;
CREATE INDEX attempt_error ON attempt(arrived_at_ms) WHERE error_code IS NOT NULL;
CREATE TABLE feedback(
    id TEXT PRIMARY KEY, request_id TEXT NOT NULL, choice INTEGER NOT NULL,
    rating_kind TEXT, rating REAL, comment TEXT, correction TEXT,
    created_at_ms INTEGER NOT NULL, release_hash TEXT NOT NULL
) STRICT;
CREATE INDEX feedback_request ON feedback(request_id);
CREATE INDEX feedback_created ON feedback(created_at_ms);
CREATE TABLE process_run(
    id TEXT PRIMARY KEY, pid INTEGER NOT NULL, started_at_ms INTEGER NOT NULL,
    last_heartbeat_ms INTEGER NOT NULL, stopped_at_ms INTEGER, version TEXT NOT NULL,
    address TEXT NOT NULL, model TEXT NOT NULL, release_hash TEXT NOT NULL
) STRICT;
CREATE INDEX run_started ON process_run(started_at_ms);
",
    r"
-- NULL is who came without a key.
ALTER TABLE request ADD COLUMN tenant TEXT;
CREATE INDEX request_tenant ON request(arrived_at_ms) WHERE tenant IS NOT NULL;
",
    r"
-- What an answer is computed again from, what came of it, and what happened to it on its way.
ALTER TABLE request ADD COLUMN recipe TEXT;
ALTER TABLE request ADD COLUMN prompt_tokens TEXT;
ALTER TABLE attempt ADD COLUMN output_tokens TEXT;
ALTER TABLE attempt ADD COLUMN timeline TEXT;
ALTER TABLE release ADD COLUMN how TEXT;
",
    r"
-- NULL is unavailable, or without a price.
ALTER TABLE attempt ADD COLUMN joules REAL;
ALTER TABLE attempt ADD COLUMN cost REAL;
ALTER TABLE attempt ADD COLUMN currency TEXT;
-- Keyed hashes, which tell equal texts without telling the texts.
ALTER TABLE request ADD COLUMN prompt_mac TEXT;
ALTER TABLE attempt ADD COLUMN output_mac TEXT;
-- On whose behalf a client asked, in its own words.
ALTER TABLE request ADD COLUMN subject TEXT;
CREATE INDEX request_subject ON request(subject) WHERE subject IS NOT NULL;
",
    r"
-- Answers of experiments, in the order of their commits: a number is never given again, so that who reads on from the
-- last one reads each once.
CREATE TABLE assignment(
    seq INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL, choice INTEGER NOT NULL,
    experiment TEXT NOT NULL, arm TEXT NOT NULL, unit TEXT NOT NULL, percent INTEGER NOT NULL,
    variant TEXT NOT NULL, shadow_of TEXT, arrived_at_ms INTEGER NOT NULL,
    UNIQUE(request_id, choice)
) STRICT;
CREATE INDEX assignment_experiment ON assignment(experiment, seq);
CREATE INDEX assignment_copy ON assignment(shadow_of) WHERE shadow_of IS NOT NULL;
CREATE INDEX assignment_arrived ON assignment(arrived_at_ms);
",
    r"
-- The trace of who sent it, as 32 hexadecimal digits.
ALTER TABLE request ADD COLUMN trace_id TEXT;
CREATE INDEX request_trace ON request(trace_id) WHERE trace_id IS NOT NULL;
",
];

pub(crate) const SCHEMA_VERSION: i64 = UPGRADES.len() as i64;
/// "lmst", so that a store is told from any other SQLite file.
pub(crate) const APPLICATION_ID: i64 = 0x6c6d_7374;

/// The store's tables: others may share its database.
pub(crate) fn tables(connection: &Connection) -> sql::Result<Vec<String>> {
    let is_made = |table: &String| {
        let begin = format!("CREATE TABLE {table}(");
        UPGRADES.iter().any(|sql| sql.contains(&begin))
    };
    Ok(connection.tables()?.into_iter().filter(is_made).collect())
}

/// Opens the one connection that writes; creates the file and its folder when there are none.
pub(crate) fn open_writer(
    place: &Path,
    options: &StoreOptions,
    context: &ErrorContext,
) -> Result<Connection, StoreError> {
    if let Some(url) = server_url(place) {
        return server::open_writer(url, context);
    }
    create_private(place)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let wrap = |e: rusqlite::Error| context.wrap("open", &e.into());
    let mut connection = rusqlite::Connection::open_with_flags(place, flags).map_err(wrap)?;
    connection.busy_timeout(options.busy_timeout).map_err(wrap)?;
    // Nothing may be written, not even the journal mode, before the file is known to be ours.
    refuse_foreign(&connection, context)?;
    let page_bytes = pragma(&connection, "page_size", context)?.max(1).cast_unsigned();
    let max_pages = i64::try_from(options.max_bytes / page_bytes).unwrap_or(i64::MAX);
    (|| {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "secure_delete", true)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        connection.pragma_update(None, "max_page_count", max_pages)
    })()
    .map_err(wrap)?;
    connection.set_prepared_statement_cache_capacity(32);
    upgrade(&mut connection, context)?;
    Ok(Connection::Sqlite(connection))
}

/// Opens a connection that cannot write.
pub(crate) fn open_reader(place: &Path, context: &ErrorContext) -> Result<Connection, StoreError> {
    let (connection, found) = match server_url(place) {
        Some(url) => server::open_reader(url, context)?,
        None => open_file(place, context)?,
    };
    let path = context.path.clone();
    // An empty database of a server: a file that is not there is refused before.
    if found == 0 {
        return Err(StoreError::Missing { path });
    }
    if found < SCHEMA_VERSION {
        return Err(StoreError::SchemaOlder { path, found, wanted: SCHEMA_VERSION });
    }
    Ok(connection)
}

/// The schema of a store, whichever it is.
pub(crate) fn version(place: &Path, context: &ErrorContext) -> Result<i64, StoreError> {
    let (_, found) = match server_url(place) {
        Some(url) => server::open_reader(url, context)?,
        None => open_file(place, context)?,
    };
    Ok(found)
}

/// A connection that cannot write, and the file's schema.
fn open_file(path: &Path, context: &ErrorContext) -> Result<(Connection, i64), StoreError> {
    if !path.exists() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let wrap = |e: rusqlite::Error| context.wrap("open", &e.into());
    let connection = rusqlite::Connection::open_with_flags(path, flags).map_err(wrap)?;
    connection.busy_timeout(context.busy_timeout).map_err(wrap)?;
    let found = refuse_foreign(&connection, context)?;
    Ok((Connection::Sqlite(connection), found))
}

/// Returns the schema version of a file that is new, or a store of a known version.
fn refuse_foreign(
    connection: &rusqlite::Connection,
    context: &ErrorContext,
) -> Result<i64, StoreError> {
    let wrap = |e: rusqlite::Error| context.wrap("open", &e.into());
    let found_app = pragma(connection, "application_id", context)?;
    let n_tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(wrap)?;
    let path = context.path.clone();
    if found_app != APPLICATION_ID && (found_app != 0 || n_tables > 0) {
        return Err(StoreError::NotAStore { path, found: found_app, wanted: APPLICATION_ID });
    }
    let found = pragma(connection, "user_version", context)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::SchemaNewer { path, found, known: SCHEMA_VERSION });
    }
    Ok(found)
}

/// Runs the missing upgrades in one transaction, so that a crash leaves the old schema whole and
/// two processes do not upgrade twice.
fn upgrade(
    connection: &mut rusqlite::Connection,
    context: &ErrorContext,
) -> Result<(), StoreError> {
    if pragma(connection, "user_version", context)? == SCHEMA_VERSION {
        return Ok(());
    }
    let wrap = |e: rusqlite::Error| context.wrap("upgrade", &e.into());
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)?;
    // Another process may have upgraded while this one waited for the lock.
    let found = refuse_foreign(&transaction, context)?;
    let n_done = usize::try_from(found).unwrap_or(0);
    for sql in UPGRADES.iter().skip(n_done) {
        transaction.execute_batch(sql).map_err(wrap)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(wrap)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(wrap)?;
    transaction.commit().map_err(wrap)
}

fn pragma(
    connection: &rusqlite::Connection,
    name: &'static str,
    context: &ErrorContext,
) -> Result<i64, StoreError> {
    connection
        .pragma_query_value(None, name, |row| row.get(0))
        .map_err(|e| context.wrap("open", &e.into()))
}

/// Creates an empty file that only its owner can read: it will hold what people wrote.
///
/// A file that exists is not even opened: closing it would take away the POSIX locks that other
/// connections of this process hold on it.
pub(crate) fn create_private(path: &Path) -> Result<(), StoreError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| io(folder, "create the folder", &e))?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io(path, "create", &e)),
        _ => Ok(()),
    }
}
