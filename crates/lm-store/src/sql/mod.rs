//! One face for two databases: SQLite in a file, and a PostgreSQL server. Statements are written once, in what both
//! understand, with `?1` for their parameters.
//!
//! It must never know a table.
//!
//! Start reading at [`Connection`].

mod catalog;
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

pub use pg::{Patience, Postgres};
pub use place::{server_url, shown};
pub use value::{FromValue, Params, ToValue, Value, params};

/// A result whose error is a database's.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a statement failed.
#[derive(Clone, Debug)]
pub struct Error {
    /// What can be told of it.
    pub kind: ErrorKind,
    /// What the database says.
    pub detail: String,
}

/// What can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
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

/// Ends a server's transaction, and its connection, when nothing is asked in it for so long. Whoever reads one state of the
/// database for hours rightly asks nothing meanwhile, so it is set where one writes.
const IDLE_LIMIT: &str = "SET LOCAL idle_in_transaction_session_timeout = '30s'";

/// A connection to either database. Not for two threads at once.
pub enum Connection {
    /// To a file.
    Sqlite(rusqlite::Connection),
    /// To a server.
    Postgres(Box<Postgres>),
}

/// A statement; databases keep what they know of it.
pub struct Statement<'c> {
    connection: &'c Connection,
    sql: String,
}

/// A row, out of the database's hands.
pub struct Row(Vec<Value>);

/// Where a column stands; a number alone, so that `row.get(0)` needs no type.
pub trait ColumnIndex {
    /// Its number, from 0.
    fn index(self) -> usize;
}

impl ColumnIndex for usize {
    fn index(self) -> usize {
        self
    }
}

/// What is committed as one, or rolled back when it is dropped.
pub struct Transaction<'c> {
    connection: &'c Connection,
    is_over: Cell<bool>,
}

impl Error {
    /// Of a kind, with what the database says.
    pub fn new(kind: ErrorKind, detail: impl ToString) -> Self {
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
    /// Connects to the server of a URL.
    ///
    /// # Errors
    /// A URL that cannot be read, or a server that does not answer or does not let us in.
    pub fn open_server(url: &str, patience: Patience) -> Result<Connection> {
        Ok(Connection::Postgres(Box::new(Postgres::open(url, patience)?)))
    }

    /// A statement that is run more than once.
    ///
    /// # Errors
    /// None yet: a statement that cannot be read fails where it is run.
    pub fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(Statement { connection: self, sql: sql.to_owned() })
    }

    /// Runs a statement; returns how many rows it changed.
    ///
    /// # Errors
    /// What the database says.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        let values = params.values();
        match self {
            Connection::Sqlite(connection) => sqlite::execute(connection, sql, &values),
            Connection::Postgres(server) => server.execute(sql, &values),
        }
    }

    /// The first row of an answer.
    ///
    /// # Errors
    /// [`ErrorKind::NoRow`] where there is none, or what the database says.
    pub fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row) -> Result<T>,
    ) -> Result<T> {
        let rows = self.rows(sql, &params.values())?;
        read(rows.first().ok_or_else(|| Error::new(ErrorKind::NoRow, "there is no such row"))?)
    }

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// What the database says.
    pub fn execute_batch(&self, sql: &str) -> Result<()> {
        match self {
            Connection::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Connection::Postgres(server) => server.batch(sql),
        }
    }

    /// Begins a transaction that sees one state of the database.
    ///
    /// # Errors
    /// What the database says.
    pub fn begin_read(&self) -> Result<Transaction<'_>> {
        self.begin(match self {
            Connection::Sqlite(_) => "BEGIN",
            Connection::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        })
    }

    /// Begins a transaction that writes. One that is durable survives the loss of power from its commit on; others
    /// may be lost with the last moments before it. A server ends one in which nothing is asked for 30 s: whoever stopped in
    /// the middle of it would hold up all others.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where another connection writes to the file, or what the database says.
    pub fn begin_write(&self, is_durable: bool) -> Result<Transaction<'_>> {
        match self {
            Connection::Sqlite(connection) => {
                let level = if is_durable { "FULL" } else { "NORMAL" };
                connection.pragma_update(None, "synchronous", level)?;
                self.begin("BEGIN IMMEDIATE")
            }
            Connection::Postgres(_) => {
                let level = if is_durable { "" } else { "; SET LOCAL synchronous_commit = off" };
                self.begin(&format!("BEGIN; {IDLE_LIMIT}{level}"))
            }
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
    ///
    /// # Errors
    /// What the database says.
    pub fn fold_log(&self) -> Result<()> {
        match self {
            Connection::Sqlite(connection) => {
                Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?)
            }
            Connection::Postgres(_) => Ok(()),
        }
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
    /// What `read` makes of each row.
    ///
    /// # Errors
    /// What the database says.
    pub fn query_map<T>(
        &mut self,
        params: impl Params,
        read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<std::vec::IntoIter<Result<T>>> {
        let rows = self.connection.rows(&self.sql, &params.values())?;
        let read: Vec<Result<T>> = rows.iter().map(read).collect();
        Ok(read.into_iter())
    }

    /// The first row of an answer.
    ///
    /// # Errors
    /// [`ErrorKind::NoRow`] where there is none, or what the database says.
    pub fn query_row<T>(
        &mut self,
        params: impl Params,
        read: impl FnOnce(&Row) -> Result<T>,
    ) -> Result<T> {
        self.connection.query_row(&self.sql, params, read)
    }

    /// Returns how many rows it changed.
    ///
    /// # Errors
    /// What the database says.
    pub fn execute(&mut self, params: impl Params) -> Result<usize> {
        self.connection.execute(&self.sql, params)
    }

    /// Whether there is a row.
    ///
    /// # Errors
    /// What the database says.
    pub fn exists(&mut self, params: impl Params) -> Result<bool> {
        Ok(!self.connection.rows(&self.sql, &params.values())?.is_empty())
    }
}

impl Row {
    /// The value of a column.
    ///
    /// # Errors
    /// It is not there, or of another type.
    pub fn get<I: ColumnIndex, T: FromValue>(&self, column: I) -> Result<T> {
        let column = column.index();
        let value = self.0.get(column).ok_or_else(|| Error::conversion(column, "is not there"))?;
        T::from_value(value).ok_or_else(|| Error::conversion(column, "is of another type"))
    }

    /// Its values, in order.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.0
    }
}

impl Transaction<'_> {
    /// Makes it last.
    ///
    /// # Errors
    /// What the database says; then nothing of it is there.
    pub fn commit(self) -> Result<()> {
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
pub trait OptionalExtension<T> {
    /// The row, where there is one.
    ///
    /// # Errors
    /// All but [`ErrorKind::NoRow`].
    fn optional(self) -> Result<Option<T>>;
}

impl<T> OptionalExtension<T> for Result<T> {
    /// The row, where there is one.
    ///
    /// # Errors
    /// All but [`ErrorKind::NoRow`].
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind == ErrorKind::NoRow => Ok(None),
            Err(error) => Err(error),
        }
    }
}
