//! What is known of a version besides its rows, and the history of a dataset.
//!
//! It must never be written after its version is published.
//!
//! Start reading at [`Manifest`], then [`log`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::io_error;
use crate::home::DatasetFolder;
use crate::{DataError, DataHome};

/// What is known of a version besides its rows: `manifest.json` of its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The digest of the contract and of each published row in order, in hexadecimal: the same
    /// rows under the same contract have the same id on every machine.
    pub version: String,
    /// The version that was the newest when this one was published.
    pub parent: Option<String>,
    /// From 1, by time of publication.
    pub sequence: u64,
    /// BLAKE3 of the contract's bytes, in hexadecimal.
    pub contract_hash: String,
    /// What was read.
    pub source: SourceFile,
    /// Rows read, blank lines not counted: published and quarantined ones.
    pub rows_in: u64,
    /// Rows in `rows.jsonl`.
    pub rows_published: u64,
    /// Rows in `quarantine.jsonl`.
    pub rows_quarantined: u64,
    /// Lines of nothing but white space; they are no rows.
    pub blank_lines: u64,
    /// Quarantined rows by the rule that each broke first.
    pub by_rule: BTreeMap<String, u64>,
    /// Unix milliseconds.
    pub created_at_ms: u64,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name without folders.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub hash: String,
}

/// The outcome of an ingest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// What is known of the version.
    pub manifest: Manifest,
    /// The same rows had been published before; nothing changed.
    pub already_published: bool,
    /// Rules over the warning threshold, the most frequent first.
    pub warnings: Vec<RuleShare>,
    /// The folder that holds it.
    pub folder: PathBuf,
}

/// How many rows broke one rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleShare {
    /// The rule.
    pub rule: String,
    /// Rows that broke it.
    pub rows: u64,
    /// Rows read.
    pub rows_in: u64,
    /// The share that was passed, from 0 to 1.
    pub limit: f64,
}

/// One entry of a dataset's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionSummary {
    /// The version's id.
    pub version: String,
    /// The one before it.
    pub parent: Option<String>,
    /// Rows read.
    pub rows_in: u64,
    /// Rows published.
    pub rows_published: u64,
    /// Rows in quarantine.
    pub rows_quarantined: u64,
    /// Rows in quarantine by rule.
    pub by_rule: BTreeMap<String, u64>,
}

const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// The versions of a dataset, newest first.
///
/// # Errors
/// [`DataError::InvalidName`], [`DataError::UnknownDataset`], [`DataError::Damaged`].
pub fn log(home: &DataHome, name: &str) -> Result<Vec<VersionSummary>, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let summary = |manifest: Manifest| VersionSummary {
        version: manifest.version,
        parent: manifest.parent,
        rows_in: manifest.rows_in,
        rows_published: manifest.rows_published,
        rows_quarantined: manifest.rows_quarantined,
        by_rule: manifest.by_rule,
    };
    Ok(published(&dataset)?.into_iter().map(summary).collect())
}

/// The manifests of all versions, newest first. A dataset that was never published has none.
pub(crate) fn published(dataset: &DatasetFolder) -> Result<Vec<Manifest>, DataError> {
    let mut manifests = Vec::new();
    for id in entries(&dataset.versions)? {
        let is_version = id.len() == 64 && id.bytes().all(|c| c.is_ascii_hexdigit());
        if is_version {
            manifests.push(read(&dataset.versions.join(id))?);
        }
    }
    manifests.sort_by_key(|manifest| std::cmp::Reverse(manifest.sequence));
    Ok(manifests)
}

/// The names in a folder; none when it does not exist.
pub(crate) fn entries(folder: &Path) -> Result<Vec<String>, DataError> {
    let list = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("list", folder))?,
    };
    list.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()
        .map_err(io_error("list", folder))
}

/// Reads the manifest of a version's or report's folder.
pub(crate) fn read(folder: &Path) -> Result<Manifest, DataError> {
    let path = folder.join("manifest.json");
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes))
        .map_err(io_error("read", &path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| DataError::Damaged { path, detail: error.to_string() })
}
