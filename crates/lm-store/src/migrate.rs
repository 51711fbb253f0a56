//! A store's rows in another store: from a file to a server, and back.
//!
//! It must never lose a row in silence: what arrived is counted.
//!
//! Start reading at [`migrate`].

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::error::ErrorContext;
use crate::sql::{self, Connection, Value, shown};
use crate::{StoreError, StoreOptions, schema};

/// Rows of one transaction.
const CHUNK: i64 = 500;

/// One table that was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Its name.
    pub table: String,
    /// Rows in the old store.
    pub rows: u64,
    /// Rows that the new store did not have yet.
    pub copied: u64,
}

/// Copies all rows of the store at `from` into the one at `to`, whose tables are created when needed. What is there
/// already stays, so that a copy which was interrupted goes on; a server that writes to `from` meanwhile is left behind.
///
/// # Errors
/// Either store cannot be opened, read or written, or the new one lacks rows afterwards.
pub fn migrate(from: &Path, to: &Path) -> Result<Vec<Migrated>, StoreError> {
    let options = StoreOptions::default();
    let context = |place: &Path| ErrorContext {
        path: shown(place),
        max_bytes: options.max_bytes,
        busy_timeout: Duration::from_secs(30),
    };
    let (from_context, to_context) = (context(from), context(to));
    let old = schema::open_reader(from, &from_context)?;
    let new = schema::open_writer(to, &options, &to_context)?;
    // One state of the old store, however long it takes.
    let _state = old.begin_read().map_err(|e| from_context.wrap("read", &e))?;
    let tables = old.tables().map_err(|e| from_context.wrap("read", &e))?;
    let mut migrated = Vec::new();
    for table in tables {
        let columns = old.columns(&table).map_err(|e| from_context.wrap("read", &e))?;
        let copied = copy(&old, &new, &table, &columns, &from_context, &to_context)?;
        let rows = count(&old, &table).map_err(|e| from_context.wrap("read", &e))?;
        let arrived = count(&new, &table).map_err(|e| to_context.wrap("read", &e))?;
        if arrived < rows {
            return Err(StoreError::Database {
                path: to_context.path,
                action: "take over all rows",
                detail: format!("{table} has {arrived} of {rows}"),
            });
        }
        migrated.push(Migrated { table, rows, copied });
    }
    Ok(migrated)
}

/// Copies a table in the order of its key, which is what its first columns are.
fn copy(
    old: &Connection,
    new: &Connection,
    table: &str,
    columns: &[String],
    from: &ErrorContext,
    to: &ErrorContext,
) -> Result<u64, StoreError> {
    // Names come from the schema, never from input.
    let names = columns.join(", ");
    let marks: Vec<String> = (1..=columns.len()).map(|i| format!("?{i}")).collect();
    let insert = format!(
        "INSERT INTO {table}({names}) VALUES ({}) ON CONFLICT DO NOTHING",
        marks.join(", ")
    );
    let key: Vec<&str> = columns.iter().take(2).map(String::as_str).collect();
    let key = key.join(", ");
    let first = format!("SELECT {names} FROM {table} ORDER BY {key} LIMIT {CHUNK}");
    let next = format!(
        "SELECT {names} FROM {table} WHERE ({key}) > (?1, ?2) ORDER BY {key} LIMIT {CHUNK}"
    );
    let mut n_copied = 0;
    let mut rows = read(old, &first, Vec::new()).map_err(|e| from.wrap("read", &e))?;
    while let Some(last) = rows.last().map(|row| row.iter().take(2).cloned().collect()) {
        let transaction = new.begin_write(true).map_err(|e| to.wrap("write", &e))?;
        for row in rows {
            let n_rows = transaction.execute(&insert, row).map_err(|e| to.wrap("write", &e))?;
            n_copied += n_rows as u64;
        }
        transaction.commit().map_err(|e| to.wrap("write", &e))?;
        rows = read(old, &next, last).map_err(|e| from.wrap("read", &e))?;
    }
    Ok(n_copied)
}

fn read(old: &Connection, select: &str, after: Vec<Value>) -> sql::Result<Vec<Vec<Value>>> {
    old.prepare_cached(select)?.query_map(after, |row| Ok(row.values().to_vec()))?.collect()
}

fn count(connection: &Connection, table: &str) -> sql::Result<u64> {
    let sql = format!("SELECT CAST(count(*) AS BIGINT) FROM {table}");
    connection.query_row(&sql, (), |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
}
