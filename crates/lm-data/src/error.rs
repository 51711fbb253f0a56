//! Every way in which the pipeline can refuse, with the operands that a reader needs to act.
//!
//! It must never hold a row: rows go to quarantine, not to logs.
//!
//! Start reading at [`DataError`].

use std::io;
use std::path::{Path, PathBuf};

use crate::shares::failures_text;
use crate::{Format, RuleShare};

/// Why the pipeline could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A dataset's name that cannot be a folder's name everywhere.
    #[error("dataset name {name:?} must be 1 to 64 of the characters a-z, 0-9, _ and -")]
    InvalidName {
        /// The name that was given, cut to 80 characters.
        name: String,
    },
    /// An option is outside its range.
    #[error("{field} is {value}, but must be {limit}")]
    InvalidOption {
        /// The option's name.
        field: &'static str,
        /// The value.
        value: String,
        /// What is allowed.
        limit: &'static str,
    },
    /// A rule to allow that no row can break.
    #[error("there is no rule {rule:?}: the rules are {known}, or all")]
    UnknownRule {
        /// The rule that was given.
        rule: String,
        /// The rules that there are.
        known: &'static str,
    },
    /// Nothing was ever ingested under this name.
    #[error("there is no dataset {name}: ingest a file first")]
    UnknownDataset {
        /// The dataset.
        name: String,
    },
    /// No version has this id, or several begin with it.
    #[error("{n_matches} versions of dataset {name} begin with {version:?}, and 1 is needed")]
    UnknownVersion {
        /// The dataset.
        name: String,
        /// The id or its beginning.
        version: String,
        /// How many fit.
        n_matches: usize,
    },
    /// The dataset has no version or report yet to show the quarantine of.
    #[error("dataset {name} has no {wanted}")]
    NoReport {
        /// The dataset.
        name: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The first ingest of a dataset needs a contract.
    #[error(
        "dataset {name} has no contract at {}: give one with --contract or a JSON Schema with \
         --schema; `lastmile data infer FILE` proposes one",
        path.display()
    )]
    NoContract {
        /// The dataset.
        name: String,
        /// Where the contract would be.
        path: PathBuf,
    },
    /// The contract is larger than may be.
    #[error(
        "the contract {} has over {limit_bytes} bytes, and at most that may be",
        path.display()
    )]
    ContractTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// The contract is not JSON.
    #[error("the contract {} is not JSON: {detail}", path.display())]
    ContractNotJson {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
    /// The contract is JSON but not a JSON Schema, or it refers to another document.
    #[error("the contract {} is not a usable JSON Schema at {at:?}: {detail}", path.display())]
    InvalidContract {
        /// The file.
        path: PathBuf,
        /// Where in the schema, as a JSON pointer; the empty pointer is its root.
        at: String,
        /// What is wrong.
        detail: String,
    },
    /// The contract is not TOML, or has fields that no contract has.
    #[error("the contract {} cannot be read: {detail}", path.display())]
    ContractNotToml {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
    /// A field of the contract has a value that it may not have.
    #[error("the contract {} cannot be used: {field} {detail}", path.display())]
    ContractTerm {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong.
        detail: String,
    },
    /// The contract counts tokens, and nobody gave a way to count them.
    #[error("the contract of {name} counts tokens of {tokenizer:?}: a tokenizer is needed")]
    NoTokenizer {
        /// The dataset.
        name: String,
        /// What the contract names.
        tokenizer: String,
    },
    /// Neither name nor content tell the format.
    #[error("the format of {} is not known: say it with --format", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The source is compressed in a way that is not read.
    #[error("{} is compressed by {kind}, which is not read: decompress it first", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The compression.
        kind: &'static str,
    },
    /// A source as a whole cannot be read as its format.
    #[error("the source {} cannot be read: {detail}", path.display())]
    DamagedSource {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Two sources of one ingest have the same name.
    #[error("two sources are called {source_name:?}: ingest their folder instead")]
    SameName {
        /// The name.
        source_name: String,
    },
    /// A version of the first format cannot be added to.
    #[error(
        "version {version} of {name} is of the first format, which can be read but not added to: \
         `lastmile data export {name} rows.jsonl` and `lastmile data ingest {name} rows.jsonl` \
         publish its rows in the present one"
    )]
    FirstFormat {
        /// The dataset.
        name: String,
        /// The version.
        version: String,
    },
    /// A quarantined row that is not there.
    #[error(
        "{n_matches} rows in the quarantine of {name} have ids that begin with {id:?}, and 1 is needed"
    )]
    UnknownRow {
        /// The dataset.
        name: String,
        /// The id or its beginning.
        id: String,
        /// How many fit.
        n_matches: usize,
    },
    /// Nothing in the quarantine can be published as it was asked.
    #[error("nothing of the quarantine of {name} was published: {detail}")]
    NothingReleased {
        /// The dataset.
        name: String,
        /// Why.
        detail: String,
    },
    /// The queue of what others send is full: try again later.
    #[error("the inbox of {name} is full ({what} {value}, limit {limit}): try again later")]
    InboxFull {
        /// The dataset.
        name: String,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        value: u64,
        /// How much may be.
        limit: u64,
    },
    /// Too much of what one sender sent was refused, and waits for another contract.
    #[error(
        "{name} takes no more of this sender: what it sent and what was refused waits for another contract ({what} \
         {value}, limit {limit})"
    )]
    RefusedFull {
        /// The dataset.
        name: String,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        value: u64,
        /// How much may be.
        limit: u64,
    },
    /// The disk has too little room for what is sent.
    #[error(
        "the disk of {} has {free_bytes} bytes free, but {needed_bytes} must be: try again later",
        path.display()
    )]
    DiskFull {
        /// A folder on it.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What must be.
        needed_bytes: u64,
    },
    /// The key was used for other bytes, or for the same in another format.
    #[error(
        "idempotency key {key:?} of {name} was used for other rows: those had BLAKE3 {known} as \
         {known_format}, these have {hash} as {format}"
    )]
    KeyReused {
        /// The dataset.
        name: String,
        /// The key.
        key: String,
        /// The digest of the rows that came first, in hexadecimal.
        known: String,
        /// Their format.
        known_format: Format,
        /// The digest of those that came now.
        hash: String,
        /// Their format.
        format: Format,
    },
    /// More bytes are sent at once than may be.
    #[error("the rows have over {limit_bytes} bytes, and at most that may be sent at once")]
    OfferTooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// What was sent is not of its format.
    #[error("what was sent cannot be read as {format}: offset {offset_bytes}: {detail}")]
    NotOfFormat {
        /// The format.
        format: Format,
        /// Where the first fault is, in bytes from 0.
        offset_bytes: u64,
        /// What is wrong.
        detail: String,
    },
    /// The file or folder to write is there.
    #[error("{} exists: choose another name or remove it", path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
    /// The source is a folder.
    #[error("the source {} is a folder, and must be a file", path.display())]
    SourceIsFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The source is a device, which need not end.
    #[error("{} is a device, but a file or a pipe is wanted", path.display())]
    SourceIsDevice {
        /// The source.
        path: PathBuf,
    },
    /// The source has no rows.
    #[error(
        "the source {} has no rows ({blank_lines} blank lines): nothing was published",
        path.display()
    )]
    NoRows {
        /// The file.
        path: PathBuf,
        /// Blank lines that it has.
        blank_lines: u64,
    },
    /// A version that came from elsewhere does not follow those that are here.
    #[error(
        "version {sequence} of {name} ({}) does not belong to the line of versions here, whose \
         version {here_sequence} is {}: the two were made apart from each other; pull it into \
         another home",
        short(version),
        short(here)
    )]
    Diverged {
        /// The dataset.
        name: String,
        /// The number of the version that came.
        sequence: u64,
        /// Its id.
        version: String,
        /// The number of the version here that it cannot stand beside.
        here_sequence: u64,
        /// Its id.
        here: String,
    },
    /// Another ingest of the same dataset runs.
    #[error("another ingest of dataset {name} is running: it holds {}", path.display())]
    Locked {
        /// The dataset.
        name: String,
        /// The lock.
        path: PathBuf,
    },
    /// Too many rows are bad. Nothing was published; the quarantine report is kept.
    #[error(
        "nothing of {name} was published: {}; the bad rows are in {}",
        failures_text(failures),
        report.display()
    )]
    AuditFailed {
        /// The dataset.
        name: String,
        /// The rules over their limit, the most frequent first.
        failures: Vec<RuleShare>,
        /// The folder of the report.
        report: PathBuf,
    },
    /// A file of the pipeline itself cannot be understood.
    #[error(
        "{} is damaged: {detail}; put a backup in its place or remove its folder",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A newer version of this program wrote a file.
    #[error(
        "{} is of format {format}, and this program knows {known}: update lastmile",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The newest that this program reads.
        known: u32,
    },
    /// A version that came from elsewhere has files of rows that are not those of its id.
    #[error(
        "the {what} of version {} are not those that its id stands for: nothing was taken in; \
         somebody changed them where they came from, so get this version elsewhere",
        short(version)
    )]
    OtherRows {
        /// Its id.
        version: String,
        /// Which rows.
        what: &'static str,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// So much of an id as people read.
fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

/// For `map_err`.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    move |source| DataError::Io { action, path, source }
}
