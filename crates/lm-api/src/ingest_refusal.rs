//! Why rows that were sent are not taken.
//!
//! It must never hold a row or a path of the server.
//!
//! Start reading at [`IngestRefusal`].

/// Why rows that were sent are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngestRefusal {
    /// This server takes none.
    #[error("this server takes no rows")]
    Off,
    /// Nobody said what a row of the dataset must be.
    #[error(
        "dataset {source_name} has no contract: put one at data/contracts/{source_name}.toml of the server's home; \
         `lastmile data infer FILE` proposes one"
    )]
    NoContract {
        /// The dataset.
        source_name: String,
    },
    /// Nothing was taken under this key.
    #[error("dataset {source_name} took nothing under the key {key:?}")]
    UnknownKey {
        /// The dataset.
        source_name: String,
        /// The key, shortened.
        key: String,
    },
    /// Neither the content type nor the query says what the body is.
    #[error(
        "the format of the body is not known by its content type {found:?}: send application/jsonl, \
         application/json, text/csv, application/vnd.apache.parquet, application/mbox or message/rfc822, or say \
         ?format=jsonl, json, csv, parquet, chat, sharegpt, mbox or mail"
    )]
    UnknownFormat {
        /// The content type, shortened.
        found: String,
    },
    /// The body is compressed.
    #[error("the content encoding is {found:?}, but must be identity: send the body as it is")]
    Encoded {
        /// The encoding, shortened.
        found: String,
    },
    /// The body cannot be read as its format at all.
    #[error("the body cannot be read as {format}: offset {offset_bytes}: {detail}")]
    Unreadable {
        /// The format.
        format: String,
        /// Where the first fault is, in bytes from 0.
        offset_bytes: u64,
        /// What is wrong.
        detail: String,
    },
    /// The body has no row.
    #[error("the body has no rows ({blank_lines} blank lines)")]
    Empty {
        /// Blank lines that it has.
        blank_lines: u64,
    },
    /// The key was used for other rows.
    #[error("{message}")]
    KeyReused {
        /// What both are.
        message: String,
    },
    /// More bodies are being received than may.
    #[error("{limit} bodies of rows are being received already, the server's limit")]
    TooManyUploads {
        /// The limit.
        limit: usize,
    },
    /// The body comes too slowly.
    #[error(
        "the body is too slow: {n_bytes} bytes came in {waited_ms} ms, but after the first {grace_ms} ms it must be \
         {min_bytes_per_s} bytes/s"
    )]
    TooSlow {
        /// What came.
        n_bytes: u64,
        /// For how long it was waited.
        waited_ms: u128,
        /// For how long nothing is asked of it.
        grace_ms: u128,
        /// What is asked of it then, on average.
        min_bytes_per_s: u64,
    },
    /// The disk has no room.
    #[error("rows cannot be taken now: {detail}")]
    DiskFull {
        /// What the disk says.
        detail: String,
    },
    /// More waits to be added than may.
    #[error("{message}")]
    Full {
        /// What there is too much of, and the limit.
        message: String,
    },
    /// More of this sender was refused than may wait for another contract.
    #[error("{message}")]
    RefusedFull {
        /// What there is too much of, and the limit.
        message: String,
    },
}

impl IngestRefusal {
    pub(crate) fn status(&self) -> u16 {
        match self {
            IngestRefusal::Off
            | IngestRefusal::NoContract { .. }
            | IngestRefusal::UnknownKey { .. } => 404,
            IngestRefusal::UnknownFormat { .. } | IngestRefusal::Encoded { .. } => 415,
            IngestRefusal::Unreadable { .. } | IngestRefusal::Empty { .. } => 400,
            IngestRefusal::KeyReused { .. } => 409,
            IngestRefusal::TooSlow { .. } => 408,
            IngestRefusal::DiskFull { .. } => 503,
            IngestRefusal::Full { .. }
            | IngestRefusal::RefusedFull { .. }
            | IngestRefusal::TooManyUploads { .. } => 429,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            IngestRefusal::Off => "no_ingest",
            IngestRefusal::NoContract { .. } => "no_contract",
            IngestRefusal::UnknownKey { .. } => "ingest_not_found",
            IngestRefusal::UnknownFormat { .. } => "unknown_format",
            IngestRefusal::Encoded { .. } => "unsupported_encoding",
            IngestRefusal::Unreadable { .. } => "unreadable_body",
            IngestRefusal::Empty { .. } => "empty_body",
            IngestRefusal::KeyReused { .. } => "idempotency_key_reused",
            IngestRefusal::TooManyUploads { .. } => "too_many_uploads",
            IngestRefusal::DiskFull { .. } => "disk_full",
            IngestRefusal::TooSlow { .. } => "body_too_slow",
            IngestRefusal::Full { .. } => "ingest_backlog_full",
            IngestRefusal::RefusedFull { .. } => "ingest_refused_full",
        }
    }
}
