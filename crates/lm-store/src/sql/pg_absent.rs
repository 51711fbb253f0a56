//! A build without the feature `postgres`: there is no connection to a PostgreSQL server, and who asks for one is told.

use std::time::Duration;

use super::{Error, ErrorKind, Result, Row, Value};

/// How long a connection would wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one statement.
    pub statement: Duration,
    /// For what another connection holds.
    pub lock: Duration,
}

/// There is none.
pub enum Postgres {}

/// No URL is read, so nothing of one is shown.
pub(super) fn shown_url(_url: &str) -> Option<String> {
    None
}

impl Postgres {
    pub(crate) fn open(_url: &str, _patience: Patience) -> Result<Self> {
        let detail = "this build cannot reach PostgreSQL: build lastmile with its default features, \
                      or with --features postgres";
        Err(Error::new(ErrorKind::Other, detail))
    }

    pub(super) fn is_broken(&self) -> bool {
        match *self {}
    }

    pub(super) fn begin(&self, _sql: &str) -> Result<()> {
        match *self {}
    }

    pub(super) fn commit(&self) -> Result<()> {
        match *self {}
    }

    pub(super) fn roll_back(&self) -> Result<()> {
        match *self {}
    }

    pub(super) fn batch(&self, _sql: &str) -> Result<()> {
        match *self {}
    }

    pub(super) fn execute(&self, _sql: &str, _values: &[Value]) -> Result<usize> {
        match *self {}
    }

    pub(super) fn rows(&self, _sql: &str, _values: &[Value]) -> Result<Vec<Row>> {
        match *self {}
    }
}
