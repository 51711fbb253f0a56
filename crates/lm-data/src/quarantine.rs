//! The rows that broke a rule: kept with where they were and why, until somebody repairs or releases them.
//!
//! It must never lose or alter a row's bytes; only of rows that are too long a beginning is kept.
//!
//! Start reading at [`QuarantinedRow`], then [`quarantine`].

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::check::{Repair, Violation};
use crate::error::io_error;
use crate::home::{DatasetFolder, entries};
use crate::read::Format;
use crate::read::framer::Record;
use crate::version::merkle;
use crate::{DataError, DataHome, Manifest, manifest};

/// One bad row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRow {
    /// 16 hexadecimal digits, by source, offset and bytes.
    #[serde(default)]
    pub id: String,
    /// The source's name.
    #[serde(default)]
    pub source: String,
    /// Where its first byte is in the source; for Parquet the number of the row, from 0.
    pub offset_bytes: u64,
    /// Its line in the source, or the number of the record, from 1.
    pub line: u64,
    /// The rule that it broke first.
    pub rule: String,
    /// In words: where in the row, and what was wanted.
    pub detail: String,
    /// The size of the whole row.
    pub size_bytes: u64,
    /// How `raw` is written.
    pub encoding: Encoding,
    /// The row's bytes. Shorter than `size_bytes` when the row was too long to keep. For rows that break a rule with
    /// others, the row as it would have been published.
    pub raw: String,
    /// A row that could be published in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
    /// How its source is written. `None` for rows that break a rule with others, and where an older version of the
    /// program wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The row as it would have been published, as JSON text, where that is not `raw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
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
    /// That of the last ingest that published nothing, because too many rows were bad.
    Unpublished,
}

/// Reads a quarantine row by row, in the order of the sources.
pub struct QuarantineRows {
    paths: std::vec::IntoIter<PathBuf>,
    open: Option<(PathBuf, BufReader<File>, u64)>,
}

impl QuarantinedRow {
    pub(crate) fn new(
        record: &Record,
        source: &str,
        format: Option<Format>,
        violation: Violation,
    ) -> QuarantinedRow {
        let mut bytes = record.bytes.as_slice();
        // The cut of a row that is too long to keep may go through a character.
        if let Err(error) = std::str::from_utf8(bytes)
            && record.size_bytes > bytes.len() as u64
            && error.error_len().is_none()
        {
            bytes = &bytes[..error.valid_up_to()];
        }
        let (encoding, raw) = match std::str::from_utf8(bytes) {
            Ok(text) => (Encoding::Utf8, text.to_owned()),
            Err(_) => (Encoding::Base64, STANDARD.encode(bytes)),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(source.as_bytes()).update(&[0]).update(&record.offset_bytes.to_le_bytes());
        let id = hasher.update(bytes).finalize().to_hex()[..16].to_owned();
        QuarantinedRow {
            id,
            source: source.to_owned(),
            offset_bytes: record.offset_bytes,
            line: record.line,
            rule: violation.rule.into_owned(),
            detail: violation.detail,
            size_bytes: record.size_bytes,
            encoding,
            raw,
            repair: violation.repair,
            format,
            row: violation.row,
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

    /// The hash of what the row is and why it is bad.
    pub(crate) fn leaf(&self) -> blake3::Hash {
        let mut bytes = self.rule.clone().into_bytes();
        bytes.push(0);
        bytes.extend_from_slice(self.raw.as_bytes());
        merkle::leaf(&bytes)
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
    let manifest = match report {
        Report::Newest => manifest::newest(&dataset)?,
        Report::Version(wanted) => manifest::find(&dataset, wanted)?,
        Report::Unpublished => {
            // Names begin with the time, so the greatest is the newest.
            let newest = entries(&dataset.reports)?.into_iter().max();
            let wanted = "report of an unpublished ingest";
            let none = || DataError::NoReport { name: name.to_owned(), wanted };
            let folder = dataset.reports.join(newest.ok_or_else(none)?);
            return Ok(QuarantineRows::open(vec![folder.join("quarantine.jsonl")]));
        }
    };
    Ok(rows_of(&dataset, &manifest))
}

/// The quarantine of a version.
pub(crate) fn rows_of(dataset: &DatasetFolder, manifest: &Manifest) -> QuarantineRows {
    if manifest.is_first_format() {
        let folder = dataset.versions.join(&manifest.version);
        return QuarantineRows::open(vec![folder.join("quarantine.jsonl")]);
    }
    let path = |segment: &crate::Segment| dataset.objects.join(format!("{}.jsonl", segment.hash));
    QuarantineRows::open(manifest.quarantine.iter().map(path).collect())
}

impl QuarantineRows {
    pub(crate) fn open(paths: Vec<PathBuf>) -> QuarantineRows {
        QuarantineRows { paths: paths.into_iter(), open: None }
    }

    fn read(&mut self) -> Result<Option<QuarantinedRow>, DataError> {
        loop {
            let Some((path, file, line)) = &mut self.open else {
                let Some(path) = self.paths.next() else { return Ok(None) };
                let file = File::open(&path).map_err(io_error("open", &path))?;
                self.open = Some((path, BufReader::new(file), 0));
                continue;
            };
            let mut text = Vec::new();
            let n = file.read_until(b'\n', &mut text).map_err(io_error("read", path))?;
            if n == 0 {
                self.open = None;
                continue;
            }
            *line += 1;
            return serde_json::from_slice(&text).map(Some).map_err(|error| DataError::Damaged {
                path: path.clone(),
                detail: format!("line {line}: {error}"),
            });
        }
    }
}

impl Iterator for QuarantineRows {
    type Item = Result<QuarantinedRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
