//! Statements on a PostgreSQL server, which may come and go.
//!
//! It must never show a password.
//!
//! Start reading at [`Postgres::open`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, Statement};

use super::{Error, ErrorKind, Result, Row, Value};

/// Statements that a connection keeps prepared; few are made of parts.
const MAX_PREPARED: usize = 100;
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// A connection to a server; it is made anew when it was lost.
pub(crate) struct Postgres {
    config: Config,
    client: RefCell<Option<Open>>,
    /// A statement failed, so that the server refuses all others of the transaction.
    is_broken: Cell<bool>,
    in_transaction: Cell<bool>,
}

struct Open {
    client: Client,
    prepared: HashMap<String, Statement>,
}

impl Postgres {
    /// Connects to the server of a URL.
    ///
    /// # Errors
    /// A URL that cannot be read, or a server that does not answer.
    pub(crate) fn open(url: &str) -> Result<Self> {
        // The library's sentence repeats no part of the URL.
        let mut config =
            Config::from_str(url).map_err(|error| Error::new(ErrorKind::Other, error))?;
        config.connect_timeout(CONNECT_PATIENCE).application_name("lastmile");
        if config.get_password().is_none()
            && let Some(password) = std::env::var_os("PGPASSWORD")
        {
            config.password(password.as_encoded_bytes());
        }
        let server = Postgres {
            config,
            client: RefCell::new(None),
            is_broken: Cell::new(false),
            in_transaction: Cell::new(false),
        };
        server.batch("SELECT 1")?;
        Ok(server)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    pub(super) fn begin(&self, sql: &str) -> Result<()> {
        let begun = match self.batch(sql) {
            // The server may have been started anew meanwhile, which is seen only now.
            Err(error) if error.kind == ErrorKind::Unreachable => self.batch(sql),
            begun => begun,
        };
        self.is_broken.set(begun.is_err());
        self.in_transaction.set(begun.is_ok());
        begun
    }

    pub(super) fn commit(&self) -> Result<()> {
        // The server answers a commit of what it has rolled back without an error.
        if self.is_broken.get() {
            self.roll_back()?;
            return Err(Error::new(ErrorKind::Other, "the transaction was rolled back"));
        }
        let committed = self.batch("COMMIT");
        self.in_transaction.set(false);
        committed
    }

    pub(super) fn roll_back(&self) -> Result<()> {
        let rolled_back = self.batch("ROLLBACK");
        self.in_transaction.set(false);
        rolled_back
    }

    pub(super) fn batch(&self, sql: &str) -> Result<()> {
        self.run(|open| open.client.batch_execute(sql))
    }

    pub(super) fn execute(&self, sql: &str, values: &[Value]) -> Result<usize> {
        self.run(|open| {
            let statement = open.prepared(sql)?;
            open.client.execute(&statement, &references(values))
        })
        .map(|n_rows| usize::try_from(n_rows).unwrap_or(usize::MAX))
    }

    pub(super) fn rows(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>> {
        let rows = self.run(|open| {
            let statement = open.prepared(sql)?;
            open.client.query(&statement, &references(values))
        })?;
        rows.iter().map(row).collect()
    }

    fn is_lost(&self) -> bool {
        self.client.borrow().as_ref().is_none_or(|open| open.client.is_closed())
    }

    fn run<T>(
        &self,
        run: impl FnOnce(&mut Open) -> std::result::Result<T, postgres::Error>,
    ) -> Result<T> {
        let was_lost = self.is_lost();
        let mut slot = self.client.borrow_mut();
        if was_lost {
            // What the lost connection had begun is gone with it.
            if self.in_transaction.replace(false) {
                self.is_broken.set(true);
                return Err(Error::new(ErrorKind::Unreachable, "the connection was lost"));
            }
            drop_apart(slot.take());
            let client = self.config.connect(NoTls).map_err(|error| failure(&error))?;
            *slot = Some(Open { client, prepared: HashMap::new() });
        }
        let open = slot.as_mut().expect("it was connected above: this is a bug");
        run(open).map_err(|error| {
            self.is_broken.set(true);
            failure(&error)
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop_apart(self.client.borrow_mut().take());
    }
}

/// A client brings a runtime of its own, which may not be dropped within another's tasks.
fn drop_apart(open: Option<Open>) {
    if let Some(open) = open {
        let _ = std::thread::spawn(move || drop(open)).join();
    }
}

impl Open {
    fn prepared(&mut self, sql: &str) -> std::result::Result<Statement, postgres::Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&dollars(sql))?;
        if self.prepared.len() >= MAX_PREPARED {
            self.prepared.clear();
        }
        self.prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// `?1` as PostgreSQL writes it.
fn dollars(sql: &str) -> String {
    let mut written = String::with_capacity(sql.len());
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let is_parameter = c == '?' && chars.peek().is_some_and(char::is_ascii_digit);
        written.push(if is_parameter { '$' } else { c });
    }
    written
}

fn references(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

fn row(row: &postgres::Row) -> Result<Row> {
    let values = row.columns().iter().enumerate().map(|(i, column)| {
        let read = match *column.type_() {
            Type::INT8 => row.try_get(i).map(|v: Option<i64>| v.map(Value::Int)),
            Type::INT4 => row.try_get(i).map(|v: Option<i32>| v.map(|n| Value::Int(n.into()))),
            Type::FLOAT8 => row.try_get(i).map(|v: Option<f64>| v.map(Value::Real)),
            Type::BYTEA => row.try_get(i).map(|v: Option<Vec<u8>>| v.map(Value::Blob)),
            _ => row.try_get(i).map(|v: Option<String>| v.map(Value::Text)),
        };
        let read = read.map_err(|error| Error::conversion(i, error))?;
        Ok(read.unwrap_or(Value::Null))
    });
    values.collect::<Result<_>>().map(Row)
}

fn failure(error: &postgres::Error) -> Error {
    let kind = match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => ErrorKind::Full,
        Some(code)
            if [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_SERIALIZATION_FAILURE]
                .contains(code) =>
        {
            ErrorKind::Busy
        }
        // It stops, starts or lost the connection.
        Some(code) if code.code().starts_with("57P") || code.code().starts_with("08") => {
            ErrorKind::Unreachable
        }
        Some(_) => ErrorKind::Other,
        None => ErrorKind::Unreachable,
    };
    // The sentence of an error of the server's is in its source.
    let detail = match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => error.to_string(),
    };
    Error::new(kind, detail)
}

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Int(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Value::Int(number) if *ty == Type::FLOAT8 => (*number as f64).to_sql(ty, out),
            Value::Int(number) => number.to_sql(ty, out),
            Value::Real(number) => number.to_sql(ty, out),
            // The one character that PostgreSQL's texts cannot hold.
            Value::Text(text) if text.contains('\0') => {
                text.replace('\0', "\u{fffd}").to_sql(ty, out)
            }
            Value::Text(text) => text.to_sql(ty, out),
            Value::Blob(bytes) => bytes.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::FLOAT8, Type::TEXT, Type::VARCHAR, Type::BYTEA].contains(ty)
    }

    to_sql_checked!();
}
