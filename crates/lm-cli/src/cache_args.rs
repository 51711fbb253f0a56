//! What `serve` can be told about the prefix cache on disk.

use std::path::PathBuf;

use clap::Args;
use lastmile::DiskCacheConfig;

#[derive(Clone, Debug, Args)]
pub(crate) struct CacheArgs {
    /// Keep the prefix cache in this folder over restarts; it holds prompts.
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "no_prefix_cache",
        env = "LASTMILE_CACHE_DIR"
    )]
    cache_dir: Option<PathBuf>,
    /// Bytes of that folder; the blocks that were used longest ago make room.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 4 << 30,
        hide_short_help = true,
        env = "LASTMILE_CACHE_DISK_BYTES"
    )]
    cache_disk_bytes: u64,
}

impl CacheArgs {
    /// Where the cache is kept, if it is.
    pub(crate) fn config(&self) -> Option<DiskCacheConfig> {
        let folder = self.cache_dir.clone()?;
        Some(DiskCacheConfig { folder, max_bytes: self.cache_disk_bytes })
    }
}

/// Whether tokens are guessed and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Speculate {
    /// Where it is expected to pay.
    Auto,
    /// Never.
    Off,
}
