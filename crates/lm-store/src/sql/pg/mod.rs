//! A connection to a PostgreSQL server, which may come and go.
//!
//! It must never wait for longer than its patience, and never let a statement of a transaction run outside of it.
//!
//! Start reading at [`Postgres::open`].

mod address;
mod dialect;
mod session;
mod tls;
mod value;

use std::cell::Cell;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use self::session::{Answer, Ask, Call, Session};
use super::{Error, ErrorKind, Result, Row, Value};

pub(super) use self::address::shown_url;

/// How long a connection waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one statement.
    pub statement: Duration,
    /// For what another connection holds.
    pub lock: Duration,
}

/// A connection to a server, which a thread of its own holds: callers may be on threads that must not wait for sockets
/// themselves, such as those of an asynchronous runtime. It is made anew when it was lost.
pub struct Postgres {
    calls: Sender<Call>,
    /// A statement failed, so that the server refuses all others of the transaction.
    is_broken: Cell<bool>,
    in_transaction: Cell<bool>,
}

impl Postgres {
    /// Connects to the server of a URL.
    ///
    /// # Errors
    /// A URL that cannot be read, or a server that does not answer or does not let us in.
    pub(crate) fn open(url: &str, patience: Patience) -> Result<Self> {
        let config = address::config(url)?;
        let failed = |error: std::io::Error| Error::new(ErrorKind::Other, error);
        let session = Session::new(config, patience).map_err(failed)?;
        let (calls, asked) = bounded(0);
        std::thread::Builder::new()
            .name("store-postgres".to_owned())
            .spawn(move || session.serve(&asked))
            .map_err(failed)?;
        let server =
            Postgres { calls, is_broken: Cell::new(false), in_transaction: Cell::new(false) };
        server.batch("SELECT 1")?;
        Ok(server)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    pub(super) fn begin(&self, sql: &str) -> Result<()> {
        let begun = match self.batch(sql) {
            // The server may have been started anew meanwhile, which may be seen only now.
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
        self.ask(Ask::Batch(sql.to_owned())).map(drop)
    }

    pub(super) fn execute(&self, sql: &str, values: &[Value]) -> Result<usize> {
        match self.ask(Ask::Execute(sql.to_owned(), values.to_vec()))? {
            Answer::Changed(n_rows) => Ok(usize::try_from(n_rows).unwrap_or(usize::MAX)),
            Answer::Done | Answer::Rows(_) => Ok(0),
        }
    }

    pub(super) fn rows(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>> {
        match self.ask(Ask::Rows(sql.to_owned(), values.to_vec()))? {
            Answer::Rows(rows) => Ok(rows),
            Answer::Done | Answer::Changed(_) => Ok(Vec::new()),
        }
    }

    fn ask(&self, ask: Ask) -> Result<Answer> {
        let (reply, answered) = bounded(1);
        let call = Call { ask, in_transaction: self.in_transaction.get(), reply };
        let ended = || Error::new(ErrorKind::Unreachable, "the connection's thread has ended");
        let answer = self.calls.send(call).map_err(|_| ended());
        let answer = answer.and_then(|()| answered.recv().unwrap_or_else(|_| Err(ended())));
        answer.inspect_err(|_| self.is_broken.set(true))
    }
}
