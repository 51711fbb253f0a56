//! Every way in which the store can fail, with the operands that a reader needs to act.
//!
//! It must never hold a prompt or an answer: these errors go to logs.
//!
//! Start reading at [`StoreError`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sql::{self, ErrorKind, shown};
use lm_types::RequestId;

/// Why the store could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no store at this path, and a reader makes none.
    #[error("there is no store at {}: it is created when a server first runs", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is damaged or not a database.
    #[error(
        "the store {} cannot be read as a database ({detail}): move it away together with its \
         -wal and -shm files and start again, or put a backup in its place; nothing was deleted",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the database says.
        detail: String,
    },
    /// A healthy SQLite file of another program.
    #[error(
        "{} is a database of another program (application id {found:#x}, a store has {wanted:#x})",
        path.display()
    )]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// The application id in the file.
        found: i64,
        /// The application id of a store.
        wanted: i64,
    },
    /// A later version wrote this file.
    #[error(
        "the store {} has schema {found}, but this version knows only up to {known}: use the \
         version that wrote it, or a later one",
        path.display()
    )]
    SchemaNewer {
        /// The file.
        path: PathBuf,
        /// The schema in the file.
        found: i64,
        /// The newest schema that this build knows.
        known: i64,
    },
    /// An earlier version wrote this file, and a reader may not upgrade it.
    #[error(
        "the store {} has schema {found} and {wanted} is needed: start the server once to \
         upgrade it",
        path.display()
    )]
    SchemaOlder {
        /// The file.
        path: PathBuf,
        /// The schema in the file.
        found: i64,
        /// The schema that this build reads.
        wanted: i64,
    },
    /// The disk or the store's own size limit is reached.
    #[error(
        "the store {} is full (limit {max_bytes} bytes, or its disk): {detail}", path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// The configured limit.
        max_bytes: u64,
        /// What the database says.
        detail: String,
    },
    /// Another connection held the write lock for longer than the busy timeout.
    #[error("the store {} was locked by another process for {waited_ms} ms", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// The server does not answer.
    #[error("the store {} cannot be reached: {detail}", path.display())]
    Unreachable {
        /// The server, without its password.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// What only a file has.
    #[error("the store {} lies on a PostgreSQL server: {instead}", path.display())]
    NotAFile {
        /// The server, without its password.
        path: PathBuf,
        /// What does it there.
        instead: &'static str,
    },
    /// A copy would keep what was erased, or mix with what others wrote.
    #[error(
        "nothing was copied: the store {} has {n} requests that the old one does not have, the first is {first}; they \
         were erased from the old one since an earlier copy, or a server wrote them to the new one", path.display()
    )]
    OnlyThere {
        /// The new store, without its password.
        path: PathBuf,
        /// How many.
        n: u64,
        /// One of them.
        first: String,
    },
    /// Any other failure of the database.
    #[error("the store {} failed to {action}: {detail}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the database says.
        detail: String,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {detail}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        detail: String,
    },
    /// Feedback on a request that the store does not hold (yet, or any more).
    #[error("no finished request {id} is stored: the id is unknown, still running or pruned")]
    UnknownRequest {
        /// The id that was given.
        id: RequestId,
    },
    /// Feedback on an answer that the request did not ask for.
    #[error("choice is {choice}, but request {id} has n = {n}: it must be below that")]
    UnknownChoice {
        /// The request.
        id: RequestId,
        /// The choice that was given.
        choice: u32,
        /// How many answers the request asked for.
        n: u32,
    },
    /// A field of a feedback is outside its range.
    #[error("{field} is {value}, but must be {limit}")]
    InvalidFeedback {
        /// The field's name on the wire.
        field: &'static str,
        /// The value, or its length.
        value: String,
        /// What is allowed.
        limit: &'static str,
    },
    /// An option is outside its range.
    #[error("store option {field} is {value}, but must be {limit}")]
    InvalidOption {
        /// The option's name.
        field: &'static str,
        /// The value.
        value: String,
        /// What is allowed.
        limit: &'static str,
    },
    /// The store was closed, or its writer ended.
    #[error("the store is closed")]
    Closed,
}

/// What turning an SQLite error into a [`StoreError`] needs to know.
#[derive(Clone, Debug)]
pub(crate) struct ErrorContext {
    pub(crate) path: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) busy_timeout: Duration,
    /// How long a server may take for one statement.
    pub(crate) patience: Duration,
}

/// For a statement of the writer: what may not be dropped waits for it.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// For a query of whoever looks: reports read many rows.
pub(crate) const READ_PATIENCE: Duration = Duration::from_secs(60);
/// For what rebuilds or counts whole tables.
pub(crate) const UPGRADE_PATIENCE: Duration = Duration::from_secs(60 * 60);

impl ErrorContext {
    /// Of somebody who only looks.
    pub(crate) fn of_reader(place: &Path) -> ErrorContext {
        ErrorContext {
            path: shown(place),
            max_bytes: u64::MAX,
            busy_timeout: Duration::from_secs(5),
            patience: READ_PATIENCE,
        }
    }

    /// Of who moves or upgrades a store, and has time.
    pub(crate) fn of_upgrade(place: &Path, max_bytes: u64) -> ErrorContext {
        ErrorContext {
            path: shown(place),
            max_bytes,
            busy_timeout: Duration::from_secs(30),
            patience: UPGRADE_PATIENCE,
        }
    }

    pub(crate) fn wrap(&self, action: &'static str, error: &sql::Error) -> StoreError {
        let (path, detail) = (self.path.clone(), error.detail.clone());
        match error.kind {
            ErrorKind::Corrupt => StoreError::Corrupt { path, detail },
            ErrorKind::Full => StoreError::Full { path, max_bytes: self.max_bytes, detail },
            ErrorKind::Busy => StoreError::Busy { path, waited_ms: self.busy_timeout.as_millis() },
            ErrorKind::Unreachable => StoreError::Unreachable { path, detail },
            ErrorKind::NoRow | ErrorKind::Other => StoreError::Database { path, action, detail },
        }
    }
}

pub(crate) fn io(path: &Path, action: &'static str, error: &std::io::Error) -> StoreError {
    StoreError::Io { path: shown(path), action, detail: error.to_string() }
}
