//! Every way in which an experiment can be refused, with the operands that a reader needs to act.
//!
//! It must never hold a prompt or an answer: these errors go to logs.
//!
//! Start reading at [`ExperimentError`].

use std::path::{Path, PathBuf};

use lm_store::StoreError;

/// Why an experiment could not be started, moved or read.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The store, which has the traffic, could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file of experiments could not be used.
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
        "{} is no file of experiments that this version knows (application id {application_id:#x}, schema {schema}; \
         known up to {known}): nothing was changed",
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
    /// An experiment that cannot be read.
    #[error("the experiment cannot be read: {what}")]
    Unreadable {
        /// What is wrong, and where.
        what: String,
    },
    /// A field is outside of its range.
    #[error("{field} is {value}, but must be {wanted}")]
    Invalid {
        /// The field.
        field: String,
        /// Its value, shortened.
        value: String,
        /// What is allowed.
        wanted: String,
    },
    /// Nothing has this name.
    #[error("there is no {what} {name:?}")]
    Unknown {
        /// Of what kind.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// What is asked for does not follow from how things stand.
    #[error("experiment {name:?} is {state}: {wanted}")]
    WrongState {
        /// The experiment.
        name: String,
        /// How it stands.
        state: String,
        /// What would be needed.
        wanted: String,
    },
    /// The evidence does not carry a promotion.
    #[error("experiment {name:?} is not promoted: {why}")]
    Refused {
        /// The experiment.
        name: String,
        /// The numbers.
        why: String,
    },
}

impl ExperimentError {
    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl std::fmt::Display,
        wanted: impl Into<String>,
    ) -> Self {
        let value: String = value.to_string().chars().take(120).collect();
        ExperimentError::Invalid { field: field.into(), value, wanted: wanted.into() }
    }
}

/// For `map_err`.
pub(crate) fn database(
    action: &'static str,
    path: &Path,
) -> impl Fn(rusqlite::Error) -> ExperimentError + use<> {
    let path = path.to_owned();
    move |source| ExperimentError::Database { action, path: path.clone(), source }
}
