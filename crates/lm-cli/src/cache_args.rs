//! What `serve` can be told about the prefix cache on disk and the response cache.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lastmile::DiskCacheConfig;
use lm_server::ResponseCacheOptions;

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
    /// Memory for whole answers that are told again to the same key's equal requests, such as 64MiB; 0 keeps none.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "0",
        value_parser = size_bytes,
        hide_short_help = true,
        env = "LASTMILE_RESPONSE_CACHE"
    )]
    response_cache: usize,
    /// Seconds after which a kept answer is computed anew.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3600,
        value_parser = clap::value_parser!(u64).range(1..=31_536_000),
        hide_short_help = true
    )]
    response_cache_age: u64,
    /// One in N answers that are told again is also computed again, in an idle slot, and compared; 0 is none.
    #[arg(long, value_name = "N", default_value_t = 100, hide_short_help = true)]
    response_cache_recheck: u64,
    /// Routes whose answers are told again although they were drawn without a seed.
    #[arg(long, value_name = "ROUTE", value_delimiter = ',', hide_short_help = true)]
    response_cache_sampled: Vec<String>,
}

/// Bytes, as a number or with `KiB`, `MiB` or `GiB` behind it.
fn size_bytes(text: &str) -> Result<usize, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let found = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(*unit)?, *bytes)));
    let (number, unit) = found.unwrap_or((text, 1));
    let number: Option<usize> = number.trim_end().parse().ok();
    let size = number.and_then(|number| number.checked_mul(unit));
    size.ok_or_else(|| {
        "must be a number of bytes, or one with KiB, MiB or GiB behind it".to_owned()
    })
}

impl CacheArgs {
    /// Where the cache is kept, if it is.
    pub(crate) fn config(&self) -> Option<DiskCacheConfig> {
        let folder = self.cache_dir.clone()?;
        Some(DiskCacheConfig { folder, max_bytes: self.cache_disk_bytes })
    }

    /// What is told again.
    pub(crate) fn responses(&self) -> ResponseCacheOptions {
        ResponseCacheOptions {
            max_bytes: self.response_cache,
            max_age: Duration::from_secs(self.response_cache_age),
            recheck_every: self.response_cache_recheck,
            sampled_routes: self.response_cache_sampled.clone(),
        }
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

#[cfg(test)]
mod tests {
    use super::size_bytes;

    #[test]
    fn sizes_have_units() {
        let all = ["0", "12", "3KiB", "64MiB", "2 GiB"].map(|text| size_bytes(text).ok());
        assert_eq!(all, [Some(0), Some(12), Some(3072), Some(64 << 20), Some(2 << 30)]);
        for wrong in ["", "MiB", "-1", "1.5MiB", "64MB", "99999999999GiB"] {
            assert!(size_bytes(wrong).is_err(), "{wrong:?} was taken for a size");
        }
    }
}
