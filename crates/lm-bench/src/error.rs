//! Why a load could not be run. What single requests suffered is in their outputs.

use std::path::PathBuf;

/// Why a load could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An option outside of its range.
    #[error("{name} is {value:?}, but must be {limit}")]
    Invalid {
        /// The option.
        name: &'static str,
        /// As given.
        value: String,
        /// What it may be.
        limit: String,
    },
    /// A data set that cannot be used.
    #[error("{}, {place}: {problem}", path.display())]
    Dataset {
        /// The file.
        path: PathBuf,
        /// The line or entry.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server does not say what it serves.
    #[error("{url}: {problem}")]
    Server {
        /// What was asked.
        url: String,
        /// What came back.
        problem: String,
    },
    /// The process cannot do what a load needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What it needs.
        what: String,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// A chart could not be drawn.
    #[error("cannot draw the report: {0}")]
    Draw(String),
}

pub(crate) fn invalid(name: &'static str, value: impl ToString, limit: &str) -> BenchError {
    BenchError::Invalid { name, value: value.to_string(), limit: limit.to_owned() }
}
