//! Rows that others send: where they wait, and their receipts.
//!
//! It must never drop what was taken, and never take the same rows twice.
//!
//! ```text
//! inbox/lock            held while somebody looks and renames; its number changes with what is refused
//! inbox/body-ID.part    a body that is being received; locked by who receives it
//! inbox/FILE.FORMAT     a body that waits; FILE is made of its key
//! inbox/keys/FILE       its receipt, which outlives it
//! ```
//!
//! Start reading at [`Receipt`], then [`settle`].

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::check::rule;
use crate::error::io_error;
use crate::home::{DatasetFolder, entries, replace_whole, sync_folder};
use crate::ingest::now_ms;
use crate::read::Format;
use crate::reader::SourcePath;
use crate::refused::{self, Body};
use crate::stage::ledger::{INBOX, SourceFile, Stamp, Tally};
use crate::stage::read_lines;
use crate::{DataError, DataHome, manifest};

/// The end of the names of bodies that are being received.
pub(crate) const PART: &str = ".part";
pub(crate) const KEYS: &str = "keys";

/// What is known of a body under its key, from when it was taken on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The key by which the same rows are known again.
    pub key: String,
    /// BLAKE3 of the bytes that were sent, in hexadecimal.
    pub hash: String,
    /// Their format.
    pub format: Format,
    /// How many they are.
    pub size_bytes: u64,
    /// When they were taken, in Unix milliseconds.
    pub offered_at_ms: u64,
    /// Who sent them, where senders have names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// How far they are.
    #[serde(flatten)]
    pub fate: Fate,
}

/// How far a body is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Fate {
    /// It waits to be added.
    Waiting,
    /// Its rows were published or went to quarantine.
    Added {
        /// A version that has them; `None` when there was no row.
        version: Option<String>,
        /// When, in Unix milliseconds.
        at_ms: u64,
        /// What became of them.
        rows: Tally,
    },
    /// Too many of its rows break a rule; or what could be read of it was added, and not all could. It waits until the
    /// contract is another one.
    Refused {
        /// Which rules, and how many rows break them; or how many rows were added.
        why: String,
        /// BLAKE3 of the contract, in hexadecimal.
        contract_hash: String,
        /// When, in Unix milliseconds.
        at_ms: u64,
    },
}

/// What became of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What is known of it.
    pub receipt: Receipt,
    /// The same had been taken before; nothing changed.
    pub already_taken: bool,
}

impl Receipt {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a receipt of texts and numbers is JSON: this is a bug")
    }
}

/// What is known of the body that was sent under a key; `None` when none was taken.
///
/// # Errors
/// [`DataError::InvalidName`], [`DataError::Damaged`].
pub fn receipt(home: &DataHome, name: &str, key: &str) -> Result<Option<Receipt>, DataError> {
    let dataset = home.dataset(name)?;
    if !dataset.inbox.is_dir() {
        return Ok(None);
    }
    // Between two steps of who takes it or adds it, a receipt says too little.
    let _lock = dataset.lock_inbox()?;
    counted(&dataset, key)
}

/// The datasets for which something waits.
///
/// # Errors
/// [`DataError::Io`].
pub fn awaited(home: &DataHome) -> Result<Vec<String>, DataError> {
    let mut awaited = Vec::new();
    for name in entries(&home.0.join("datasets"))? {
        // What has no name of a dataset is none.
        let Ok(dataset) = home.dataset(&name) else { continue };
        if !pending(&dataset)?.is_empty() {
            awaited.push(name);
        }
    }
    awaited.sort_unstable();
    Ok(awaited)
}

/// Whether rows of the dataset can be held against something.
///
/// # Errors
/// [`DataError::InvalidName`].
pub fn has_contract(home: &DataHome, name: &str) -> Result<bool, DataError> {
    Ok(home.dataset(name)?.installed_contract().is_some())
}

/// A key of any characters as a file's name.
pub(crate) fn file_of(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex()[..32].to_owned()
}

pub(crate) fn receipt_path(dataset: &DatasetFolder, file: &str) -> PathBuf {
    dataset.inbox.join(KEYS).join(file)
}

/// The receipt of a body that was taken. The inbox must be locked.
pub(crate) fn counted(dataset: &DatasetFolder, key: &str) -> Result<Option<Receipt>, DataError> {
    let file = file_of(key);
    let Some(receipt) = read_receipt(dataset, &file)? else { return Ok(None) };
    let body = dataset.inbox.join(format!("{file}.{}", receipt.format));
    // Whoever adds a body says so before it is removed; one that never came was not taken.
    Ok((receipt.fate != Fate::Waiting || body.exists()).then_some(receipt))
}

/// The receipt in a file of [`KEYS`], whether its body ever came or not.
pub(crate) fn read_receipt(
    dataset: &DatasetFolder,
    file: &str,
) -> Result<Option<Receipt>, DataError> {
    let path = receipt_path(dataset, file);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(io_error("read", &path))?,
    };
    let damaged = |error: serde_json::Error| DataError::Damaged { path, detail: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// The format of a body that waits; `None` for the other files of an inbox.
pub(crate) fn format_of(name: &str) -> Option<Format> {
    name.rsplit_once('.')?.1.parse().ok()
}

/// Whether a path is that of a body that waits, or waited, for the dataset.
pub(crate) fn is_body(dataset: &DatasetFolder, path: &Path) -> bool {
    let Ok(file) = path.strip_prefix(&dataset.inbox) else { return false };
    // What lies deeper is a receipt.
    file.components().count() == 1 && file.to_str().is_some_and(|file| format_of(file).is_some())
}

/// The bodies that were not removed yet, by the names of their sources.
pub(crate) fn names(dataset: &DatasetFolder) -> Result<HashSet<String>, DataError> {
    if !dataset.inbox.is_dir() {
        return Ok(HashSet::new());
    }
    // What is removed is gone for good when the lock is given back, so that its entry may go, too.
    let _lock = dataset.lock_inbox()?;
    let mut names = entries(&dataset.inbox)?;
    names.retain(|name| format_of(name).is_some());
    Ok(names.into_iter().map(|name| format!("{INBOX}{name}")).collect())
}

/// What waits to be added, what came first first.
pub(crate) fn pending(dataset: &DatasetFolder) -> Result<Vec<SourcePath>, DataError> {
    let mut sources = Vec::new();
    for name in entries(&dataset.inbox)? {
        let Some(format) = format_of(&name) else { continue };
        let path = dataset.inbox.join(&name);
        let at = Stamp::of(&path).map_or(0, |stamp| stamp.modified_ns);
        let name = format!("{INBOX}{name}");
        sources.push((at, SourcePath { name, path, format, left_out: false }));
    }
    sources.sort_by(|(at, a), (other_at, b)| (at, &a.name).cmp(&(other_at, &b.name)));
    Ok(sources.into_iter().map(|(_, source)| source).collect())
}

/// The name of a body's receipt, by the name of its source.
pub(crate) fn receipt_of(source: &str) -> &str {
    let file = body_of(source);
    file.rsplit_once('.').map_or(file, |(file, _)| file)
}

/// The name of a body's file, by the name of its source.
fn body_of(source: &str) -> &str {
    source.strip_prefix(INBOX).unwrap_or(source)
}

/// Marks bodies that break this contract: they are there and not read.
pub(crate) fn leave_out_refused(
    dataset: &DatasetFolder,
    found: &mut [SourcePath],
    contract: &str,
) -> Result<(), DataError> {
    for source in found {
        let receipt = read_receipt(dataset, receipt_of(&source.name))?;
        source.left_out = receipt.is_some_and(|receipt| {
            matches!(receipt.fate, Fate::Refused { contract_hash, .. } if contract_hash == contract)
        });
    }
    Ok(())
}

/// The receipt of a body that came without one, as by hand: the name of its file is its key.
fn of_body(dataset: &DatasetFolder, source: &str) -> Result<Receipt, DataError> {
    let name = body_of(source);
    let path = dataset.inbox.join(name);
    let format = format_of(name).ok_or_else(|| DataError::UnknownFormat { path: path.clone() })?;
    let mut hasher = blake3::Hasher::new();
    let read = File::open(&path).and_then(|body| hasher.update_reader(body).map(|_| ()));
    read.map_err(io_error("read", &path))?;
    let Stamp { size_bytes, modified_ns } = Stamp::of(&path)?;
    Ok(Receipt {
        key: receipt_of(source).to_owned(),
        hash: hasher.finalize().to_hex().to_string(),
        format,
        size_bytes,
        offered_at_ms: u64::try_from(modified_ns / 1_000_000).unwrap_or(u64::MAX),
        sender: None,
        fate: Fate::Waiting,
    })
}

/// Notes that bodies break the contract, also of those that came without a receipt: else they would be tried without end.
pub(crate) fn refuse(
    dataset: &DatasetFolder,
    sources: &[String],
    contract_hash: &str,
    why: &str,
) -> Result<(), DataError> {
    let keys = dataset.inbox.join(KEYS);
    fs::create_dir_all(&keys).map_err(io_error("create the folder", &keys))?;
    let lock = dataset.lock_inbox()?;
    for name in sources {
        let file = receipt_of(name);
        let noted = read_receipt(dataset, file)?.map_or_else(|| of_body(dataset, name), Ok);
        let receipt = match noted {
            // Somebody else may have settled it.
            Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => continue,
            noted => noted?,
        };
        // Somebody else may have added it meanwhile.
        if matches!(receipt.fate, Fate::Added { .. }) {
            continue;
        }
        let (why, contract_hash) = (why.to_owned(), contract_hash.to_owned());
        let fate = Fate::Refused { why, contract_hash, at_ms: now_ms() };
        let receipt = Receipt { fate, ..receipt };
        let body = Body { sender: receipt.sender.clone(), size_bytes: receipt.size_bytes };
        let write = || replace_whole(&receipt_path(dataset, file), &receipt.to_json());
        refused::note(dataset, &lock, body_of(name), Some(body), write)?;
    }
    Ok(())
}

/// Of what breaks one of these rules the quarantine has the beginning only.
const CUT: [&str; 2] = [rule::UNREADABLE, rule::ROW_TOO_LONG];

/// Keeps a body of which not all is in the dataset or its quarantine, as one that is refused. Whether it was not told
/// so before.
fn keep_cut(
    dataset: &DatasetFolder,
    name: &str,
    rows: &Tally,
    contract_hash: &str,
) -> Result<bool, DataError> {
    let Tally { rows_published, rows_quarantined, .. } = rows;
    let why = format!(
        "{rows_published} of its rows are published and {rows_quarantined} in quarantine, of which those by {} are not \
         whole: the body is kept",
        CUT.join(" and ")
    );
    let told = match read_receipt(dataset, receipt_of(name))?.map(|receipt| receipt.fate) {
        Some(Fate::Refused { why: told, contract_hash, .. }) if told == why => Some(contract_hash),
        _ => None,
    };
    if told.as_deref() != Some(contract_hash) {
        refuse(dataset, &[name.to_owned()], contract_hash, &why)?;
    }
    Ok(told.is_none())
}

/// Notes in their receipts what became of bodies that were added, then removes them, but for those of which not
/// all is kept. Returns what became of all rows.
pub(crate) fn settle(
    dataset: &DatasetFolder,
    read: &[SourcePath],
    contract_hash: &str,
) -> Result<Tally, DataError> {
    let is_added = |s: &&SourcePath| !s.left_out && s.path.starts_with(&dataset.inbox);
    let added: Vec<&SourcePath> = read.iter().filter(is_added).collect();
    let mut sum = Tally::default();
    if added.is_empty() {
        return Ok(sum);
    }
    let newest = manifest::last(dataset)?;
    let mut tallies: HashMap<String, Tally> = HashMap::new();
    if let Some(newest) = &newest {
        let path = dataset.versions.join(newest.folder_name()).join("sources.jsonl");
        read_lines(&path, |source: SourceFile| {
            tallies.extend(source.tally.map(|tally| (source.name, tally)));
        })?;
    }
    let mut noted = Vec::new();
    for source in added {
        let tally = tallies.remove(&source.name);
        let version = newest.as_ref().filter(|_| tally.is_some());
        let version = version.map(|newest| newest.version.clone());
        let rows = tally.unwrap_or_default();
        let is_cut = CUT.iter().any(|rule| rows.by_rule.contains_key(*rule));
        let told = read_receipt(dataset, receipt_of(&source.name))?;
        // Killed before its body was removed, as older versions could be: it was told so.
        let was_added = told.is_some_and(|told| matches!(told.fate, Fate::Added { .. }));
        if is_cut && !was_added && source.path.exists() {
            if keep_cut(dataset, &source.name, &rows, contract_hash)? {
                sum.add(&rows);
            }
            continue;
        }
        // The disk takes its time for each: who sends gets the lock in between.
        let lock = dataset.lock_inbox()?;
        // Somebody else may have settled it.
        if !source.path.exists() {
            continue;
        }
        let file = receipt_of(&source.name);
        if let Some(receipt) = read_receipt(dataset, file)? {
            let was_refused = matches!(receipt.fate, Fate::Refused { .. });
            let fate = Fate::Added { version, at_ms: now_ms(), rows: rows.clone() };
            let receipt = Receipt { fate, ..receipt };
            let write = || replace_whole(&receipt_path(dataset, file), &receipt.to_json());
            match was_refused {
                true => refused::note(dataset, &lock, body_of(&source.name), None, write)?,
                false => write()?,
            }
        }
        noted.push((&source.path, rows));
    }
    let _lock = dataset.lock_inbox()?;
    for (path, rows) in noted {
        if remove_if_there(path)? {
            sum.add(&rows);
        }
    }
    // Else a power cut could bring bodies back whose rows are no longer known by their names.
    sync_folder(&dataset.inbox)?;
    Ok(sum)
}

/// Whether there was anything to remove.
pub(crate) fn remove_if_there(path: &Path) -> Result<bool, DataError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).map_err(io_error("remove", path)),
    }
}
