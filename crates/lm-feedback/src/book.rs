//! What was concluded: failures, clusters, reviews, fixes and evidence, in one SQLite file beside the store, or in tables
//! of their own in the store's database on a PostgreSQL server.
//!
//! Apart from the store's tables, because all of it is derived and its writers are people at a terminal: they work while a
//! server runs, without going through the one thread that records traffic, and fixes outlive the texts that they are about.
//! The only text in it is what people wrote here: notes, tags, corrections, instructions.
//!
//! It must never write to the store, and never let two write at once: see [`Book::begin`].
//!
//! Start reading at [`Book::open`], then at `collect`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lm_data::N_BINS;
use lm_store::sql::{
    self, Connection, OptionalExtension, Params, Row, Transaction, params, server_url,
};
use lm_store::{Reader, shown_place};
use serde::Serialize;

use crate::answer::name;
use crate::error::database;
use crate::{Cluster, Clusters, FeedbackError, Ranked, Shape, Tally, rank, schema};

/// The conclusions of a file or a server.
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
    /// Where the conclusions from a store lie: on the same server as the store, or else in `file`.
    #[must_use]
    pub fn place(store: &Path, file: PathBuf) -> PathBuf {
        if server_url(store).is_some() { store.to_owned() } else { file }
    }

    /// Whether there may be conclusions at a place: a file is looked for, a server is not asked.
    #[must_use]
    pub fn may_be_at(place: &Path) -> bool {
        server_url(place).is_some() || place.exists()
    }

    /// Opens a file, and makes it and its folder when there are none, or its tables on the server of a URL such as
    /// `postgres://user@host/database`. Others that write to it are waited for.
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
        if let Some(folder) = path.parent().filter(|_| server_url(path).is_none()) {
            let wrap = |e: std::io::Error| sql::Error::new(sql::ErrorKind::Other, e);
            fs::create_dir_all(folder).map_err(wrap).map_err(database("make", folder))?;
        }
        Ok(Book { connection: schema::open(path, busy)?, path: shown_place(path) })
    }

    /// Where it lies; of a server, without a password.
    pub(crate) fn shown(&self) -> PathBuf {
        self.path.clone()
    }

    /// For `map_err`.
    pub(crate) fn wrap(
        &self,
        action: &'static str,
    ) -> impl Fn(sql::Error) -> FeedbackError + use<> {
        database(action, &self.path)
    }

    /// One that writes; whoever else would write waits for it, on a server too: it changes the book's [`version`] first, and
    /// holds that row until it ends.
    pub(crate) fn begin(&mut self) -> Result<Transaction<'_>, FeedbackError> {
        let wrap = self.wrap("write");
        let transaction = self.connection.begin_write(true).map_err(&wrap)?;
        let sql = "INSERT INTO state(name, value) VALUES ('version', 1) \
                   ON CONFLICT (name) DO UPDATE SET value = state.value + 1";
        transaction.prepare_cached(sql).and_then(|mut s| s.execute(())).map_err(&wrap)?;
        Ok(transaction)
    }

    /// Runs one statement that writes; returns how many rows it changed.
    pub(crate) fn write(&mut self, sql: &str, params: impl Params) -> Result<usize, FeedbackError> {
        let wrap = self.wrap("write");
        let transaction = self.begin()?;
        let n_rows = transaction.execute(sql, params).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        Ok(n_rows)
    }

    /// What a query finds.
    pub(crate) fn query<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row) -> sql::Result<T>,
    ) -> Result<Vec<T>, FeedbackError> {
        let found = self.connection.prepare_cached(sql).and_then(|mut statement| {
            statement.query_map(params, read)?.collect::<sql::Result<Vec<T>>>()
        });
        found.map_err(self.wrap("read"))
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
        let sql = "SELECT c.id, c.fingerprint, count(*), \
                   count(*) FILTER (WHERE f.occurred_at_ms >= ?2), avg(f.severity), c.effort_days \
                   FROM failure f JOIN cluster c ON c.id = f.cluster_id \
                   WHERE f.occurred_at_ms >= ?1 AND coalesce(f.verdict, '') <> 'rejected' \
                   GROUP BY c.id, c.fingerprint, c.effort_days";
        let tallies = self.query(sql, [from_ms, middle_ms], |row| {
            Ok(Tally {
                cluster: row.get(0)?,
                fingerprint: row.get(1)?,
                n_failures: row.get::<_, i64>(2)?.cast_unsigned(),
                n_recent: row.get::<_, i64>(3)?.cast_unsigned(),
                severity: row.get(4)?,
                effort_days: row.get(5)?,
            })
        })?;
        // Those that are not read yet cannot have failed.
        let end_ms = self.state("collected_ms")?.unwrap_or(now_ms);
        Ok(rank(tallies, reader.count_answers(from_ms, end_ms, None)?))
    }

    fn first_failure_ms(&self) -> Result<Option<i64>, FeedbackError> {
        self.connection
            .query_row("SELECT min(occurred_at_ms) FROM failure", (), |row| row.get(0))
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
            "SELECT {FAILURE_COLUMNS} FROM failure \
             WHERE CAST(?1 AS TEXT) IS NULL OR cluster_id = CAST(?1 AS TEXT) \
             ORDER BY occurred_at_ms DESC, request_id DESC, choice LIMIT ?2"
        );
        self.query(&sql, params![cluster, limit], failure_row)
    }

    /// The tags that reviewers gave to an answer.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn tags(&self, request_id: &str, choice: u32) -> Result<Vec<String>, FeedbackError> {
        let sql = "SELECT tag FROM tag WHERE request_id = ?1 AND choice = ?2 ORDER BY tag";
        self.query(sql, params![request_id, choice], |row| row.get(0))
    }

    /// The one cluster whose id begins so.
    ///
    /// # Errors
    /// [`FeedbackError::Unknown`].
    pub fn cluster(&self, id: &str) -> Result<String, FeedbackError> {
        let sql = "SELECT id FROM cluster WHERE substr(id, 1, length(CAST(?1 AS TEXT))) = ?1";
        self.only("clusters", sql, id)
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
        let sql = "UPDATE cluster SET effort_days = ?2 WHERE id = ?1";
        self.write(sql, params![cluster, days]).map(drop)
    }

    /// The one id that a query gives.
    pub(crate) fn only(
        &self,
        what: &'static str,
        sql: &str,
        id: &str,
    ) -> Result<String, FeedbackError> {
        let mut found: Vec<String> = self.query(sql, [id], |row| row.get(0))?;
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

    /// Another number after each writing, whoever wrote.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn version(&self) -> Result<i64, FeedbackError> {
        version(&self.connection).map_err(self.wrap("read"))
    }

    /// A number that is kept between runs.
    pub(crate) fn state(&self, name: &str) -> Result<Option<i64>, FeedbackError> {
        self.connection
            .query_row("SELECT value FROM state WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(self.wrap("read"))
    }
}

/// Another one after each transaction that wrote, whoever wrote.
pub(crate) fn version(connection: &Connection) -> sql::Result<i64> {
    let sql = "SELECT value FROM state WHERE name = 'version'";
    let found = connection.query_row(sql, (), |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(0))
}

/// All clusters with their samples.
pub(crate) fn clusters(connection: &Connection) -> sql::Result<Clusters> {
    // In the order of their first failure, as when they were made.
    let mut statement = connection.prepare_cached(
        "SELECT c.id, c.fingerprint, s.seq, s.question, s.answer FROM cluster c \
         LEFT JOIN sample s ON s.cluster_id = c.id ORDER BY c.seq, s.seq",
    )?;
    let rows = statement.query_map((), |row| {
        let fingerprint: String = row.get(1)?;
        let sample = match row.get::<_, Option<i64>>(2)? {
            None => None,
            Some(_) => {
                let (question, answer) = (sketch(row, 3)?, sketch(row, 4)?);
                Some(Shape { fingerprint: fingerprint.clone(), question, answer })
            }
        };
        Ok((row.get::<_, String>(0)?, fingerprint, sample))
    })?;
    let mut all: Vec<Cluster> = Vec::new();
    for row in rows {
        let (id, fingerprint, sample) = row?;
        match all.last_mut().filter(|last| last.id == id) {
            Some(last) => last.samples.extend(sample),
            None => all.push(Cluster { id, fingerprint, samples: Vec::from_iter(sample) }),
        }
    }
    let mut clusters = Clusters::default();
    all.into_iter().for_each(|cluster| clusters.add(cluster));
    Ok(clusters)
}

fn sketch(row: &Row, column: usize) -> sql::Result<Option<[u8; N_BINS]>> {
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
) -> sql::Result<()> {
    // One writes at a time, so that nobody else takes the next number.
    connection
        .prepare_cached(
            "INSERT INTO cluster(id, fingerprint, first_seen_ms, effort_days, seq) \
             VALUES (?1, ?2, ?3, ?4, (SELECT coalesce(max(seq), 0) + 1 FROM cluster)) \
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![id, shape.fingerprint, first_seen_ms, DEFAULT_EFFORT_DAYS])?;
    connection
        .prepare_cached(
            "INSERT INTO sample(cluster_id, question, answer, seq) \
             VALUES (?1, ?2, ?3, (SELECT coalesce(max(seq), 0) + 1 FROM sample))",
        )?
        .execute(params![id, shape.question, shape.answer])?;
    Ok(())
}

pub(crate) fn failure_row(row: &Row) -> sql::Result<FailureRow> {
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
