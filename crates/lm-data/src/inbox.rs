//! Rows that others send: kept safe at once, added to the dataset by whoever watches it.
//!
//! It must never take more than it has room for, and never take the same rows twice.
//!
//! Start reading at [`offer`].

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::io_error;
use crate::home::{DatasetFolder, entries, sync_folder, write_whole};
use crate::read::Format;
use crate::reader::SourcePath;
use crate::stage::ledger::INBOX;
use crate::{DataError, DataHome};

/// What may wait to be added. When there is more, offers are refused: nothing that was taken is ever dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLimits {
    /// Bodies.
    pub n_bodies: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

impl Default for InboxLimits {
    fn default() -> Self {
        InboxLimits { n_bodies: 1_000, size_bytes: 256 << 20 }
    }
}

const MAX_KEY_BYTES: usize = 200;

/// What became of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The key by which the same rows are known again.
    pub key: String,
    /// They had been taken before; nothing changed.
    pub already_taken: bool,
    /// Bodies that wait now.
    pub n_waiting: u64,
}

/// Takes rows of JSON lines for a dataset: when this returns they survive a kill and a power cut. They are validated
/// and published by [`watch`](crate::watch). Without a key the digest of the rows is the key. Back-pressure: the
/// inbox is bounded, and a full one refuses, which a server answers with 429.
///
/// # Errors
/// [`DataError::InboxFull`], [`DataError::KeyReused`], [`DataError::InvalidOption`] for a key that is too long,
/// [`DataError::NoRows`].
pub fn offer(
    home: &DataHome,
    name: &str,
    key: Option<&str>,
    rows: &[u8],
    limits: &InboxLimits,
) -> Result<Taken, DataError> {
    let dataset = home.dataset(name)?;
    if rows.trim_ascii().is_empty() {
        let path = PathBuf::from("the offer");
        return Err(DataError::NoRows { path, blank_lines: 0 });
    }
    if let Some(key) = key.filter(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
        return Err(DataError::InvalidOption {
            field: "the idempotency key",
            value: format!("{} bytes long", key.len()),
            limit: "1 to 200 bytes long",
        });
    }
    let hash = blake3::hash(rows).to_hex().to_string();
    let key = key.map_or_else(|| hash.clone(), str::to_owned);
    let used = |path: PathBuf| -> Result<Option<bool>, DataError> {
        match fs::read(&path) {
            Ok(bytes) if bytes == hash.as_bytes() => Ok(Some(true)),
            Ok(_) => Ok(Some(false)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    };
    let inbox = &dataset.inbox;
    let keys = inbox.join("keys");
    fs::create_dir_all(&keys).map_err(io_error("create the folder", &keys))?;
    // A key of any characters as a file's name.
    let file = blake3::hash(key.as_bytes()).to_hex()[..32].to_owned();
    let (n_waiting, n_bytes) = waiting(&dataset)?;
    let body = inbox.join(format!("{file}.jsonl"));
    let marker = keys.join(&file);
    match used(marker.clone())? {
        Some(false) => return Err(DataError::KeyReused { name: dataset.name, key }),
        Some(true) if body.exists() || !inbox.join(format!("{file}.new")).exists() => {
            return Ok(Taken { key, already_taken: true, n_waiting });
        }
        _ => {}
    }
    let full = |what, value, limit| {
        Err(DataError::InboxFull { name: dataset.name.clone(), what, value, limit })
    };
    if n_waiting >= limits.n_bodies {
        return full("bodies", n_waiting, limits.n_bodies);
    }
    let n_bytes = n_bytes + rows.len() as u64;
    if n_bytes > limits.size_bytes {
        return full("bytes", n_bytes, limits.size_bytes);
    }
    // The marker comes between the body's writing and its rename: a kill before it leaves nothing that counts, and
    // one after it leaves `.new`, by which the same offer is taken again.
    let staged = inbox.join(format!("{file}.new"));
    write_whole(&staged, rows)?;
    write_whole(&marker, hash.as_bytes())?;
    sync_folder(&keys)?;
    fs::rename(&staged, &body).map_err(io_error("take as", &body))?;
    sync_folder(inbox)?;
    Ok(Taken { key, already_taken: false, n_waiting: n_waiting + 1 })
}

fn waiting(dataset: &DatasetFolder) -> Result<(u64, u64), DataError> {
    let (mut n_waiting, mut n_bytes) = (0, 0);
    for source in pending(dataset)? {
        n_waiting += 1;
        n_bytes += source.path.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok((n_waiting, n_bytes))
}

/// What waits to be added.
pub(crate) fn pending(dataset: &DatasetFolder) -> Result<Vec<SourcePath>, DataError> {
    let mut names = entries(&dataset.inbox)?;
    names.retain(|name| name.ends_with(".jsonl"));
    names.sort_unstable();
    let source = |name: String| SourcePath {
        path: dataset.inbox.join(&name),
        name: format!("{INBOX}{name}"),
        format: Format::Jsonl,
        left_out: false,
    };
    Ok(names.into_iter().map(source).collect())
}

/// Removes what was added.
pub(crate) fn settle(dataset: &DatasetFolder, read: &[SourcePath]) -> Result<(), DataError> {
    let is_added = |s: &&SourcePath| !s.left_out && s.path.starts_with(&dataset.inbox);
    for source in read.iter().filter(is_added) {
        fs::remove_file(&source.path).map_err(io_error("remove", &source.path))?;
    }
    Ok(())
}
