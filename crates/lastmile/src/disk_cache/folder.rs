//! The folder: which blocks are there, and which make room when there are too many.
//!
//! Only files with the names of blocks are read, counted or removed.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lm_scheduler::BlockHash;

use super::{DiskCacheConfig, key_folder};
use crate::release::hex;

/// Files in a cache, whatever their bytes.
const MAX_FILES: u64 = 1 << 17;
/// What is left when there were too many, in tenths.
const LEFT_TENTHS: u64 = 9;
/// A file that is being written is older than this only where its process ended.
const UNFINISHED_AGE: Duration = Duration::from_secs(600);

/// The cache's folder as far as it was last seen, and what this process wrote since.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    own: PathBuf,
    max_bytes: u64,
    n_bytes: u64,
    n_files: u64,
    n_written: u64,
}

/// A file of a block.
struct Found {
    path: PathBuf,
    hash: BlockHash,
    bytes: u64,
    used: SystemTime,
}

impl Folder {
    /// Opens the folder, made where it is not there, removes what killed processes left behind, and lists the
    /// blocks of `key`.
    pub(super) fn open(
        config: &DiskCacheConfig,
        key: &[u8; 32],
    ) -> io::Result<(Self, Vec<BlockHash>)> {
        let own = key_folder(&config.folder, key);
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&own)?;
        let (root, max_bytes) = (config.folder.clone(), config.max_bytes);
        let mut folder = Folder { root, own, max_bytes, n_bytes: 0, n_files: 0, n_written: 0 };
        let found = folder.scan()?;
        let of_key = found.iter().filter(|file| file.path.parent() == Some(&folder.own));
        let known = of_key.map(|file| file.hash).collect();
        Ok((folder, known))
    }

    /// Blocks and bytes of all caches in the folder.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.n_files, self.n_bytes)
    }

    pub(super) fn path(&self, hash: &BlockHash) -> PathBuf {
        self.own.join(hex(hash.as_bytes()) + ".kv")
    }

    /// The path of a file that is not whole yet. Each is used once.
    pub(super) fn unfinished(&mut self, hash: &BlockHash) -> PathBuf {
        self.n_written += 1;
        let (pid, n) = (std::process::id(), self.n_written);
        self.own.join(format!("{}.{pid}.{n}.tmp", hex(hash.as_bytes())))
    }

    /// A file of so many bytes was added.
    pub(super) fn added(&mut self, bytes: u64) {
        (self.n_files, self.n_bytes) = (self.n_files + 1, self.n_bytes + bytes);
    }

    /// Removes a block. Whether it was there.
    pub(super) fn remove(&mut self, hash: &BlockHash) -> bool {
        let path = self.path(hash);
        let bytes = path.symlink_metadata().map_or(0, |file| file.len());
        let is_removed = remove_file(&path);
        if is_removed {
            self.n_files = self.n_files.saturating_sub(1);
            self.n_bytes = self.n_bytes.saturating_sub(bytes);
        }
        is_removed
    }

    /// Sees to it that a file of so many bytes may be added: where there are too many, those that were used
    /// longest ago are removed until a tenth is free. Those of this cache that were, and how many in all.
    pub(super) fn make_room(&mut self, bytes: u64) -> io::Result<(Vec<BlockHash>, u64)> {
        if self.n_files < MAX_FILES && self.n_bytes + bytes <= self.max_bytes {
            return Ok((Vec::new(), 0));
        }
        let (own, mut removed, mut n_removed) = (self.own.clone(), Vec::new(), 0);
        let mut found = self.scan()?;
        found.sort_by_key(|file| file.used);
        let (mut n_files, mut n_bytes) = self.size();
        let (max_bytes, max_files) =
            (self.max_bytes / 10 * LEFT_TENTHS, MAX_FILES / 10 * LEFT_TENTHS);
        for file in found {
            if n_files < max_files && n_bytes + bytes <= max_bytes {
                break;
            }
            if remove_file(&file.path) {
                (n_files, n_bytes, n_removed) = (n_files - 1, n_bytes - file.bytes, n_removed + 1);
                if file.path.parent() == Some(&own) {
                    removed.push(file.hash);
                }
            }
        }
        (self.n_files, self.n_bytes) = (n_files, n_bytes);
        Ok((removed, n_removed))
    }

    /// The blocks of all caches in the folder, which are counted anew.
    fn scan(&mut self) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        for entry in self.root.read_dir()? {
            let entry = entry?;
            if is_hex(&entry.file_name().to_string_lossy(), 32) && entry.file_type()?.is_dir() {
                scan_one(&entry.path(), &mut all)?;
            }
        }
        self.n_files = all.len() as u64;
        self.n_bytes = all.iter().map(|file| file.bytes).sum();
        Ok(all)
    }
}

/// Lists the blocks of one key.
fn scan_one(folder: &Path, all: &mut Vec<Found>) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some((hash, rest)) = name.split_once('.') else { continue };
        // What another process removed meanwhile is not there.
        let Ok(file) = entry.metadata() else { continue };
        let (Some(hash), true) = (block_hash(hash), file.is_file()) else { continue };
        let used = file.modified()?;
        if rest == "kv" {
            all.push(Found { path: entry.path(), hash, bytes: file.len(), used });
        } else if rest.ends_with(".tmp") && is_left_behind(rest, used) {
            remove_file(&entry.path());
        }
    }
    Ok(())
}

/// Whether nobody will finish the file with this end of its name.
fn is_left_behind(rest: &str, used: SystemTime) -> bool {
    let pid = rest.split('.').next().and_then(|pid| pid.parse::<u32>().ok());
    let has_ended = pid.is_some_and(|pid| {
        cfg!(target_os = "linux") && !Path::new("/proc").join(pid.to_string()).exists()
    });
    has_ended || used.elapsed().is_ok_and(|age| age > UNFINISHED_AGE)
}

/// Whether the file was there, and is not any more.
fn remove_file(path: &Path) -> bool {
    match std::fs::remove_file(path) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "a cached block cannot be removed");
            false
        }
    }
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn block_hash(text: &str) -> Option<BlockHash> {
    if !is_hex(text, 64) {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(BlockHash::from_bytes(bytes))
}
