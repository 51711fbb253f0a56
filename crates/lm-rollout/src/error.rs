//! Every way in which an override can be refused, with the operands that a reader needs to act.
//!
//! It must never hold a prompt or an answer: these errors go to logs.
//!
//! Start reading at [`RolloutError`].

use std::path::{Path, PathBuf};

use lm_store::StoreError;

/// Why an override could not be taken, kept or tried.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The store, which has the traffic, could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file of overrides could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Database {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file is another program's, or of a later version of this one.
    #[error(
        "{} is no file of overrides that this version knows (application id {application_id:#x}, schema {schema}; known \
         up to {known}): nothing was changed",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The application id in the file.
        application_id: i64,
        /// The schema in the file.
        schema: i64,
        /// The newest schema that is known.
        known: i64,
    },
    /// A rule that cannot be read.
    #[error("the rule cannot be read: {what}")]
    Unreadable {
        /// What is wrong, and where.
        what: String,
    },
    /// A field of a rule, or of a call, is outside of its range.
    #[error("{field} is {value}, but must be {wanted}")]
    Invalid {
        /// The field.
        field: String,
        /// Its value, shortened.
        value: String,
        /// What is allowed.
        wanted: String,
    },
    /// No rule, or no item, has this id.
    #[error("there is no {what} {id:?}")]
    Unknown {
        /// Of what kind.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// What is asked for does not follow from how things stand.
    #[error("{what} {id:?} is {state}: {wanted}")]
    WrongState {
        /// Of what kind.
        what: &'static str,
        /// The id.
        id: String,
        /// How it stands.
        state: String,
        /// What would be needed.
        wanted: &'static str,
    },
    /// As many wait for a person as may.
    #[error("{waiting} requests wait for a person already, and at most {limit} may")]
    QueueFull {
        /// How many wait.
        waiting: u64,
        /// How many may.
        limit: u64,
    },
}

impl RolloutError {
    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl std::fmt::Display,
        wanted: impl Into<String>,
    ) -> Self {
        let value: String = value.to_string().chars().take(120).collect();
        RolloutError::Invalid { field: field.into(), value, wanted: wanted.into() }
    }
}

/// For `map_err`.
pub(crate) fn database(
    action: &'static str,
    path: &Path,
) -> impl Fn(rusqlite::Error) -> RolloutError + use<> {
    let path = path.to_owned();
    move |source| RolloutError::Database { action, path: path.clone(), source }
}
