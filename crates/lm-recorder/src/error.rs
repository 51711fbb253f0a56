//! What can go wrong with the recorder's file.

use std::path::PathBuf;

/// What can go wrong with the recorder's file.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Of which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another server of this home records already.
    #[error("another process records into {}", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Too small to hold anything of use.
    #[error("the recorder's file is to have {found} bytes, but must have at least {least}")]
    TooSmall {
        /// What was asked for.
        found: u64,
        /// What is needed.
        least: u64,
    },
}
