//! Rows that others send, as a server needs them: taken to the disk; one thread adds them to their datasets.
//!
//! It must never hold a body, and never be called on a thread that serves but for [`Ingests::counts`]: all else blocks.
//!
//! Start reading at [`Ingests::begin`], then [`Keeper::round`].

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use lm_api::{ApiError, IngestRefusal};
use lm_data::{
    Backlog, CountTokens, DataError, DataHome, Format, InboxLimits, Offering, Receipt, Tally,
};
use serde_json::{Value, json};

use crate::AttendantStanding;
use crate::attendant::{Pulse, attend};
use crate::ingest_keeper::Keeper;

/// Characters of what a client said that an error shows.
const MAX_SHOWN: usize = 80;
/// Content types, without their parameters, and what they say of a body.
const CONTENT_TYPES: [(&str, Format); 12] = [
    ("application/jsonl", Format::Jsonl),
    ("application/jsonlines", Format::Jsonl),
    ("application/x-jsonlines", Format::Jsonl),
    ("application/x-ndjson", Format::Jsonl),
    ("application/ndjson", Format::Jsonl),
    ("application/json", Format::Json),
    ("text/csv", Format::Csv),
    ("application/vnd.apache.parquet", Format::Parquet),
    ("application/parquet", Format::Parquet),
    ("application/x-parquet", Format::Parquet),
    ("application/mbox", Format::Mbox),
    ("message/rfc822", Format::Mail),
];

/// Gives the way to count tokens that a dataset's contract asks for, or says why it cannot be had.
pub type TokenCounter =
    Arc<dyn Fn(&DataHome, &str) -> Result<Option<CountTokens>, String> + Send + Sync>;

/// What others send to one server. Clones share it.
#[derive(Clone)]
pub struct Ingests {
    inner: Arc<Inner>,
    /// The thread that adds ends with the last one.
    bell: SyncSender<()>,
}

pub(crate) struct Inner {
    pub(crate) home: DataHome,
    limits: InboxLimits,
    pub(crate) tokens: TokenCounter,
    pub(crate) counts: Mutex<BTreeMap<String, IngestCounts>>,
    pub(crate) pulse: Arc<Pulse>,
}

/// What this server took and added of one dataset since it started, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestCounts {
    /// Bodies that were taken, those that came again not counted.
    pub bodies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that were added.
    pub rows: Tally,
    /// Batches that did not pass their audit.
    pub refused_batches: u64,
    /// Bodies that were refused for it.
    pub refused_bodies: u64,
    /// What waited when it was last looked.
    pub backlog: Backlog,
}

/// A body that is being received. Dropped before [`Upload::finish`], it leaves nothing behind.
pub struct Upload {
    offering: Offering,
    ingests: Ingests,
    source: String,
}

/// What a client is told of a body that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The same bytes under the same key are told the same.
    pub body: Value,
    /// Where to ask what became of it.
    pub poll: String,
    /// It had been taken before.
    pub already_taken: bool,
}

/// The format of a body: what `asked` names, or else what its content type says.
///
/// # Errors
/// A name that no format has, or a content type that says nothing.
pub fn row_format(content_type: Option<&str>, asked: Option<&str>) -> Result<Format, ApiError> {
    if let Some(asked) = asked {
        return asked.parse().map_err(refusal);
    }
    let found = content_type.unwrap_or_default();
    let kind = found.split(';').next().unwrap_or_default().trim();
    let known = CONTENT_TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind));
    known.map(|(_, format)| *format).ok_or_else(|| {
        let found = found.chars().take(MAX_SHOWN).collect();
        ApiError::Ingest(IngestRefusal::UnknownFormat { found })
    })
}

impl Ingests {
    /// Takes rows for the datasets of `home`, and adds what waits there.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        home: DataHome,
        limits: InboxLimits,
        tokens: TokenCounter,
    ) -> std::io::Result<Ingests> {
        let (counts, pulse) = (Mutex::default(), Pulse::new("lm-ingest"));
        let attended = Arc::clone(&pulse);
        let inner = Arc::new(Inner { home, limits, tokens, counts, pulse });
        let (bell, rung) = sync_channel(1);
        let mut keeper = Keeper::new(Arc::clone(&inner), rung);
        attend(attended, move || keeper.round())?;
        Ok(Ingests { inner, bell })
    }

    /// How the thread is that adds what was sent.
    #[must_use]
    pub fn attendant(&self) -> AttendantStanding {
        self.inner.pulse.standing()
    }

    /// What may wait, and how large a body may be.
    #[must_use]
    pub fn limits(&self) -> InboxLimits {
        self.inner.limits
    }

    /// Begins to take a body of a sender, where senders have names. Blocks.
    ///
    /// # Errors
    /// There is no contract or no room, too much of the sender's was refused, or the source or the key is not as it may be.
    pub fn begin(
        &self,
        source: &str,
        key: Option<&str>,
        sender: Option<&str>,
        format: Format,
    ) -> Result<Upload, ApiError> {
        let Inner { home, limits, .. } = &*self.inner;
        self.must_have_contract(source)?;
        let offering = Offering::begin(home, source, key, sender, format, limits);
        let offering = offering.map_err(refusal)?;
        Ok(Upload { offering, ingests: self.clone(), source: source.to_owned() })
    }

    /// What is known of a dataset, or of the body that was sent to it under a key. Blocks.
    ///
    /// # Errors
    /// There is neither, or the files cannot be read.
    pub fn standing(&self, source: &str, key: Option<&str>) -> Result<Value, ApiError> {
        let home = &self.inner.home;
        if let Some(key) = key {
            let receipt = lm_data::receipt(home, source, key).map_err(refusal)?;
            return receipt.map(|receipt| told(source, &receipt, true)).ok_or_else(|| {
                let (source_name, key) = (source.to_owned(), key.chars().take(MAX_SHOWN).collect());
                ApiError::Ingest(IngestRefusal::UnknownKey { source_name, key })
            });
        }
        self.must_have_contract(source)?;
        let backlog = lm_data::backlog(home, source).map_err(refusal)?;
        let newest = match lm_data::show(home, source, None) {
            Ok(version) => {
                let manifest = version.manifest;
                json!({
                    "version": manifest.version,
                    "created_at_ms": manifest.created_at_ms,
                    "rows_in": manifest.rows_in,
                    "rows_published": manifest.rows_published,
                    "rows_quarantined": manifest.rows_quarantined,
                    "by_rule": manifest.by_rule,
                })
            }
            Err(DataError::UnknownDataset { .. } | DataError::NoReport { .. }) => Value::Null,
            Err(error) => return Err(refusal(error)),
        };
        let InboxLimits { n_bodies, size_bytes, body_bytes } = self.inner.limits;
        Ok(json!({
            "object": "ingest.source",
            "source": source,
            "backlog": backlog,
            "limits": { "n_bodies": n_bodies, "size_bytes": size_bytes, "body_bytes": body_bytes },
            "newest": newest,
        }))
    }

    /// What was counted, by dataset. Never waits.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, IngestCounts> {
        self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn must_have_contract(&self, source: &str) -> Result<(), ApiError> {
        if lm_data::has_contract(&self.inner.home, source).map_err(refusal)? {
            return Ok(());
        }
        let source_name = source.to_owned();
        Err(ApiError::Ingest(IngestRefusal::NoContract { source_name }))
    }
}

impl Upload {
    /// Takes the next piece. Blocks.
    ///
    /// # Errors
    /// It is too large, there is no room, or the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.offering.write(bytes).map_err(refusal)
    }

    /// Takes it as whole: it survives a kill and a power cut when this returns. Blocks.
    ///
    /// # Errors
    /// It is not of its format or has no row, its key was used for other rows, or there is no room.
    pub fn finish(self) -> Result<Accepted, ApiError> {
        let Upload { offering, ingests, source } = self;
        let taken = offering.finish().map_err(refusal)?;
        if !taken.already_taken {
            ingests.inner.count(&source, |counts| {
                counts.bodies += 1;
                counts.bytes += taken.receipt.size_bytes;
            });
            // One ring is enough for all that wait.
            let _ = ingests.bell.try_send(());
        }
        let body = told(&source, &taken.receipt, false);
        let poll = poll(&source, &taken.receipt.key);
        Ok(Accepted { body, poll, already_taken: taken.already_taken })
    }
}

/// A receipt as clients see it; how far its body is, where that is wanted.
fn told(source: &str, receipt: &Receipt, with_fate: bool) -> Value {
    let mut told = json!({
        "object": "ingest.job",
        "source": source,
        "key": receipt.key,
        "format": receipt.format,
        "hash": receipt.hash,
        "size_bytes": receipt.size_bytes,
        "offered_at_ms": receipt.offered_at_ms,
        "poll": poll(source, &receipt.key),
    });
    if with_fate
        && let (Some(told), Value::Object(fate)) = (told.as_object_mut(), json!(receipt.fate))
    {
        told.extend(fate);
    }
    told
}

/// Where to ask what became of a body.
fn poll(source: &str, key: &str) -> String {
    let mut path = format!("/ops/v1/ingest/{source}?key=");
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

impl Inner {
    pub(crate) fn count(&self, source: &str, count: impl FnOnce(&mut IngestCounts)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        count(counts.entry(source.to_owned()).or_default());
    }
}

/// The error as clients see it: files are the operator's.
pub(crate) fn refusal(error: DataError) -> ApiError {
    let message = error.to_string();
    let refusal = match error {
        DataError::InvalidName { name } => {
            let wanted = "1 to 64 of the characters a-z, 0-9, _ and -".to_owned();
            return ApiError::Invalid { param: "source".to_owned(), found: name, wanted };
        }
        DataError::InvalidOption { field, value, limit } => {
            let (param, wanted) = (field.to_owned(), limit.to_owned());
            return ApiError::Invalid { param, found: value, wanted };
        }
        DataError::OfferTooLarge { limit_bytes } => {
            let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
            return ApiError::BodyTooLarge { limit_bytes };
        }
        DataError::NotOfFormat { format, offset_bytes, detail } => {
            IngestRefusal::Unreadable { format: format.to_string(), offset_bytes, detail }
        }
        DataError::NoRows { blank_lines, .. } => IngestRefusal::Empty { blank_lines },
        DataError::KeyReused { .. } => IngestRefusal::KeyReused { message },
        DataError::InboxFull { .. } => IngestRefusal::Full { message },
        DataError::RefusedFull { .. } => IngestRefusal::RefusedFull { message },
        DataError::DiskFull { free_bytes, needed_bytes, .. } => {
            tracing::error!(error = message, "rows are not taken");
            let detail =
                format!("the disk has {free_bytes} bytes free, but {needed_bytes} must be");
            IngestRefusal::DiskFull { detail }
        }
        DataError::Io { source, .. }
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
        {
            tracing::error!(error = message, "rows are not taken");
            IngestRefusal::DiskFull { detail: "the disk is full".to_owned() }
        }
        _ => {
            tracing::error!(error = message, "rows could not be taken or told of");
            let what = "the rows could not be written or read".to_owned();
            return ApiError::Internal { what };
        }
    };
    ApiError::Ingest(refusal)
}
