//! One ingest from source to version.
//!
//! It must never hold more than one row in memory, and never publish without an audit.
//!
//! Start reading at [`ingest`].

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::contract::Contract;
use crate::error::io_error;
use crate::home::DatasetFolder;
use crate::row::RowReader;
use crate::stage::Stage;
use crate::{DataError, DataHome, Manifest, RuleShare, SourceFile, Version, manifest, rules};

/// How an ingest goes about it.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestOptions {
    /// A JSON Schema; it becomes the dataset's contract once the audit passes. `None` uses the
    /// contract of an earlier ingest.
    pub schema: Option<PathBuf>,
    /// When to warn and when to publish nothing.
    pub thresholds: Thresholds,
    /// Rules that may pass the fail threshold, or `all`.
    pub allow: Vec<String>,
    /// A longer row goes to quarantine by rule `row_too_long`. At most [`MAX_ROW_BYTES_LIMIT`].
    pub max_row_bytes: usize,
}

/// Shares of the rows that may break one rule, from 0 to 1. A share that equals its threshold is
/// within it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Above it a rule is among the version's warnings.
    pub warn: f64,
    /// Above it nothing is published.
    pub fail: f64,
}

/// How far an ingest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngestProgress {
    /// Bytes of the source read.
    pub bytes_read: u64,
    /// Bytes of the source in all, as it was when the ingest began; 0 for a pipe.
    pub size_bytes: u64,
    /// Rows read.
    pub rows_in: u64,
    /// Rows that went to quarantine.
    pub rows_quarantined: u64,
}

/// The largest `max_row_bytes`: a row is held in memory a few times over while it is checked.
pub const MAX_ROW_BYTES_LIMIT: usize = 64 << 20;
const PROGRESS_EVERY_BYTES: u64 = 1 << 20;

impl Default for IngestOptions {
    fn default() -> Self {
        IngestOptions {
            schema: None,
            thresholds: Thresholds { warn: 0.01, fail: 0.05 },
            allow: Vec::new(),
            max_row_bytes: 16 << 20,
        }
    }
}

/// Reads a JSONL file, puts each bad row into quarantine and publishes the rest as a version:
/// whole, or not at all. Calls `progress` about once a mebibyte and at the end.
///
/// The same rows under the same contract are the same version: a second ingest says
/// `already_published` and changes nothing, also when newer versions exist. A kill at any moment
/// leaves all versions as they were.
///
/// # Errors
/// [`DataError::AuditFailed`] when a rule passes the fail threshold; [`DataError::NoContract`] and
/// the other errors of a contract; [`DataError::Locked`] while another ingest of the dataset runs;
/// [`DataError::NoRows`]; wrong names, options and files.
pub fn ingest(
    home: &DataHome,
    name: &str,
    source: &Path,
    options: &IngestOptions,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Version, DataError> {
    let dataset = home.dataset(name)?;
    options.validate()?;
    let contract = load_contract(&dataset, options)?;
    let (file, size_bytes) = open_source(source)?;
    let mut stage = Stage::begin(&dataset, &contract)?;
    let mut rows = RowReader::new(file, options.max_row_bytes);
    let mut counts = Counts::default();
    let mut next_report = PROGRESS_EVERY_BYTES;
    while let Some(row) = rows.next_row().map_err(io_error("read", source))? {
        if row.is_blank() {
            counts.blank_lines += 1;
        } else if let Err(violation) = rules::check(&row, options.max_row_bytes, &contract) {
            stage.refuse(&row, &violation)?;
            counts.rows_quarantined += 1;
            *counts.by_rule.entry(violation.rule.into_owned()).or_default() += 1;
        } else {
            stage.accept(row.bytes)?;
            counts.rows_published += 1;
        }
        if rows.bytes_read() >= next_report {
            next_report = rows.bytes_read() + PROGRESS_EVERY_BYTES;
            progress(counts.progress(rows.bytes_read(), size_bytes));
        }
    }
    progress(counts.progress(rows.bytes_read(), size_bytes));
    let read = SourceFile {
        name: source.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        size_bytes: rows.bytes_read(),
        hash: rows.hash().to_hex().to_string(),
    };
    if counts.rows_in() == 0 {
        stage.discard()?;
        let blank_lines = counts.blank_lines;
        return Err(DataError::NoRows { path: source.to_owned(), blank_lines });
    }
    audit_and_publish(&dataset, stage, &contract, counts, read, options)
}

#[derive(Default)]
struct Counts {
    rows_published: u64,
    rows_quarantined: u64,
    blank_lines: u64,
    by_rule: BTreeMap<String, u64>,
}

impl Counts {
    fn rows_in(&self) -> u64 {
        self.rows_published + self.rows_quarantined
    }

    fn progress(&self, bytes_read: u64, size_bytes: u64) -> IngestProgress {
        let (rows_in, rows_quarantined) = (self.rows_in(), self.rows_quarantined);
        IngestProgress { bytes_read, size_bytes, rows_in, rows_quarantined }
    }

    /// The rules that more than `limit` of the rows break, the most frequent first.
    fn over(&self, limit: f64) -> Vec<RuleShare> {
        let rows_in = self.rows_in();
        let mut over: Vec<RuleShare> = self
            .by_rule
            .iter()
            .filter(|&(_, &rows)| rows as f64 > limit * rows_in as f64)
            .map(|(rule, &rows)| RuleShare { rule: rule.clone(), rows, rows_in, limit })
            .collect();
        over.sort_by_key(|share| std::cmp::Reverse(share.rows));
        over
    }
}

impl IngestOptions {
    fn validate(&self) -> Result<(), DataError> {
        let Thresholds { warn, fail } = self.thresholds;
        for (field, value) in [("the warn threshold", warn), ("the fail threshold", fail)] {
            if !(0.0..=1.0).contains(&value) {
                let (value, limit) = (value.to_string(), "between 0 and 1");
                return Err(DataError::InvalidOption { field, value, limit });
            }
        }
        if !(1..=MAX_ROW_BYTES_LIMIT).contains(&self.max_row_bytes) {
            return Err(DataError::InvalidOption {
                field: "max_row_bytes",
                value: self.max_row_bytes.to_string(),
                limit: "between 1 and 67108864 (64 MiB)",
            });
        }
        self.allow.iter().try_for_each(|rule| rules::must_exist(rule))
    }

    fn allows(&self, rule: &str) -> bool {
        self.allow.iter().any(|allowed| allowed == rule || allowed == rules::ALL)
    }
}

fn load_contract(dataset: &DatasetFolder, options: &IngestOptions) -> Result<Contract, DataError> {
    if let Some(schema) = &options.schema {
        return Contract::load(schema);
    }
    if dataset.contract.exists() {
        return Contract::load(&dataset.contract);
    }
    Err(DataError::NoContract { name: dataset.name.clone(), path: dataset.contract.clone() })
}

/// Returns the file and its size.
fn open_source(source: &Path) -> Result<(File, u64), DataError> {
    let file = File::open(source).map_err(io_error("open the source", source))?;
    let metadata = file.metadata().map_err(io_error("read the size of", source))?;
    if metadata.is_dir() {
        return Err(DataError::SourceIsFolder { path: source.to_owned() });
    }
    if is_device(&metadata) {
        return Err(DataError::SourceIsDevice { path: source.to_owned() });
    }
    Ok((file, metadata.len()))
}

/// Whether reading may never end. Pipes may be sources.
#[cfg(unix)]
fn is_device(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_char_device() || metadata.file_type().is_block_device()
}

#[cfg(not(unix))]
fn is_device(_metadata: &std::fs::Metadata) -> bool {
    false
}

fn audit_and_publish(
    dataset: &DatasetFolder,
    stage: Stage<'_>,
    contract: &Contract,
    counts: Counts,
    source: SourceFile,
    options: &IngestOptions,
) -> Result<Version, DataError> {
    let mut failures = counts.over(options.thresholds.fail);
    failures.retain(|share| !options.allows(&share.rule));
    let warnings = counts.over(options.thresholds.warn);
    let mut published = manifest::published(dataset)?;
    let version = stage.version();
    let newest = published.first();
    let manifest = Manifest {
        parent: newest.map(|newest| newest.version.clone()),
        sequence: newest.map_or(1, |newest| newest.sequence + 1),
        contract_hash: contract.hash.to_hex().to_string(),
        rows_in: counts.rows_in(),
        rows_published: counts.rows_published,
        rows_quarantined: counts.rows_quarantined,
        blank_lines: counts.blank_lines,
        by_rule: counts.by_rule,
        created_at_ms: now_ms(),
        version,
        source,
    };
    if !failures.is_empty() {
        let report = stage.keep_report(&manifest)?;
        return Err(DataError::AuditFailed { name: dataset.name.clone(), failures, report });
    }
    // Before the rename: a kill between the two leaves a contract that its user chose, never a
    // version without one.
    contract.install(&dataset.contract)?;
    if let Some(at) = published.iter().position(|old| old.version == manifest.version) {
        let old = published.swap_remove(at);
        // Another source may have the same good rows and other bad ones; those are not lost.
        if manifest.rows_quarantined > 0 && manifest.source.hash != old.source.hash {
            stage.keep_report(&manifest)?;
        } else {
            stage.discard()?;
        }
        let folder = dataset.versions.join(&old.version);
        return Ok(Version { manifest: old, already_published: true, warnings, folder });
    }
    let folder = stage.publish(&manifest)?;
    Ok(Version { manifest, already_published: false, warnings, folder })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
