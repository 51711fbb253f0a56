//! The prefix cache on disk: a folder of KV blocks, one a file, read and written on a thread of its own.
//!
//! A block is found by its name, which is chained over all tokens before it and the tenant's salt, in the folder
//! of its key: everything that its bits depend on. Whatever is not as it was written is removed and counted, so
//! a process may be killed at any time. It must never know sequences, requests or steps.
//!
//! Whoever may write to the folder can change answers, and whoever may read it sees prompts: it is made for
//! its owner alone.
//!
//! Start reading at [`open`].

mod file;
mod folder;
mod keeper;

use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lm_backend::Backend;
use lm_engine::{BlockStore, block_store};

use crate::LoadError;
use file::Layout;
use folder::Folder;
use keeper::Keeper;

/// A cache holds at least so many blocks.
const LEAST_BLOCKS: u64 = 8;

/// Where the prefix cache is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCacheConfig {
    /// A folder for it alone; made where it is not there. Several models may share it.
    pub folder: PathBuf,
    /// Bytes of all files in it. The blocks that were used longest ago make room. Each process that shares the
    /// folder may exceed it by a tenth until it looks again.
    pub max_bytes: u64,
}

/// The thread that reads and writes.
#[derive(Debug)]
pub(crate) struct DiskCache(JoinHandle<()>);

/// Opens the cache of a model, whose KV depends on `key_facts`, and starts its thread.
///
/// # Errors
/// A backend whose blocks stay where they are, a folder that cannot be used, or too little room.
pub(crate) fn open(
    config: &DiskCacheConfig,
    backend: &dyn Backend,
    key_facts: &[(&'static str, String)],
) -> Result<(DiskCache, BlockStore), LoadError> {
    let spec = backend.spec();
    let block_bytes = backend
        .movable_block_bytes()
        .ok_or_else(|| LoadError::CacheNotMovable { kernel_path: spec.kernel_path.clone() })?;
    let layout = Layout { key: key(key_facts, spec.block_size, block_bytes), block_bytes };
    let least = LEAST_BLOCKS * layout.file_bytes(spec.block_size);
    if config.max_bytes < least {
        return Err(LoadError::CacheTooSmall { max_bytes: config.max_bytes, least });
    }
    let failed =
        |source: io::Error| LoadError::CacheFolder { folder: config.folder.clone(), source };
    let (folder, known) = Folder::open(config, &layout.key).map_err(failed)?;
    let n_known = known.len();
    let (store, ends) = block_store(block_bytes, known);
    let keeper = Keeper::new(folder, layout, ends);
    let thread = std::thread::Builder::new().name("lm-disk-cache".to_owned());
    let thread = thread.spawn(move || keeper.run()).map_err(failed)?;
    tracing::info!(n_known, folder = %config.folder.display(), "the prefix cache is on disk too");
    Ok((DiskCache(thread), store))
}

impl DiskCache {
    /// Waits until what was handed over is written; the engine is gone. A disk that does not answer is left.
    pub(crate) fn finish(self, patience: Duration) {
        let begun = Instant::now();
        while !self.0.is_finished() && begun.elapsed() < patience {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if !self.0.is_finished() {
            tracing::warn!("the disk does not answer: blocks of the prefix cache are not written");
        } else if self.0.join().is_err() {
            tracing::error!("the keeper of the prefix cache panicked");
        }
    }
}

/// What the bits of a block depend on besides its tokens. The context's length is no part of it.
fn key(facts: &[(&'static str, String)], block_size: usize, block_bytes: usize) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let sizes = [("block_size", block_size), ("block_bytes", block_bytes)];
    let sizes = sizes.map(|(name, size)| (name, size.to_string()));
    for (name, value) in facts.iter().chain(&sizes) {
        for text in [name.as_bytes(), value.as_bytes()] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
        }
    }
    *hasher.finalize().as_bytes()
}

/// The path of a key's blocks.
fn key_folder(folder: &Path, key: &[u8; 32]) -> PathBuf {
    folder.join(crate::release::hex(&key[..16]))
}
