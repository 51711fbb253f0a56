//! One ingest from sources to version.
//!
//! It must never publish without an audit.
//!
//! Start reading at [`ingest`], then [`run_batch`].

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::audit::Batch;
use crate::check::row::Rules;
use crate::check::{Contract, rule};
use crate::home::DatasetFolder;
use crate::known::KnownRows;
use crate::pipeline;
use crate::read::Format;
use crate::reader::SourcePath;
use crate::stage::ledger::{Ledger, Plan, Stamp};
use crate::stage::{Stage, read_lines};
use crate::version::publish;
use crate::{DataError, DataHome, Manifest, Version, inbox, manifest, sources};

/// How an ingest goes about it.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// A contract in TOML, or a JSON Schema; it becomes the dataset's once the audit passes. `None` uses the
    /// contract of an earlier ingest.
    pub contract: Option<PathBuf>,
    /// When to warn and when to publish nothing, where the contract does not say.
    pub thresholds: Thresholds,
    /// Rules that may pass the fail threshold, or `all`.
    pub allow: Vec<String>,
    /// A longer row goes to quarantine by rule `row_too_long`. At most [`MAX_ROW_BYTES_LIMIT`].
    pub max_row_bytes: usize,
    /// `None` tells it file by file, by name and content.
    pub format: Option<Format>,
    /// Of a folder only files whose path under it fits one of these; `*` stands for any characters. Empty is all.
    pub include: Vec<String>,
    /// Add to the newest version, without what it has of the same sources; else the version is what the sources hold.
    pub append: bool,
    /// Counts the tokens of a text, for contracts with rules about tokens.
    pub count_tokens: Option<CountTokens>,
}

/// A way to count tokens.
#[derive(Clone)]
pub struct CountTokens(Arc<dyn Fn(&str) -> u64 + Send + Sync>);

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestProgress {
    /// Bytes of the sources read, after decompression.
    pub bytes_read: u64,
    /// Bytes of the sources in all, as they were when the ingest began; 0 for a pipe.
    pub size_bytes: u64,
    /// Rows read.
    pub rows_in: u64,
    /// Rows that went to quarantine.
    pub rows_quarantined: u64,
}

/// The largest `max_row_bytes`: a row is held in memory a few times over while it is checked.
pub const MAX_ROW_BYTES_LIMIT: usize = 64 << 20;

impl CountTokens {
    /// Counts by `count`.
    pub fn new(count: impl Fn(&str) -> u64 + Send + Sync + 'static) -> CountTokens {
        CountTokens(Arc::new(count))
    }

    pub(crate) fn count(&self, text: &str) -> u64 {
        (self.0)(text)
    }
}

impl fmt::Debug for CountTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountTokens")
    }
}

impl Default for IngestOptions {
    fn default() -> Self {
        IngestOptions {
            contract: None,
            thresholds: Thresholds { warn: 0.01, fail: 0.05 },
            allow: Vec::new(),
            max_row_bytes: 16 << 20,
            format: None,
            include: Vec::new(),
            append: false,
            count_tokens: None,
        }
    }
}

/// Reads files and folders, puts each bad row into quarantine and publishes the rest as a version: whole, or not at
/// all. Calls `progress` about four times a mebibyte and at the end.
///
/// The same rows under the same contract are the same version: a second ingest says `already_published` and changes
/// nothing, also when newer versions exist. A kill at any moment leaves all versions as they were, and the next ingest
/// of the same sources goes on where it was.
///
/// # Errors
/// [`DataError::AuditFailed`] when a rule passes the fail threshold; [`DataError::NoContract`] and the other errors
/// of a contract; [`DataError::Locked`] while another ingest of the dataset runs; [`DataError::NoRows`]; wrong names,
/// options and files.
pub fn ingest(
    home: &DataHome,
    name: &str,
    paths: &[PathBuf],
    options: &IngestOptions,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Version, DataError> {
    let dataset = home.dataset(name)?;
    let contract = prepare(&dataset, options)?;
    let sources = sources::list(paths, options)?;
    let outcome = run_batch(&dataset, &contract, options, &sources, progress)?;
    // What is added may be nothing new.
    outcome.map_or_else(|| manifest::show(home, name, None), Ok)
}

/// Checks the options and reads the contract.
pub(crate) fn prepare(
    dataset: &DatasetFolder,
    options: &IngestOptions,
) -> Result<Contract, DataError> {
    options.validate()?;
    let path = options.contract.clone().or_else(|| dataset.installed_contract());
    let path = path.ok_or_else(|| DataError::NoContract {
        name: dataset.name.clone(),
        path: dataset.contract.with_extension("toml"),
    })?;
    let contract = Contract::load(&path)?;
    if contract.terms.counts_tokens() && options.count_tokens.is_none() {
        let (name, tokenizer) =
            (dataset.name.clone(), contract.terms.tokenizer.unwrap_or_default());
        return Err(DataError::NoTokenizer { name, tokenizer });
    }
    Ok(contract)
}

/// Reads what is new of the sources and publishes it. `None` when there is nothing new to add.
pub(crate) fn run_batch(
    dataset: &DatasetFolder,
    contract: &Contract,
    options: &IngestOptions,
    sources: &[SourcePath],
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Option<Version>, DataError> {
    let terms = &contract.terms;
    let n_rules = terms.unique.len() + terms.depends.len();
    let bands = terms.near_duplicates.is_some();
    // The lock comes first: what the newest version is must hold until the end.
    let lock = dataset.lock()?;
    let (newest, manifest) = publish::successor(dataset, contract, options.append)?;
    let base = newest.clone().filter(|_| options.append);
    let job = job(contract, options, sources, newest.as_ref());
    let stage = Stage::begin(dataset, lock, &job, (n_rules, bands))?;
    let mut ledger = Ledger::default();
    if let Some(base) = &base {
        let path = dataset.versions.join(base.folder_name()).join("sources.jsonl");
        read_lines(&path, |source| ledger.add(source))?;
    }
    let waiting = inbox::names(dataset)?;
    ledger.forget_sent(&|name| {
        waiting.contains(name) || sources.iter().any(|source| source.name == name)
    });
    let committed = ledger.clone();
    let (mut stage, ledger) = overlay(stage, ledger, sources)?;
    let rules = Rules {
        contract,
        max_row_bytes: options.max_row_bytes,
        count_tokens: options.count_tokens.as_ref(),
    };
    let known = |name: &str| KnownRows::of(dataset, base.as_ref(), name);
    pipeline::run(&mut stage, ledger, sources, rules, &known, progress)?;
    let counts = stage.counts().clone();
    if counts.rows_in == 0 && base.is_some() {
        stage.discard()?;
        return Ok(None);
    }
    if counts.rows_in == 0 {
        stage.discard()?;
        let path = sources.first().map(|source| source.path.clone()).unwrap_or_default();
        return Err(DataError::NoRows { path, blank_lines: counts.blank_lines });
    }
    let batch = Batch { dataset, contract, options, base, committed, counts };
    batch.audit_and_publish(stage, manifest)
}

/// What a staging is for: with another contract, other options or another parent it is of no use.
fn job(
    contract: &Contract,
    options: &IngestOptions,
    sources: &[SourcePath],
    newest: Option<&Manifest>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(contract.hash.as_bytes());
    let parent = newest.map(|newest| newest.folder_name());
    hasher.update(format!("{parent:?} {} {}", options.append, options.max_row_bytes).as_bytes());
    if !options.append {
        for source in sources {
            hasher.update(format!("{}\0{}\0", source.name, source.format).as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Adds what a killed ingest had staged to the ledger; starts over when its sources are no longer what they were.
fn overlay(
    stage: Stage,
    mut ledger: Ledger,
    sources: &[SourcePath],
) -> Result<(Stage, Ledger), DataError> {
    let committed = ledger.clone();
    let exists = |name: &str| sources.iter().any(|source| source.name == name);
    for staged in stage.sources()? {
        ledger.add(staged);
    }
    if !stage.is_resumed() {
        return Ok((stage, ledger));
    }
    for staged in stage.sources()? {
        let source = sources.iter().find(|source| source.name == staged.name);
        let is_same = match source {
            None => staged.finished,
            Some(source) if source.left_out => false,
            Some(source) if ledger.is_settled(&source.name, Stamp::of(&source.path)?) => true,
            Some(source) => {
                let plan = ledger.plan(&source.name, &source.path, source.format, &exists)?;
                !staged.rewritten && matches!(plan, Plan::Known(_) | Plan::GoOn(_))
            }
        };
        if !is_same {
            return Ok((stage.start_over()?, committed));
        }
    }
    Ok((stage, ledger))
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
        self.allow.iter().try_for_each(|rule| rule::must_exist(rule))
    }

    pub(crate) fn allows(&self, rule: &str) -> bool {
        self.allow.iter().any(|allowed| allowed == rule || allowed == rule::ALL)
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
