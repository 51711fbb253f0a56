//! Every way in which the feedback loop can refuse, with the operands that a reader needs to act.
//!
//! It must never hold a prompt or an answer: these errors go to logs.
//!
//! Start reading at [`FeedbackError`].

use std::path::{Path, PathBuf};

use lm_store::sql::{self, ErrorKind};
use lm_store::{StoreError, shown_place};

/// Why the feedback loop could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum FeedbackError {
    /// The store, which has the traffic, could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The conclusions could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Database {
        /// What was tried.
        action: &'static str,
        /// The file, or the server without its password.
        path: PathBuf,
        /// What the database says.
        source: sql::Error,
    },
    /// The file is another program's, or what is there is of a later version of this one.
    #[error(
        "{} has no failures that this version knows (application id {application_id:#x}, \
         schema {schema}; known up to {known}): nothing was changed",
        path.display()
    )]
    Foreign {
        /// The file, or the server without its password.
        path: PathBuf,
        /// The application id of what is there.
        application_id: i64,
        /// Its schema.
        schema: i64,
        /// The newest schema that is known.
        known: i64,
    },
    /// A copy would take away what people wrote.
    #[error(
        "no conclusions were copied: {} has {n} verdicts, tags, fixes or facts about them that the old place does not have, \
         the first is {first}; they were erased or changed in the old place since an earlier copy, or written to the new one",
        path.display()
    )]
    OnlyThere {
        /// The new place, without its password.
        path: PathBuf,
        /// How many.
        n: u64,
        /// One of them.
        first: String,
    },
    /// Nothing, or more than one thing, has this id.
    #[error("{n_matches} {what} have ids that begin with {id:?}, and 1 is needed")]
    Unknown {
        /// Of what kind.
        what: &'static str,
        /// The id or its beginning.
        id: String,
        /// How many fit.
        n_matches: usize,
    },
    /// A value is outside of what it may be.
    #[error("{field} is {value}, but must be {limit}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The value, cut to 80 characters.
        value: String,
        /// What is allowed.
        limit: &'static str,
    },
    /// Another reviewer has the answer.
    #[error("answer {answer} is leased to {holder:?} until it is reviewed or the lease ends")]
    Leased {
        /// The request and the choice.
        answer: String,
        /// Who has it.
        holder: String,
    },
    /// Another reviewer gave a verdict.
    #[error("answer {answer} has a verdict of {by:?}, who alone may take it back")]
    Reviewed {
        /// The request and the choice.
        answer: String,
        /// Whose it is.
        by: String,
    },
    /// A verdict to take back that is not there, or another reviewer's.
    #[error("answer {answer} has no verdict of {reviewer:?} that could be taken back")]
    NotReviewed {
        /// The request and the choice.
        answer: String,
        /// Who wants it back.
        reviewer: String,
    },
    /// A fix that nothing can be checked by.
    #[error(
        "fix {fix} cannot be guarded: failures of kind {kind} cannot be told from an answer's \
         text; say what is expected with `fix add --expect SCORER`"
    )]
    NoCheck {
        /// The fix.
        fix: String,
        /// The kind of its cluster.
        kind: String,
    },
}

impl FeedbackError {
    /// Whether another one writes to the book, so that the same may be tried again.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let FeedbackError::Database { source, .. } = self else { return false };
        source.kind == ErrorKind::Busy
    }

    pub(crate) fn invalid(field: &'static str, value: &str, limit: &'static str) -> FeedbackError {
        FeedbackError::Invalid { field, value: value.chars().take(80).collect(), limit }
    }
}

/// For `map_err`.
pub(crate) fn database(
    action: &'static str,
    path: &Path,
) -> impl Fn(sql::Error) -> FeedbackError + use<> {
    let path = shown_place(path);
    move |source| FeedbackError::Database { action, path: path.clone(), source }
}
