//! Which sources were read, and how far: what makes an ingest exactly once.
//!
//! It must never trust a name: a source is known by the digest of what was read of it.
//!
//! Start reading at [`Ledger::plan`].

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::error::io_error;
use crate::read::Format;
use crate::read::input::{Input, is_damage};

/// One source as far as it was read: a line of `sources.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its path under the folder that was read, or its name.
    pub name: String,
    /// How its rows are written.
    pub format: Format,
    /// Bytes that were read, after decompression.
    pub size_bytes: u64,
    /// BLAKE3 of these bytes, in hexadecimal.
    pub hash: String,
    /// Records that were read: rows, blank lines and a header.
    pub n_records: u64,
    /// It was read to the end that it had.
    pub finished: bool,
    /// Where the last line begins when it had no end and may go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_at: Option<u64>,
    /// The source with the same bytes, whose rows these are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
    /// Its earlier content was other than this one's beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rewritten: bool,
    /// The file's size and time when it was read, to leave it alone while they stay.
    pub stamp: Stamp,
    /// Of what was sent: what became of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tally: Option<Tally>,
}

/// What became of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Rows, blank lines not counted.
    pub rows_in: u64,
    /// Rows that were published.
    pub rows_published: u64,
    /// Rows that went to quarantine.
    pub rows_quarantined: u64,
    /// Those by the rule that each broke first.
    pub by_rule: BTreeMap<String, u64>,
}

/// Begins the names of what came by an offer.
pub(crate) const INBOX: &str = "inbox/";

/// What the file system says of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its size on disk.
    pub size_bytes: u64,
    /// Its last change, in Unix nanoseconds.
    pub modified_ns: u128,
}

/// What to do with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It was read.
    Known(Box<SourceFile>),
    /// It has the bytes of a source that was read.
    SameAs(Box<SourceFile>),
    /// It goes on where this source ended.
    GoOn(Box<SourceFile>),
    /// It was never read.
    Fresh,
    /// Its beginning is no longer what was read.
    Rewritten,
}

/// The sources of a dataset, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    by_name: HashMap<String, SourceFile>,
}

impl Ledger {
    /// Later entries of a name take the place of earlier ones.
    pub(crate) fn add(&mut self, source: SourceFile) {
        self.by_name.insert(source.name.clone(), source);
    }

    /// Forgets what was sent, was added and is gone from the disk: its key alone is remembered. `exists` must not go by
    /// what one run reads: a body that was published and not removed yet would be published again.
    pub(crate) fn forget_sent(&mut self, exists: &dyn Fn(&str) -> bool) {
        self.by_name.retain(|name, _| !name.starts_with(INBOX) || exists(name));
    }

    /// All of them, by name.
    pub(crate) fn sources(&self) -> Vec<&SourceFile> {
        let mut sources: Vec<_> = self.by_name.values().collect();
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        sources
    }

    /// Whether the file was read to its end and did not change since. Cheap.
    pub(crate) fn is_settled(&self, name: &str, stamp: Stamp) -> bool {
        self.by_name.get(name).is_some_and(|source| source.finished && source.stamp == stamp)
    }

    /// What to do with a file. Reads it as far as it must to be sure. `exists` says whether a name is still there.
    pub(crate) fn plan(
        &self,
        name: &str,
        path: &Path,
        format: Format,
        exists: &dyn Fn(&str) -> bool,
    ) -> Result<Plan, DataError> {
        match self.plan_readable(name, path, format, exists) {
            // What cannot be read has no beginning that could be known, but rows that can.
            Err(DataError::Io { source, .. }) if is_damage(&source) => {
                let is_known = self.by_name.contains_key(name);
                Ok(if is_known { Plan::Rewritten } else { Plan::Fresh })
            }
            plan => plan,
        }
    }

    fn plan_readable(
        &self,
        name: &str,
        path: &Path,
        format: Format,
        exists: &dyn Fn(&str) -> bool,
    ) -> Result<Plan, DataError> {
        if let Some(source) = self.by_name.get(name) {
            return self.plan_known(source, path, format);
        }
        // What was sent under a key of its own is of its own, whatever is in it.
        if name.starts_with(INBOX) {
            return Ok(Plan::Fresh);
        }
        // A renamed file is a new name with the bytes of a name that is gone, and perhaps more.
        let mut candidates: Vec<&SourceFile> =
            self.by_name.values().filter(|source| source.size_bytes > 0).collect();
        candidates.retain(|source| !source.name.starts_with(INBOX));
        let size = Stamp::of(path)?.size_bytes;
        // Of compressed files the plain size is not known before they are read.
        let fits = |source: &SourceFile| {
            source.stamp.size_bytes == size || (source.format.grows() && !exists(&source.name))
        };
        candidates.retain(|source| fits(source));
        candidates.sort_by_key(|source| (source.size_bytes, source.name.clone()));
        if candidates.is_empty() {
            return Ok(Plan::Fresh);
        }
        let (mut input, _) = Input::open(path)?;
        let mut found: Option<&SourceFile> = None;
        for source in candidates {
            skip(&mut input, source.size_bytes, path)?;
            if input.consumed() < source.size_bytes {
                break;
            }
            if input.hash().to_hex().as_str() == source.hash {
                found = Some(source);
            }
        }
        let Some(source) = found else { return Ok(Plan::Fresh) };
        let at_end = {
            skip(&mut input, source.size_bytes + 1, path)?;
            input.consumed() == source.size_bytes
        };
        let source = Box::new(source.clone());
        Ok(if at_end && source.finished {
            Plan::SameAs(source)
        } else if exists(&source.name) || !source.format.grows() {
            Plan::Fresh
        } else {
            Plan::GoOn(source)
        })
    }

    fn plan_known(
        &self,
        source: &SourceFile,
        path: &Path,
        format: Format,
    ) -> Result<Plan, DataError> {
        let (mut input, _) = Input::open(path)?;
        skip(&mut input, source.size_bytes, path)?;
        let has_all = input.consumed() == source.size_bytes;
        if !has_all || input.hash().to_hex().as_str() != source.hash || source.format != format {
            return Ok(Plan::Rewritten);
        }
        skip(&mut input, source.size_bytes + 1, path)?;
        let has_more = input.consumed() > source.size_bytes;
        Ok(match (source.finished, has_more) {
            (true, false) => Plan::Known(Box::new(source.clone())),
            (true, true) if !format.grows() => Plan::Rewritten,
            _ => Plan::GoOn(Box::new(source.clone())),
        })
    }
}

fn skip(input: &mut Input, offset: u64, path: &Path) -> Result<(), DataError> {
    input.skip_to(offset).map_err(io_error("read", path))
}

impl Tally {
    /// `n_rows` were published.
    pub(crate) fn publish(&mut self, n_rows: u64) {
        self.rows_in += n_rows;
        self.rows_published += n_rows;
    }

    /// `n_rows` broke a rule.
    pub(crate) fn quarantine(&mut self, rule: &str, n_rows: u64) {
        self.rows_in += n_rows;
        self.rows_quarantined += n_rows;
        *self.by_rule.entry(rule.to_owned()).or_default() += n_rows;
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Tally) {
        self.publish(other.rows_published);
        other.by_rule.iter().for_each(|(rule, n_rows)| self.quarantine(rule, *n_rows));
    }
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Result<Stamp, DataError> {
        let metadata = path.metadata().map_err(io_error("read the size of", path))?;
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.unwrap_or_default().as_nanos();
        Ok(Stamp { size_bytes: metadata.len(), modified_ns })
    }
}
