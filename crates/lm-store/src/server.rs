//! The tables on a PostgreSQL server: the same ones, in the schema that the URL's search path begins with.
//!
//! It must never touch a table of anybody else.
//!
//! Start reading at [`open_writer`].

use crate::StoreError;
use crate::error::ErrorContext;
use crate::schema::{SCHEMA_VERSION, UPGRADES};
use crate::sql::{self, Connection, Postgres};

/// Who upgrades holds this lock of the server's until its transaction ends. "lmst" in two halves of 32 bits.
const UPGRADE_LOCK: &str = "SELECT pg_advisory_xact_lock(1819112308)";
const VERSION_TABLE: &str = "CREATE TABLE IF NOT EXISTS lastmile_schema(version BIGINT NOT NULL)";

/// Connects, and creates or upgrades the tables when needed.
pub(crate) fn open_writer(url: &str, context: &ErrorContext) -> Result<Connection, StoreError> {
    let connection = connect(url, context)?;
    upgrade(&connection, context)?;
    Ok(connection)
}

/// Connects, and says which schema the tables have; 0 where there are none.
pub(crate) fn open_reader(
    url: &str,
    context: &ErrorContext,
) -> Result<(Connection, i64), StoreError> {
    let connection = connect(url, context)?;
    let found = version(&connection).map_err(|e| context.wrap("open", &e))?;
    refuse_newer(found, context)?;
    Ok((connection, found))
}

fn connect(url: &str, context: &ErrorContext) -> Result<Connection, StoreError> {
    let opened = Postgres::open(url).map_err(|e| context.wrap("open", &e))?;
    Ok(Connection::Postgres(Box::new(opened)))
}

fn upgrade(connection: &Connection, context: &ErrorContext) -> Result<(), StoreError> {
    let wrap = |e: sql::Error| context.wrap("upgrade", &e);
    let found = version(connection).map_err(wrap)?;
    refuse_newer(found, context)?;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.begin_write(true).map_err(wrap)?;
    transaction.execute_batch(UPGRADE_LOCK).map_err(wrap)?;
    // Another process may have upgraded while this one waited for the lock.
    let found = version(&transaction).map_err(wrap)?;
    refuse_newer(found, context)?;
    for sql in UPGRADES.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(&translated(sql)).map_err(wrap)?;
    }
    let written = transaction.execute_batch(VERSION_TABLE).and_then(|()| {
        transaction.execute("DELETE FROM lastmile_schema", ())?;
        transaction.execute("INSERT INTO lastmile_schema(version) VALUES (?1)", [SCHEMA_VERSION])
    });
    written.and_then(|_| transaction.commit()).map_err(wrap)
}

fn version(connection: &Connection) -> sql::Result<i64> {
    let is_there = "SELECT CAST(count(*) AS BIGINT) FROM information_schema.tables \
                    WHERE table_schema = current_schema() AND table_name = 'lastmile_schema'";
    if connection.query_row(is_there, (), |row| row.get::<_, i64>(0))? == 0 {
        return Ok(0);
    }
    connection.query_row("SELECT max(version) FROM lastmile_schema", (), |row| row.get(0))
}

fn refuse_newer(found: i64, context: &ErrorContext) -> Result<(), StoreError> {
    match found > SCHEMA_VERSION {
        true => {
            let path = context.path.clone();
            Err(StoreError::SchemaNewer { path, found, known: SCHEMA_VERSION })
        }
        false => Ok(()),
    }
}

/// The same tables in PostgreSQL's words: its integers have 32 bits unless told otherwise, and all tables are strict.
fn translated(sql: &str) -> String {
    sql.replace(" INTEGER", " BIGINT")
        .replace(" REAL", " DOUBLE PRECISION")
        .replace(" BLOB", " BYTEA")
        .replace(") STRICT;", ");")
}
