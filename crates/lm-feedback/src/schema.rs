//! The tables of the book.
//!
//! It must never know how a file or a server is opened: [`BookFile`] does.
//!
//! Start reading at [`UPGRADES`].

use std::path::Path;
use std::time::Duration;

use lm_store::sql::Connection;
use lm_store::{BookFile, Journal, OpenedBook, shown_place};

use crate::FeedbackError;
use crate::error::database;

/// Entry `i` brings a book from schema `i` to schema `i + 1`. Entries are never edited once released.
pub(crate) const UPGRADES: [&str; 4] = [
    r"
-- How far the store is read, and how many leases there were.
CREATE TABLE state(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE cluster(
    id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, first_seen_ms INTEGER NOT NULL,
    effort_days REAL NOT NULL
) STRICT;
CREATE TABLE sample(cluster_id TEXT NOT NULL, question BLOB, answer BLOB) STRICT;
CREATE TABLE failure(
    request_id TEXT NOT NULL, choice INTEGER NOT NULL, cluster_id TEXT NOT NULL,
    kind TEXT NOT NULL, kinds TEXT NOT NULL, severity REAL NOT NULL,
    release_hash TEXT NOT NULL, model TEXT NOT NULL, occurred_at_ms INTEGER NOT NULL,
    noticed_at_ms INTEGER NOT NULL, clustered_at_ms INTEGER NOT NULL,
    leased_by TEXT, leased_until_ms INTEGER, reviewed_by TEXT, reviewed_at_ms INTEGER,
    verdict TEXT, correction TEXT, PRIMARY KEY(request_id, choice)
) STRICT;
CREATE INDEX failure_cluster ON failure(cluster_id, occurred_at_ms);
CREATE INDEX failure_occurred ON failure(occurred_at_ms);
CREATE INDEX failure_unreviewed ON failure(occurred_at_ms) WHERE reviewed_at_ms IS NULL;
CREATE TABLE tag(
    request_id TEXT NOT NULL, choice INTEGER NOT NULL, tag TEXT NOT NULL,
    PRIMARY KEY(request_id, choice, tag)
) STRICT;
CREATE TABLE fix(
    id TEXT PRIMARY KEY, cluster_id TEXT NOT NULL, note TEXT NOT NULL, system TEXT,
    template TEXT, expect TEXT, release_hash TEXT, created_at_ms INTEGER NOT NULL, verified_at_ms INTEGER, gate TEXT
) STRICT;
CREATE TABLE evidence(
    fix_id TEXT NOT NULL, at_ms INTEGER NOT NULL, before_n INTEGER NOT NULL,
    before_failed INTEGER NOT NULL, after_n INTEGER NOT NULL, after_failed INTEGER NOT NULL,
    change_low REAL NOT NULL, change_high REAL NOT NULL, verdict TEXT NOT NULL
) STRICT;
CREATE INDEX evidence_fix ON evidence(fix_id, at_ms);
",
    r"
-- In which order rows were written.
ALTER TABLE cluster ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
UPDATE cluster SET seq = rowid;
CREATE UNIQUE INDEX cluster_seq ON cluster(seq);
ALTER TABLE sample ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
UPDATE sample SET seq = rowid;
CREATE UNIQUE INDEX sample_seq ON sample(seq);
ALTER TABLE fix ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
UPDATE fix SET seq = rowid;
CREATE UNIQUE INDEX fix_seq ON fix(seq);
ALTER TABLE evidence ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
UPDATE evidence SET seq = rowid;
CREATE UNIQUE INDEX evidence_seq ON evidence(seq);
",
    r"
-- When a verdict was last taken back: a copy with an older verdict must not bring it back.
ALTER TABLE failure ADD COLUMN taken_back_at_ms INTEGER;
",
    r"
-- How many failures of a look were of problems that began after the fix, and how late one might be noticed.
ALTER TABLE evidence ADD COLUMN after_moved INTEGER;
ALTER TABLE evidence ADD COLUMN horizon_ms INTEGER;
-- When the sign was noticed that names the problem, where noticed_at_ms is of the first sign of any kind.
ALTER TABLE failure ADD COLUMN kind_noticed_at_ms INTEGER;
",
];

/// A table, and the columns that tell its rows apart.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [&'static str],
}

/// All tables; samples after the failures that they need.
pub(crate) const TABLES: [Table; 7] = [
    Table { name: "state", key: &["name"] },
    Table { name: "cluster", key: &["id"] },
    Table { name: "failure", key: &["request_id", "choice"] },
    Table { name: "sample", key: &["seq"] },
    Table { name: "tag", key: &["request_id", "choice", "tag"] },
    Table { name: "fix", key: &["id"] },
    Table { name: "evidence", key: &["seq"] },
];

const FILE: BookFile = BookFile {
    // "lmfb"
    application_id: 0x6c6d_6662,
    upgrades: &UPGRADES,
    journal: Journal::WriteAhead,
    secure_delete: true,
    busy: Duration::from_secs(30),
};

/// Opens the file or the tables on a server, and makes them when there are none; a file is readable by its owner only.
/// Whoever writes to them is waited for as long as `busy`, or for 30 seconds.
pub(crate) fn open(place: &Path, busy: Option<Duration>) -> Result<Connection, FeedbackError> {
    let file = BookFile { busy: busy.unwrap_or(FILE.busy), ..FILE };
    match file.open_at(place).map_err(database("open", place))? {
        OpenedBook::Book(connection) => Ok(connection),
        OpenedBook::Foreign { application_id, schema, known } => {
            Err(FeedbackError::Foreign { path: shown_place(place), application_id, schema, known })
        }
    }
}
