//! Every way in which keys cannot be read or changed.
//!
//! It must never hold a secret or a hash of one.
//!
//! Start reading at [`KeyError`].

use std::path::{Path, PathBuf};

/// Why keys could not be read or changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KeyError {
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
    /// The file holds no keys.
    #[error("the key file {} cannot be read: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file that held keys is gone.
    #[error(
        "the key file {} is gone: put it back, or restart to serve without its keys", path.display()
    )]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// Others than its owner may write the file, and so make keys for themselves.
    #[error(
        "the key file {} may be written by others (mode {mode:03o}): chmod 600 it", path.display()
    )]
    WritableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A name that is no name.
    #[error("the name {name:?} must be 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'")]
    BadName {
        /// As given.
        name: String,
    },
    /// An unrevoked key has this name.
    #[error("a key named {name:?} exists: revoke it first, or take another name")]
    NameTaken {
        /// As given.
        name: String,
    },
    /// No unrevoked key has this name or id.
    #[error("no key that is not revoked has the name or id {who:?}")]
    NotFound {
        /// As given.
        who: String,
    },
    /// A key without a scope could do nothing.
    #[error("scopes is empty, but must name at least one of infer, ops, metrics")]
    NoScope,
    /// A limit of zero would allow nothing.
    #[error("{limit} is 0, but must be at least 1, or absent for no limit")]
    ZeroLimit {
        /// The limit's name.
        limit: &'static str,
    },
    /// A limit that is no amount.
    #[error("{limit} is {value}, but must be a number above 0, or absent for no limit")]
    BadLimit {
        /// The limit's name.
        limit: &'static str,
        /// What it was to be.
        value: f64,
    },
    /// More keys than a file may hold.
    #[error("the key file holds {limit} keys, revoked ones included, and may hold no more")]
    TooMany {
        /// How many it may hold.
        limit: usize,
    },
    /// A time that cannot be read or has passed.
    #[error("expires is {value:?}, but must be {wanted}")]
    BadExpiry {
        /// As given.
        value: String,
        /// What is allowed.
        wanted: &'static str,
    },
    /// A time that cannot be read.
    #[error("since is {value:?}, but must be {wanted}")]
    BadSince {
        /// As given.
        value: String,
        /// What is allowed.
        wanted: &'static str,
    },
    /// A fixed key without a character.
    #[error(
        "the API key is empty, but must be 16 to 256 printable characters of ASCII without spaces, or not be given at all"
    )]
    EmptyFixedKey,
    /// A fixed key that would be too easy to guess or cannot be sent.
    #[error(
        "the API key has {n_chars} characters, but must be 16 to 256 printable ones of ASCII without spaces"
    )]
    BadFixedKey {
        /// Its length.
        n_chars: usize,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {detail}")]
    NoRandomness {
        /// What the system says.
        detail: String,
    },
}

pub(crate) fn io(path: &Path, action: &'static str, error: &std::io::Error) -> KeyError {
    KeyError::Io { path: path.to_owned(), action, detail: error.to_string() }
}
