//! One face for two databases: SQLite in a file, and a PostgreSQL server. Statements are written once, in what both
//! understand, with `?1` for their parameters.
//!
//! It must never know a table.
//!
//! Start reading at [`Connection`].

#[cfg(feature = "postgres")]
mod pg;
#[cfg(not(feature = "postgres"))]
#[path = "pg_absent.rs"]
mod pg;
mod place;
mod sqlite;
mod value;

use std::cell::Cell;
use std::ops::Deref;

pub(crate) use pg::{Patience, Postgres};
pub(crate) use place::server_url;
pub use place::shown;
pub(crate) use value::{FromValue, Params, ToValue, Value, params};

/// A result whose error is a database's.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a statement failed.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    pub(crate) kind: ErrorKind,
    /// What the database says.
    pub(crate) detail: String,
}

/// What can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// There is no such row.
    NoRow,
    /// A damaged file, or none of the database's.
    Corrupt,
    /// The disk is full, or the limit of the file is reached.
    Full,
    /// Another connection holds what is needed.
    Busy,
    /// The server does not answer.
    Unreachable,
    /// Anything else.
    Other,
}

/// A connection to either database. Not for two threads at once.
pub(crate) enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(Box<Postgres>),
}

/// A statement; databases keep what they know of it.
pub(crate) struct Statement<'c> {
    connection: &'c Connection,
    sql: String,
}

/// A row, out of the database's hands.
pub(crate) struct Row(Vec<Value>);

/// Where a column stands; a number alone, so that `row.get(0)` needs no type.
pub(crate) trait ColumnIndex {
    fn index(self) -> usize;
}

impl ColumnIndex for usize {
    fn index(self) -> usize {
        self
    }
}

/// What is committed as one, or rolled back when it is dropped.
pub(crate) struct Transaction<'c> {
    connection: &'c Connection,
    is_over: Cell<bool>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, detail: impl ToString) -> Self {
        Error { kind, detail: detail.to_string() }
    }

    /// A column that does not hold what it should.
    pub(crate) fn conversion(column: usize, detail: impl ToString) -> Self {
        Error::new(ErrorKind::Other, format!("column {column}: {}", detail.to_string()))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Error {}

impl Connection {
    pub(crate) fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(Statement { connection: self, sql: sql.to_owned() })
    }

    /// Runs a statement; returns how many rows it changed.
    pub(crate) fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        let values = params.values();
        match self {
            Connection::Sqlite(connection) => sqlite::execute(connection, sql, &values),
            Connection::Postgres(server) => server.execute(sql, &values),
        }
    }

    /// The first row of an answer.
    pub(crate) fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row) -> Result<T>,
    ) -> Result<T> {
        let rows = self.rows(sql, &params.values())?;
        read(rows.first().ok_or_else(|| Error::new(ErrorKind::NoRow, "there is no such row"))?)
    }

    /// Runs statements without parameters.
    pub(crate) fn execute_batch(&self, sql: &str) -> Result<()> {
        match self {
            Connection::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Connection::Postgres(server) => server.batch(sql),
        }
    }

    /// Begins a transaction that sees one state of the database.
    pub(crate) fn begin_read(&self) -> Result<Transaction<'_>> {
        self.begin(match self {
            Connection::Sqlite(_) => "BEGIN",
            Connection::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        })
    }

    /// Begins a transaction that writes. One that is durable survives the loss of power from its commit on; others
    /// may be lost with the last moments before it.
    pub(crate) fn begin_write(&self, is_durable: bool) -> Result<Transaction<'_>> {
        match self {
            Connection::Sqlite(connection) => {
                let level = if is_durable { "FULL" } else { "NORMAL" };
                connection.pragma_update(None, "synchronous", level)?;
                self.begin("BEGIN IMMEDIATE")
            }
            Connection::Postgres(_) if is_durable => self.begin("BEGIN"),
            Connection::Postgres(_) => self.begin("BEGIN; SET LOCAL synchronous_commit = off"),
        }
    }

    /// Whether a failure rolled back the whole transaction, rather than its statement alone.
    pub(crate) fn is_rolled_back(&self) -> bool {
        match self {
            Connection::Sqlite(connection) => connection.is_autocommit(),
            Connection::Postgres(server) => server.is_broken(),
        }
    }

    /// Folds what is written into its last place, so that what was erased is nowhere else.
    pub(crate) fn fold_log(&self) -> Result<()> {
        match self {
            Connection::Sqlite(connection) => {
                Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?)
            }
            Connection::Postgres(_) => Ok(()),
        }
    }

    /// Bytes that rows take of a file that has a limit.
    pub(crate) fn limited_bytes(&self) -> Result<Option<u64>> {
        match self {
            Connection::Sqlite(connection) => {
                sqlite::space(connection).map(|(free, all)| Some(all - free))
            }
            // How large it may be is for the server's operator to say.
            Connection::Postgres(_) => Ok(None),
        }
    }

    /// Bytes that are free for new rows, and bytes in all.
    pub(crate) fn space(&self) -> Result<(u64, u64)> {
        match self {
            Connection::Sqlite(connection) => sqlite::space(connection),
            Connection::Postgres(_) => {
                let sql = "SELECT CAST(coalesce(sum(pg_total_relation_size(c.oid)), 0) AS BIGINT) \
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE n.nspname = current_schema() AND c.relkind = 'r'";
                self.query_row(sql, (), |row| Ok((0, row.get::<_, i64>(0)?.cast_unsigned())))
            }
        }
    }

    /// From here to the end of the transaction, numbers of `table` are given in the order of commits: no other
    /// connection gives one meanwhile. SQLite has one writer at a time anyway.
    pub(crate) fn number_in_order(&self, table: &'static str) -> Result<()> {
        match self {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(server) => {
                let lock = "SELECT pg_advisory_xact_lock(CAST(CAST(CAST(?1 AS TEXT) AS REGCLASS) AS BIGINT))";
                server.execute(lock, &[Value::Text(table.to_owned())]).map(drop)
            }
        }
    }

    /// The number that `table` gave last, also where its row is gone; 0 when it gave none.
    pub(crate) fn last_number(&self, table: &'static str) -> Result<i64> {
        let sql = match self {
            Connection::Sqlite(_) => "SELECT seq FROM sqlite_sequence WHERE name = ?1",
            Connection::Postgres(_) => {
                "SELECT coalesce(pg_sequence_last_value(\
                 CAST(pg_get_serial_sequence(CAST(?1 AS TEXT), 'seq') AS REGCLASS)), 0)"
            }
        };
        self.query_row(sql, [table], |row| row.get(0)).optional().map(Option::unwrap_or_default)
    }

    /// From now on `table` gives greater numbers than this one.
    pub(crate) fn number_after(&self, table: &'static str, last: i64) -> Result<()> {
        if self.last_number(table)? >= last {
            return Ok(());
        }
        match self {
            Connection::Sqlite(_) => {
                let sql = "UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1";
                if self.execute(sql, params![table, last])? == 0 {
                    let sql = "INSERT INTO sqlite_sequence(name, seq) VALUES (?1, ?2)";
                    self.execute(sql, params![table, last])?;
                }
            }
            Connection::Postgres(_) => {
                let sql = "SELECT setval(CAST(pg_get_serial_sequence(CAST(?1 AS TEXT), 'seq') \
                           AS REGCLASS), CAST(?2 AS BIGINT))";
                self.execute(sql, params![table, last])?;
            }
        }
        Ok(())
    }

    /// Every table of the store.
    pub(crate) fn tables(&self) -> Result<Vec<String>> {
        self.prepare_cached(match self {
            Connection::Sqlite(_) => {
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
                 ORDER BY name"
            }
            Connection::Postgres(_) => {
                "SELECT CAST(table_name AS TEXT) FROM information_schema.tables \
                 WHERE table_schema = current_schema() AND table_name <> 'lastmile_schema' \
                 ORDER BY table_name"
            }
        })?
        .query_map((), |row| row.get(0))?
        .collect()
    }

    /// The columns of a table, in order.
    pub(crate) fn columns(&self, table: &str) -> Result<Vec<String>> {
        self.prepare_cached(match self {
            Connection::Sqlite(_) => "SELECT name FROM pragma_table_info(?1) ORDER BY cid",
            Connection::Postgres(_) => {
                "SELECT CAST(column_name AS TEXT) FROM information_schema.columns \
                 WHERE table_schema = current_schema() AND table_name = CAST(?1 AS TEXT) \
                 ORDER BY ordinal_position"
            }
        })?
        .query_map([table], |row| row.get(0))?
        .collect()
    }

    fn begin(&self, sql: &str) -> Result<Transaction<'_>> {
        match self {
            Connection::Sqlite(connection) => connection.execute_batch(sql)?,
            Connection::Postgres(server) => server.begin(sql)?,
        }
        Ok(Transaction { connection: self, is_over: Cell::new(false) })
    }

    fn rows(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>> {
        match self {
            Connection::Sqlite(connection) => sqlite::rows(connection, sql, values),
            Connection::Postgres(server) => server.rows(sql, values),
        }
    }
}

impl Statement<'_> {
    pub(crate) fn query_map<T>(
        &mut self,
        params: impl Params,
        read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<std::vec::IntoIter<Result<T>>> {
        let rows = self.connection.rows(&self.sql, &params.values())?;
        let read: Vec<Result<T>> = rows.iter().map(read).collect();
        Ok(read.into_iter())
    }

    pub(crate) fn query_row<T>(
        &mut self,
        params: impl Params,
        read: impl FnOnce(&Row) -> Result<T>,
    ) -> Result<T> {
        self.connection.query_row(&self.sql, params, read)
    }

    pub(crate) fn execute(&mut self, params: impl Params) -> Result<usize> {
        self.connection.execute(&self.sql, params)
    }

    pub(crate) fn exists(&mut self, params: impl Params) -> Result<bool> {
        Ok(!self.connection.rows(&self.sql, &params.values())?.is_empty())
    }
}

impl Row {
    pub(crate) fn get<I: ColumnIndex, T: FromValue>(&self, column: I) -> Result<T> {
        let column = column.index();
        let value = self.0.get(column).ok_or_else(|| Error::conversion(column, "is not there"))?;
        T::from_value(value).ok_or_else(|| Error::conversion(column, "is of another type"))
    }

    /// Its values, in order.
    pub(crate) fn values(&self) -> &[Value] {
        &self.0
    }
}

impl Transaction<'_> {
    pub(crate) fn commit(self) -> Result<()> {
        self.is_over.set(true);
        match self.connection {
            Connection::Sqlite(connection) => Ok(connection.execute_batch("COMMIT")?),
            Connection::Postgres(server) => server.commit(),
        }
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // Where this fails, the database has rolled back already.
        let _ = match self.connection {
            _ if self.is_over.get() => Ok(()),
            Connection::Sqlite(connection) if connection.is_autocommit() => Ok(()),
            Connection::Sqlite(connection) => {
                connection.execute_batch("ROLLBACK").map_err(Error::from)
            }
            Connection::Postgres(server) => server.roll_back(),
        };
    }
}

/// `None` for a row that is not there.
pub(crate) trait OptionalExtension<T> {
    fn optional(self) -> Result<Option<T>>;
}

impl<T> OptionalExtension<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind == ErrorKind::NoRow => Ok(None),
            Err(error) => Err(error),
        }
    }
}
