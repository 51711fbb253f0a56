//! The tables on a PostgreSQL server: the same ones, in the schema that the URL's search path begins with.
//!
//! It must never touch a table of anybody else.
//!
//! Start reading at [`open_writer`].

use crate::error::{ErrorContext, READ_PATIENCE, UPGRADE_PATIENCE};
use crate::schema::{SCHEMA_VERSION, UPGRADES};
use crate::sql::{self, Connection, ErrorKind, Patience, params};
use crate::{BookFile, OpenedBook, StoreError};

/// Who upgrades holds this lock of the server's until its transaction ends. "lmst" in two halves of 32 bits.
const UPGRADE_LOCK: &str = "SELECT pg_advisory_xact_lock(1819112308)";
const VERSION_TABLE: &str = "CREATE TABLE IF NOT EXISTS lastmile_schema(version BIGINT NOT NULL)";
/// Of books, by what says in a file whose it is.
const BOOK_TABLE: &str = "CREATE TABLE IF NOT EXISTS lastmile_book(\
                          application_id BIGINT PRIMARY KEY, version BIGINT NOT NULL)";

/// Connects, and creates or upgrades the tables when needed.
pub(crate) fn open_writer(url: &str, context: &ErrorContext) -> Result<Connection, StoreError> {
    let connection = connect(url, context)?;
    let found = version(&connection).map_err(|e| context.wrap("open", &e))?;
    refuse_newer(found, context)?;
    if found < SCHEMA_VERSION {
        let patient = ErrorContext { patience: UPGRADE_PATIENCE, ..context.clone() };
        upgrade(&connect(url, &patient)?, context)?;
    }
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
    let patience = Patience { statement: context.patience, lock: context.busy_timeout };
    connect_within(url, patience).map_err(|e| context.wrap("open", &e))
}

fn connect_within(url: &str, patience: Patience) -> sql::Result<Connection> {
    let connection = Connection::open_server(url, patience)?;
    let encoding: String =
        connection.query_row("SELECT current_setting('server_encoding')", (), |row| row.get(0))?;
    if encoding != "UTF8" {
        let detail = format!(
            "the database's encoding is {encoding}, which cannot hold all texts: make one with \
             CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        );
        return Err(sql::Error::new(ErrorKind::Other, detail));
    }
    Ok(connection)
}

/// Connects to the server that has a book, and creates or upgrades its tables when needed.
pub(crate) fn open_book(url: &str, file: &BookFile) -> sql::Result<OpenedBook<Connection>> {
    let BookFile { application_id, upgrades, busy, .. } = *file;
    let known = upgrades.len() as i64;
    let connect = |statement| connect_within(url, Patience { statement, lock: busy });
    let connection = connect(READ_PATIENCE)?;
    let mut schema = book_version(&connection, application_id)?;
    if schema < known {
        schema = upgrade_book(&connect(UPGRADE_PATIENCE)?, file)?;
    }
    Ok(match schema > known {
        true => OpenedBook::Foreign { application_id, schema, known },
        false => OpenedBook::Book(connection),
    })
}

/// Returns the schema that the book has afterwards.
fn upgrade_book(connection: &Connection, file: &BookFile) -> sql::Result<i64> {
    let known = file.upgrades.len() as i64;
    let transaction = connection.begin_write(true)?;
    transaction.execute_batch(UPGRADE_LOCK)?;
    // Another process may have upgraded while this one waited for the lock.
    let found = book_version(&transaction, file.application_id)?;
    if found >= known {
        return Ok(found);
    }
    for sql in file.upgrades.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(&server_tables(sql))?;
    }
    transaction.execute_batch(BOOK_TABLE)?;
    let sql = "INSERT INTO lastmile_book(application_id, version) VALUES (?1, ?2) \
               ON CONFLICT (application_id) DO UPDATE SET version = excluded.version";
    transaction.execute(sql, params![file.application_id, known])?;
    transaction.commit()?;
    Ok(known)
}

/// The schema of a book; 0 where there is none.
fn book_version(connection: &Connection, application_id: i64) -> sql::Result<i64> {
    if !has_table(connection, "lastmile_book")? {
        return Ok(0);
    }
    let sql = "SELECT coalesce(max(version), 0) FROM lastmile_book WHERE application_id = ?1";
    connection.query_row(sql, [application_id], |row| row.get(0))
}

fn has_table(connection: &Connection, name: &str) -> sql::Result<bool> {
    let sql = "SELECT 1 FROM information_schema.tables \
               WHERE table_schema = current_schema() AND table_name = CAST(?1 AS TEXT)";
    connection.prepare_cached(sql)?.exists([name])
}

fn upgrade(connection: &Connection, context: &ErrorContext) -> Result<(), StoreError> {
    let wrap = |e: sql::Error| context.wrap("upgrade", &e);
    let transaction = connection.begin_write(true).map_err(wrap)?;
    transaction.execute_batch(UPGRADE_LOCK).map_err(wrap)?;
    // Another process may have upgraded while this one waited for the lock.
    let found = version(&transaction).map_err(wrap)?;
    refuse_newer(found, context)?;
    for sql in UPGRADES.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(&server_tables(sql)).map_err(wrap)?;
    }
    let written = transaction.execute_batch(VERSION_TABLE).and_then(|()| {
        transaction.execute("DELETE FROM lastmile_schema", ())?;
        transaction.execute("INSERT INTO lastmile_schema(version) VALUES (?1)", [SCHEMA_VERSION])
    });
    written.and_then(|_| transaction.commit()).map_err(wrap)
}

fn version(connection: &Connection) -> sql::Result<i64> {
    if !has_table(connection, "lastmile_schema")? {
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

/// The same tables: integers have 32 bits there unless told otherwise, and all tables are strict. Rows have no number of
/// the database's own there; a column that takes it over in a file is of tables that have no rows yet on a server.
pub(crate) fn server_tables(sql: &str) -> String {
    sql.replace(
        " INTEGER PRIMARY KEY AUTOINCREMENT",
        " BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
    )
    .replace(" INTEGER", " BIGINT")
    .replace(" REAL", " DOUBLE PRECISION")
    .replace(" BLOB", " BYTEA")
    .replace(") STRICT;", ");")
    .replace(" = rowid;", " = 0;")
}

#[cfg(test)]
mod tests {
    use super::server_tables;

    #[test]
    fn tables_have_the_same_columns() {
        let sqlite = "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b INTEGER, c REAL, d BLOB) STRICT;";
        let postgres = "CREATE TABLE t(a BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, \
                        b BIGINT, c DOUBLE PRECISION, d BYTEA);";
        assert_eq!(server_tables(sqlite), postgres);
    }
}
