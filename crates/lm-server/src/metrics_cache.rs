//! What `GET /metrics` says of the prefix cache: why prompts missed it, and what is on disk.
//!
//! It must never wait for the engine or the disk.
//!
//! Start reading at [`prefix_cache`].

use lastmile::BlockStoreSnapshot;

use crate::exposition::Exposition;
use crate::metric_table::Served;

/// Name, kind, help and value of what is said of each model with a cache on disk.
type Row = (&'static str, &'static str, &'static str, fn(&BlockStoreSnapshot) -> u64);

const ROWS: [Row; 8] = [
    ("hits_total", "counter", "KV blocks that came from disk in time.", |s| s.hit_blocks),
    (
        "misses_total",
        "counter",
        "KV blocks that were asked of the disk and did not come, or not yet.",
        |s| s.asked_blocks.saturating_sub(s.hit_blocks),
    ),
    ("read_bytes_total", "counter", "Bytes of KV blocks read from disk.", |s| s.read_bytes),
    ("written_blocks_total", "counter", "KV blocks written to disk.", |s| s.written_blocks),
    ("written_bytes_total", "counter", "Bytes of KV blocks written to disk.", |s| s.written_bytes),
    (
        "evicted_blocks_total",
        "counter",
        "KV blocks that were removed from disk because there were too many.",
        |s| s.evicted_blocks,
    ),
    ("blocks", "gauge", "KV blocks in the folder, other models' too.", |s| s.n_blocks),
    ("bytes", "gauge", "Bytes of the KV blocks in the folder.", |s| s.n_bytes),
];

pub(crate) fn prefix_cache(page: &mut Exposition, models: &[Served<'_>]) {
    let name = "lastmile_prefix_cache_first_misses_total";
    let help = "Prompts by why their first block that was not in the prefix cache was not.";
    page.family(name, "counter", help);
    for model in models {
        for (reason, n) in model.stats.first_misses {
            let labels = [("model_name", model.info.name.as_str()), ("reason", reason.as_str())];
            page.sample(name, &labels, n);
        }
    }
    let stores = models
        .iter()
        .filter_map(|model| Some((model.info.name.as_str(), model.stats.block_store.as_ref()?)));
    let stores: Vec<(&str, &BlockStoreSnapshot)> = stores.collect();
    if stores.is_empty() {
        return;
    }
    for (name, kind, help, value) in ROWS {
        let name = format!("lastmile_disk_cache_{name}");
        page.family(&name, kind, help);
        for (model, store) in &stores {
            page.sample(&name, &[("model_name", *model)], value(store));
        }
    }
    let name = "lastmile_disk_cache_dropped_blocks_total";
    page.family(name, "counter", "KV blocks that were not written to disk, by why.");
    for (model, store) in &stores {
        for (reason, n) in store.dropped {
            page.sample(name, &[("model_name", *model), ("reason", reason)], n);
        }
    }
    let name = "lastmile_disk_cache_unusable_blocks_total";
    page.family(name, "counter", "KV blocks on disk that were of no use, by why.");
    for (model, store) in &stores {
        for (reason, n) in store.unusable {
            page.sample(name, &[("model_name", *model), ("reason", reason)], n);
        }
    }
}
