//! The rows that broke a rule: written beside the version, read back for whoever mends them.
//!
//! It must never lose or alter a row's bytes; only of rows that are too long a beginning is kept.
//!
//! Start reading at [`QuarantinedRow`], then [`quarantine`].

use std::borrow::Cow;
use std::fs::File;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::io_error;
use crate::ingest::MAX_ROW_BYTES_LIMIT;
use crate::row::{Row, RowReader};
use crate::rules::Violation;
use crate::{DataError, DataHome, manifest};

/// One bad row: a line of `quarantine.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRow<'a> {
    /// Where its first byte is in the source.
    pub offset_bytes: u64,
    /// Its line in the source, from 1.
    pub line: u64,
    /// The rule that it broke first.
    pub rule: Cow<'a, str>,
    /// In words: where in the row, and what was wanted.
    pub detail: Cow<'a, str>,
    /// The size of the whole row.
    pub size_bytes: u64,
    /// How `raw` is written.
    pub encoding: Encoding,
    /// The row's bytes. Shorter than `size_bytes` when the row was too long to keep.
    pub raw: Cow<'a, str>,
}

/// How the bytes of a row are written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As they are.
    Utf8,
    /// In base64, for they are not UTF-8.
    Base64,
}

/// Whose quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// The newest version's.
    Newest,
    /// That of the version whose id begins so.
    Version(&'a str),
    /// That of the last ingest that published nothing, because too many rows were bad or because
    /// its good rows had been published before.
    Unpublished,
}

/// Reads a quarantine row by row, in the order of the source.
pub struct QuarantineRows {
    path: PathBuf,
    rows: RowReader<File>,
}

impl<'a> QuarantinedRow<'a> {
    pub(crate) fn new(row: &Row<'a>, violation: &'a Violation) -> QuarantinedRow<'a> {
        let mut bytes = row.bytes;
        // The cut of a row that is too long to keep may go through a character.
        if let Err(error) = std::str::from_utf8(bytes)
            && row.size_bytes > bytes.len() as u64
            && error.error_len().is_none()
        {
            bytes = &bytes[..error.valid_up_to()];
        }
        let (encoding, raw) = match std::str::from_utf8(bytes) {
            Ok(text) => (Encoding::Utf8, Cow::Borrowed(text)),
            Err(_) => (Encoding::Base64, Cow::Owned(STANDARD.encode(bytes))),
        };
        QuarantinedRow {
            offset_bytes: row.offset_bytes,
            line: row.line,
            rule: Cow::Borrowed(&violation.rule),
            detail: Cow::Borrowed(&violation.detail),
            size_bytes: row.size_bytes,
            encoding,
            raw,
        }
    }

    /// The row's bytes as they were in the source, or `None` when the base64 is damaged.
    #[must_use]
    pub fn raw_bytes(&self) -> Option<Vec<u8>> {
        match self.encoding {
            Encoding::Utf8 => Some(self.raw.as_bytes().to_vec()),
            Encoding::Base64 => STANDARD.decode(self.raw.as_bytes()).ok(),
        }
    }
}

/// The bad rows of one version, or of the last ingest that published nothing.
///
/// # Errors
/// [`DataError::UnknownDataset`], [`DataError::UnknownVersion`], [`DataError::NoReport`].
pub fn quarantine(
    home: &DataHome,
    name: &str,
    report: Report<'_>,
) -> Result<QuarantineRows, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let none = |wanted| DataError::NoReport { name: name.to_owned(), wanted };
    let folder = match report {
        Report::Newest => {
            let newest = manifest::published(&dataset)?.into_iter().next();
            dataset.versions.join(newest.ok_or_else(|| none("published version"))?.version)
        }
        Report::Version(wanted) => {
            let mut ids: Vec<String> =
                manifest::published(&dataset)?.into_iter().map(|m| m.version).collect();
            ids.retain(|id| id.starts_with(wanted));
            let [id] = ids.as_slice() else {
                let (name, version) = (name.to_owned(), wanted.chars().take(80).collect());
                return Err(DataError::UnknownVersion { name, version, n_matches: ids.len() });
            };
            dataset.versions.join(id)
        }
        Report::Unpublished => {
            // Names begin with the time, so the greatest is the newest.
            let newest = manifest::entries(&dataset.reports)?.into_iter().max();
            dataset.reports.join(newest.ok_or_else(|| none("report of an unpublished ingest"))?)
        }
    };
    let path = folder.join("quarantine.jsonl");
    let file = File::open(&path).map_err(io_error("open", &path))?;
    // Each byte of a row takes at most 6 in JSON (as in \u0001).
    let rows = RowReader::new(file, 6 * MAX_ROW_BYTES_LIMIT + 4096);
    Ok(QuarantineRows { path, rows })
}

impl Iterator for QuarantineRows {
    type Item = Result<QuarantinedRow<'static>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self.rows.next_row() {
            Ok(row) => row?,
            Err(error) => return Some(Err(io_error("read", &self.path)(error))),
        };
        let (line, path) = (row.line, &self.path);
        Some(serde_json::from_slice(row.bytes).map_err(|error| DataError::Damaged {
            path: path.clone(),
            detail: format!("line {line}: {error}"),
        }))
    }
}
