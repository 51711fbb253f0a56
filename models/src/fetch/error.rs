//! Why a model could not be had.
//!
//! It must never know what is wrong inside of a model file; see [`crate::ModelError`] for that.
//!
//! Start reading at [`FetchError`].

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a model could not be found, fetched or removed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No folder for models can be worked out.
    #[error("there is no home folder to keep models in: set LASTMILE_HOME")]
    NoHome,
    /// Neither a card nor a path.
    #[error(
        "there is no model {name:?}; known models: {}, and a path, hf:org/repo or placeholder",
        known.join(", ")
    )]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// Every card's name.
        known: Vec<String>,
    },
    /// A name that cannot be one.
    #[error("{value:?} names no model: it must be {wanted}")]
    BadName {
        /// What was given.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// A card that cannot be used.
    #[error("model card {origin}: {reason}")]
    BadCard {
        /// The file.
        origin: String,
        /// The field, its value and its limit.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// It is not installed, and nothing may be fetched.
    #[error("{name} is not installed, and --offline forbids to fetch it")]
    Offline {
        /// The model.
        name: String,
    },
    /// A path or the placeholder: there is nothing to fetch.
    #[error("{name} is nothing to fetch: only cards and hf:org/repo are")]
    NothingToFetch {
        /// What was given.
        name: String,
    },
    /// Every source failed.
    #[error(
        "{name} cannot be had:{}\n(`--model placeholder` works without any model)",
        lines(attempts)
    )]
    Exhausted {
        /// The model.
        name: String,
        /// Each source that was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// The file is not what was installed.
    #[error(
        "{} has {found_bytes} bytes, but {wanted_bytes} were installed: \
         `lastmile pull {name} --force` fetches it again",
        path.display()
    )]
    Damaged {
        /// The model.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Its size; 0 when it is gone.
        found_bytes: u64,
        /// Its size when it was installed.
        wanted_bytes: u64,
    },
    /// The file was written to since it was installed, and its bytes are others.
    #[error(
        "{} has other bytes than were installed: `lastmile pull {name} --force` fetches it again",
        path.display()
    )]
    Changed {
        /// The model.
        name: String,
        /// Its file.
        path: PathBuf,
    },
    /// A record that cannot be read.
    #[error("the record {} cannot be read: {reason}", path.display())]
    BadRecord {
        /// The record.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is nothing of that name to remove.
    #[error("{name} is not installed")]
    NotInstalled {
        /// The model.
        name: String,
    },
}

/// One source that was tried, and why it did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The source.
    pub origin: String,
    /// Why it failed.
    pub reason: String,
}

impl FetchError {
    /// The operating system refused to `action` (a verb and an object) `path`.
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> FetchError {
        FetchError::Io { action, path: path.to_path_buf(), source }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.reason)
    }
}

fn lines(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| format!("\n  {attempt}")).collect()
}
