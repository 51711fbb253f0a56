//! What `GET /metrics` says of the prefix cache: why prompts missed it, and what is on disk.
//!
//! It must never wait for the engine or the disk.
//!
//! Start reading at [`prefix_cache`].

use lastmile::{BlockStoreSnapshot, StatsSnapshot};

use crate::exposition::{Exposition, Label};

pub(crate) fn prefix_cache(page: &mut Exposition, stats: &StatsSnapshot, model: &[Label<'_>]) {
    let with =
        |name, value| -> Vec<Label<'_>> { model.iter().copied().chain([(name, value)]).collect() };
    let name = "lastmile_prefix_cache_first_misses_total";
    let help = "Prompts by why their first block that was not in the prefix cache was not.";
    page.family(name, "counter", help);
    for (reason, n) in stats.first_misses {
        page.sample(name, &with("reason", reason.as_str()), n);
    }
    let Some(store) = &stats.block_store else { return };
    totals(page, store, model);
    let name = "lastmile_disk_cache_dropped_blocks_total";
    page.family(name, "counter", "KV blocks that were not written to disk, by why.");
    for (reason, n) in store.dropped {
        page.sample(name, &with("reason", reason), n);
    }
    let name = "lastmile_disk_cache_unusable_blocks_total";
    page.family(name, "counter", "KV blocks on disk that were of no use, by why.");
    for (reason, n) in store.unusable {
        page.sample(name, &with("reason", reason), n);
    }
}

fn totals(page: &mut Exposition, store: &BlockStoreSnapshot, model: &[Label<'_>]) {
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        page.single(&format!("lastmile_disk_cache_{name}"), kind, help, model, value);
    };
    let misses = store.asked_blocks.saturating_sub(store.hit_blocks);
    one("hits_total", "counter", "KV blocks that came from disk in time.", store.hit_blocks);
    let help = "KV blocks that were asked of the disk and did not come, or not yet.";
    one("misses_total", "counter", help, misses);
    one("read_bytes_total", "counter", "Bytes of KV blocks read from disk.", store.read_bytes);
    one("written_blocks_total", "counter", "KV blocks written to disk.", store.written_blocks);
    one("written_bytes_total", "counter", "Bytes of those.", store.written_bytes);
    let help = "KV blocks that were removed from disk because there were too many.";
    one("evicted_blocks_total", "counter", help, store.evicted_blocks);
    one(
        "blocks",
        "gauge",
        "KV blocks on disk, other models' in the same folder too.",
        store.n_blocks,
    );
    one("bytes", "gauge", "Bytes of those.", store.n_bytes);
}
