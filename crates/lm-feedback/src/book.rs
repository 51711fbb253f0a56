//! What was concluded: failures, clusters, reviews, fixes and evidence, in one SQLite file beside the store.
//!
//! A file of its own, because all of it is derived and its writers are people at a terminal: they work while a server
//! runs, without going through the one thread that records traffic, and fixes outlive the texts that they are about.
//! The only text in it is what people wrote here: notes, tags, corrections, instructions.
//!
//! It must never write to the store.
//!
//! Start reading at [`Book::open`], then at `collect`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lm_data::N_BINS;
use lm_store::Reader;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;

use crate::answer::name;
use crate::error::database;
use crate::{Cluster, Clusters, FeedbackError, Ranked, Shape, Tally, rank, schema};

/// The file of conclusions.
pub struct Book {
    pub(crate) connection: Connection,
    path: PathBuf,
}

/// One answer that failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailureRow {
    /// The request.
    pub request_id: String,
    /// Which of its answers.
    pub choice: u32,
    /// The problem that it belongs to.
    pub cluster: String,
    /// The kind that names the problem.
    pub kind: String,
    /// All kinds, causes first, separated by commas.
    pub kinds: String,
    /// From 0 to 1: of the worst kind.
    pub severity: f64,
    /// What produced it.
    pub release_hash: String,
    /// The model's name as served.
    pub model: String,
    /// Unix milliseconds.
    pub occurred_at_ms: i64,
    /// Unix milliseconds.
    pub noticed_at_ms: i64,
    /// `accepted` or `rejected` by a reviewer.
    pub verdict: Option<String>,
    /// What a reviewer says that it should have been.
    pub correction: Option<String>,
}

impl FailureRow {
    /// The name by which it is reviewed: `REQUEST`, or `REQUEST/CHOICE` beyond the first answer.
    #[must_use]
    pub fn answer(&self) -> String {
        name(&self.request_id, self.choice)
    }
}

pub(crate) const FAILURE_COLUMNS: &str = "request_id, choice, cluster_id, kind, kinds, severity, \
    release_hash, model, occurred_at_ms, noticed_at_ms, verdict, correction";
const DEFAULT_EFFORT_DAYS: f64 = 1.0;

impl Book {
    /// Opens the file, and makes it and its folder when there are none. Others that write to it are waited for.
    ///
    /// # Errors
    /// [`FeedbackError::Foreign`] for another file, [`FeedbackError::Database`].
    pub fn open(path: &Path) -> Result<Book, FeedbackError> {
        Book::open_within(path, None)
    }

    /// The same, for somebody who waits: while another one writes for longer than `busy`, what is to be written is refused
    /// with an error that [is busy](FeedbackError::is_busy).
    ///
    /// # Errors
    /// [`FeedbackError::Foreign`] for another file, [`FeedbackError::Database`].
    pub fn open_impatient(path: &Path, busy: Duration) -> Result<Book, FeedbackError> {
        Book::open_within(path, Some(busy))
    }

    fn open_within(path: &Path, busy: Option<Duration>) -> Result<Book, FeedbackError> {
        if let Some(folder) = path.parent() {
            let wrap = |e: std::io::Error| rusqlite::Error::ToSqlConversionFailure(Box::new(e));
            fs::create_dir_all(folder).map_err(wrap).map_err(database("make", folder))?;
        }
        Ok(Book { connection: schema::open(path, busy)?, path: path.to_owned() })
    }

    /// For `map_err`.
    pub(crate) fn wrap(
        &self,
        action: &'static str,
    ) -> impl Fn(rusqlite::Error) -> FeedbackError + use<> {
        database(action, &self.path)
    }

    /// One that writes; another process waits for it.
    pub(crate) fn begin(&mut self) -> Result<Transaction<'_>, FeedbackError> {
        let wrap = self.wrap("write");
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)
    }

    /// Problems by what to solve first, from failures that occurred since `from_ms` (Unix milliseconds).
    ///
    /// # Errors
    /// [`FeedbackError::Database`], [`FeedbackError::Store`].
    pub fn ranked(
        &self,
        reader: &Reader,
        from_ms: i64,
        now_ms: i64,
    ) -> Result<Vec<Ranked>, FeedbackError> {
        let middle_ms = from_ms.max(self.first_failure_ms()?.unwrap_or(from_ms)).midpoint(now_ms);
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT c.id, c.fingerprint, count(*), sum(f.occurred_at_ms >= ?2), \
                 avg(f.severity), c.effort_days FROM failure f JOIN cluster c \
                 ON c.id = f.cluster_id WHERE f.occurred_at_ms >= ?1 \
                 AND f.verdict IS NOT 'rejected' GROUP BY c.id",
            )
            .map_err(self.wrap("read"))?;
        let tallies = statement.query_map([from_ms, middle_ms], |row| {
            Ok(Tally {
                cluster: row.get(0)?,
                fingerprint: row.get(1)?,
                n_failures: row.get::<_, i64>(2)?.cast_unsigned(),
                n_recent: row.get::<_, i64>(3)?.cast_unsigned(),
                severity: row.get(4)?,
                effort_days: row.get(5)?,
            })
        });
        let tallies = tallies.and_then(Iterator::collect).map_err(self.wrap("read"))?;
        // Those that are not read yet cannot have failed.
        let end_ms = self.state("collected_ms")?.unwrap_or(now_ms);
        Ok(rank(tallies, reader.count_answers(from_ms, end_ms, None)?))
    }

    fn first_failure_ms(&self) -> Result<Option<i64>, FeedbackError> {
        self.connection
            .query_row("SELECT min(occurred_at_ms) FROM failure", [], |row| row.get(0))
            .map_err(self.wrap("read"))
    }

    /// The failures of one cluster, or of all, newest first.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn failures(
        &self,
        cluster: Option<&str>,
        limit: u32,
    ) -> Result<Vec<FailureRow>, FeedbackError> {
        let sql = format!(
            "SELECT {FAILURE_COLUMNS} FROM failure WHERE ?1 IS NULL OR cluster_id = ?1 \
             ORDER BY occurred_at_ms DESC, request_id DESC, choice LIMIT ?2"
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(self.wrap("read"))?;
        let rows = statement.query_map(params![cluster, limit], failure_row);
        rows.and_then(Iterator::collect).map_err(self.wrap("read"))
    }

    /// The tags that reviewers gave to an answer.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn tags(&self, request_id: &str, choice: u32) -> Result<Vec<String>, FeedbackError> {
        let sql = "SELECT tag FROM tag WHERE request_id = ?1 AND choice = ?2 ORDER BY tag";
        let mut statement = self.connection.prepare_cached(sql).map_err(self.wrap("read"))?;
        let rows = statement.query_map(params![request_id, choice], |row| row.get(0));
        rows.and_then(Iterator::collect).map_err(self.wrap("read"))
    }

    /// The one cluster whose id begins so.
    ///
    /// # Errors
    /// [`FeedbackError::Unknown`].
    pub fn cluster(&self, id: &str) -> Result<String, FeedbackError> {
        self.only("clusters", "SELECT id FROM cluster WHERE substr(id, 1, length(?1)) = ?1", id)
    }

    /// Says how many days a fix of the problem would take; the ranking divides by it.
    ///
    /// # Errors
    /// [`FeedbackError::Invalid`] when it is not positive.
    pub fn set_effort(&mut self, cluster: &str, days: f64) -> Result<(), FeedbackError> {
        if !(days > 0.0 && days.is_finite()) {
            let limit = "more than 0 and finite";
            return Err(FeedbackError::invalid("effort", &days.to_string(), limit));
        }
        self.connection
            .execute("UPDATE cluster SET effort_days = ?2 WHERE id = ?1", params![cluster, days])
            .map_err(self.wrap("write"))?;
        Ok(())
    }

    /// The one id that a query gives.
    pub(crate) fn only(
        &self,
        what: &'static str,
        sql: &str,
        id: &str,
    ) -> Result<String, FeedbackError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(self.wrap("read"))?;
        let found = statement.query_map([id], |row| row.get::<_, String>(0));
        let mut found: Vec<String> =
            found.and_then(Iterator::collect).map_err(self.wrap("read"))?;
        let n_matches = found.len();
        match found.pop() {
            Some(only) if n_matches == 1 => Ok(only),
            _ => Err(FeedbackError::Unknown { what, id: id.chars().take(80).collect(), n_matches }),
        }
    }

    /// Until when the store was read, in Unix milliseconds; `None` when it never was.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn collected_ms(&self) -> Result<Option<i64>, FeedbackError> {
        self.state("collected_ms")
    }

    /// A number that is kept between runs.
    pub(crate) fn state(&self, name: &str) -> Result<Option<i64>, FeedbackError> {
        self.connection
            .query_row("SELECT value FROM state WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(self.wrap("read"))
    }
}

/// All clusters with their samples.
pub(crate) fn clusters(connection: &Connection) -> rusqlite::Result<Clusters> {
    let mut clusters = Clusters::default();
    let mut samples = connection.prepare_cached(
        "SELECT question, answer FROM sample WHERE cluster_id = ?1 ORDER BY rowid",
    )?;
    // In the order of their first failure, as when they were made.
    let mut statement =
        connection.prepare_cached("SELECT id, fingerprint FROM cluster ORDER BY rowid")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, fingerprint): (String, String) = (row.get(0)?, row.get(1)?);
        let samples = samples
            .query_map([&id], |row| {
                Ok(Shape {
                    fingerprint: fingerprint.clone(),
                    question: sketch(row, 0)?,
                    answer: sketch(row, 1)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        clusters.add(Cluster { id, fingerprint, samples });
    }
    Ok(clusters)
}

fn sketch(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<[u8; N_BINS]>> {
    let bytes: Option<Vec<u8>> = row.get(column)?;
    // One of another length is of an earlier method, and like nothing.
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()))
}

/// Keeps a cluster when it is new, and a sample of it.
pub(crate) fn add_sample(
    connection: &Connection,
    id: &str,
    shape: &Shape,
    first_seen_ms: i64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO cluster VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id, shape.fingerprint, first_seen_ms, DEFAULT_EFFORT_DAYS])?;
    connection.prepare_cached("INSERT INTO sample VALUES (?1, ?2, ?3)")?.execute(params![
        id,
        shape.question,
        shape.answer
    ])?;
    Ok(())
}

pub(crate) fn failure_row(row: &Row<'_>) -> rusqlite::Result<FailureRow> {
    Ok(FailureRow {
        request_id: row.get(0)?,
        choice: row.get(1)?,
        cluster: row.get(2)?,
        kind: row.get(3)?,
        kinds: row.get(4)?,
        severity: row.get(5)?,
        release_hash: row.get(6)?,
        model: row.get(7)?,
        occurred_at_ms: row.get(8)?,
        noticed_at_ms: row.get(9)?,
        verdict: row.get(10)?,
        correction: row.get(11)?,
    })
}
