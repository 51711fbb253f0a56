//! What is known of a version besides its rows, and the history of a dataset.
//!
//! It must never be written after its version is published.
//!
//! Start reading at [`Manifest`], then [`log`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::io_error;
use crate::home::{DatasetFolder, entries};
use crate::version::merkle::Tree;
use crate::{DataError, DataHome, Segment};

/// What is known of a version besides its rows: `manifest.json` of its folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// 2. Versions of format 1 hold `rows.jsonl` in their folder, and can be read but not added to.
    #[serde(default = "first_format")]
    pub format: u32,
    /// The digest of the contract, of each published row in order and of each quarantined one, in hexadecimal: the
    /// same input under the same contract has the same id on every machine.
    pub version: String,
    /// The version that was the newest when this one was published.
    pub parent: Option<String>,
    /// From 1, by time of publication.
    pub sequence: u64,
    /// BLAKE3 of the contract's bytes, in hexadecimal.
    pub contract_hash: String,
    /// Rows read for this version and those it builds on, blank lines not counted: published and quarantined ones.
    pub rows_in: u64,
    /// Rows in it.
    pub rows_published: u64,
    /// Rows in its quarantine.
    pub rows_quarantined: u64,
    /// Lines of nothing but white space; they are no rows.
    pub blank_lines: u64,
    /// Quarantined rows by the rule that each broke first.
    pub by_rule: BTreeMap<String, u64>,
    /// Unix milliseconds.
    pub created_at_ms: u64,
    /// Rows read for this version alone.
    #[serde(default)]
    pub batch_rows_in: u64,
    /// Sources whose rows it has.
    #[serde(default)]
    pub n_sources: u64,
    /// Sources that had the bytes of another one, and were read once.
    #[serde(default)]
    pub sources_repeated: u64,
    /// Rows of rewritten sources that had been read before, and count once.
    #[serde(default)]
    pub rows_repeated: u64,
    /// Quarantined rows that were published after all; `lineage.jsonl` of the folder says which.
    #[serde(default)]
    pub rows_released: u64,
    /// The tree over the published rows.
    #[serde(default)]
    pub rows: Tree,
    /// The tree over the quarantined rows.
    #[serde(default)]
    pub bad_rows: Tree,
    /// The published rows: `objects/HASH.parquet` in order.
    #[serde(default)]
    pub segments: Vec<Segment>,
    /// The quarantined rows: `objects/HASH.jsonl` in order.
    #[serde(default)]
    pub quarantine: Vec<Segment>,
}

fn first_format() -> u32 {
    1
}

/// What this program writes.
pub(crate) const FORMAT: u32 = 2;

impl Manifest {
    pub(crate) fn is_first_format(&self) -> bool {
        self.format == 1
    }

    /// Its folder's name: versions in the order of publication.
    pub(crate) fn folder_name(&self) -> String {
        if self.is_first_format() {
            return self.version.clone();
        }
        folder_name(self.sequence, &self.version)
    }
}

/// The folder's name of a version.
pub(crate) fn folder_name(sequence: u64, version: &str) -> String {
    format!("{sequence:06}-{version}")
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

/// Of a version with very many segments.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 64 << 20;

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

/// One version: the newest, or the one whose id begins so.
///
/// # Errors
/// [`DataError::UnknownDataset`], [`DataError::UnknownVersion`], [`DataError::NoReport`].
pub fn show(home: &DataHome, name: &str, version: Option<&str>) -> Result<Version, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let manifest = newest_or(&dataset, version)?;
    let folder = dataset.versions.join(manifest.folder_name());
    Ok(Version { manifest, already_published: true, warnings: Vec::new(), folder })
}

/// The manifests of all versions, newest first. A dataset that was never published has none.
pub(crate) fn published(dataset: &DatasetFolder) -> Result<Vec<Manifest>, DataError> {
    let folders = folders(dataset)?.into_iter();
    folders.map(|(_, folder)| read(&dataset.versions.join(folder))).collect()
}

/// The sequences and folders of the versions, newest first.
pub(crate) fn folders(dataset: &DatasetFolder) -> Result<Vec<(u64, String)>, DataError> {
    let mut found = listed(dataset)?;
    found.retain(|(_, folder)| !is_remains(dataset, folder));
    Ok(found)
}

/// The same with the remains of what is no version any more.
fn listed(dataset: &DatasetFolder) -> Result<Vec<(u64, String)>, DataError> {
    let mut found = Vec::new();
    for name in entries(&dataset.versions)? {
        if !is_version(&name) {
            continue;
        }
        let sequence = match name.split_once('-') {
            Some((sequence, _)) => sequence.parse().unwrap_or(0),
            None if is_remains(dataset, &name) => 0,
            // The first format says it inside only.
            None => read(&dataset.versions.join(&name))?.sequence,
        };
        found.push((sequence, name));
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Whether a version's folder has no manifest: it was being removed when that was killed.
pub(crate) fn is_remains(dataset: &DatasetFolder, folder: &str) -> bool {
    // What cannot be looked at is not gone.
    matches!(dataset.versions.join(folder).join("manifest.json").try_exists(), Ok(false))
}

/// Whether a folder of this name holds a version.
pub(crate) fn is_version(folder: &str) -> bool {
    let id = id_of(folder);
    id.len() == 64 && id.bytes().all(|c| c.is_ascii_hexdigit())
}

/// The id in the name of a version's folder.
fn id_of(folder: &str) -> &str {
    folder.split_once('-').map_or(folder, |(_, id)| id)
}

/// The newest version; `None` when none was published. Reads no manifest but its own.
pub(crate) fn last(dataset: &DatasetFolder) -> Result<Option<Manifest>, DataError> {
    let mut folders = listed(dataset)?.into_iter();
    let newest = folders.find(|(_, folder)| !is_remains(dataset, folder));
    newest.map(|(_, folder)| read(&dataset.versions.join(folder))).transpose()
}

pub(crate) fn newest(dataset: &DatasetFolder) -> Result<Manifest, DataError> {
    let none = || DataError::NoReport { name: dataset.name.clone(), wanted: "published version" };
    last(dataset)?.ok_or_else(none)
}

/// The version of this id that was published last; `None` when there is none.
pub(crate) fn of_id(dataset: &DatasetFolder, id: &str) -> Result<Option<Manifest>, DataError> {
    let found = folders(dataset)?.into_iter().find(|(_, folder)| id_of(folder) == id);
    found.map(|(_, folder)| read(&dataset.versions.join(folder))).transpose()
}

pub(crate) fn newest_or(
    dataset: &DatasetFolder,
    version: Option<&str>,
) -> Result<Manifest, DataError> {
    version.map_or_else(|| newest(dataset), |version| find(dataset, version))
}

/// The one version whose id begins so. A content that was published twice is one version.
pub(crate) fn find(dataset: &DatasetFolder, wanted: &str) -> Result<Manifest, DataError> {
    let mut found = folders(dataset)?;
    found.retain(|(_, folder)| id_of(folder).starts_with(wanted));
    let n_matches = found.iter().map(|(_, folder)| id_of(folder)).collect::<BTreeSet<_>>().len();
    match found.first() {
        Some((_, only)) if n_matches == 1 => read(&dataset.versions.join(only)),
        _ => {
            let (name, version) = (dataset.name.clone(), wanted.chars().take(80).collect());
            Err(DataError::UnknownVersion { name, version, n_matches })
        }
    }
}

/// Reads the manifest of a version's or report's folder.
pub(crate) fn read(folder: &Path) -> Result<Manifest, DataError> {
    let path = folder.join("manifest.json");
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes))
        .map_err(io_error("read", &path))?;
    parse(&path, &bytes)
}

/// Reads the bytes of `manifest.json`, which lie at `path`.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest, DataError> {
    let damaged = |detail: String| DataError::Damaged { path: path.to_owned(), detail };
    let newer = |format| DataError::Newer { path: path.to_owned(), format, known: FORMAT };
    match serde_json::from_slice::<Manifest>(bytes) {
        Ok(manifest) if manifest.format > FORMAT => Err(newer(manifest.format)),
        Ok(Manifest { format: 0, .. }) => Err(damaged("its format is 0".to_owned())),
        Ok(manifest) => Ok(manifest),
        // A newer one may have other fields.
        Err(error) => match serde_json::from_slice(bytes) {
            Ok(Written { format }) if format > FORMAT => Err(newer(format)),
            _ => Err(damaged(error.to_string())),
        },
    }
}

/// What manifests of every format say.
#[derive(Deserialize)]
struct Written {
    #[serde(default = "first_format")]
    format: u32,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(json: &str, expect: &str) {
        let error = parse(Path::new("m"), json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        assert_eq!(error.contains("remove"), !expect.contains("update"), "{error}");
    }

    #[test]
    fn what_a_newer_program_wrote_is_not_called_damaged() {
        check(r#"{"format":3,"anything":{}}"#, "is of format 3, and this program knows 2: update");
        let mut newer = serde_json::json!(Manifest::default());
        newer["format"] = 3.into();
        check(&newer.to_string(), "is of format 3, and this program knows 2: update");
        check(&serde_json::json!(Manifest::default()).to_string(), "its format is 0");
        check(r#"{"format":2}"#, "is damaged: missing field");
        check("", "is damaged");
    }
}
