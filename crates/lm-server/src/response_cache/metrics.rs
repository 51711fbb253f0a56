//! What `GET /metrics` says of the response cache.
//!
//! Start reading at [`write`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::app::App;
use crate::exposition::Exposition;

/// Nothing, where the cache is off.
pub(crate) fn write(page: &mut Exposition, app: &App) {
    let cache = &app.response_cache;
    if !cache.is_on() {
        return;
    }
    let counts = &cache.counts;
    let counters: [(&str, &str, &AtomicU64); 8] = [
        ("hits", "Requests whose answer was there.", &counts.hits),
        ("shared", "Requests that joined the computation of an equal one.", &counts.shared),
        ("misses", "Requests whose answer was not there.", &counts.misses),
        ("bypasses", "Requests that the cache has no part in.", &counts.bypassed),
        (
            "handed_on",
            "Times that a request computed because the equal one that it waited for had ended.",
            &counts.handed_on,
        ),
        ("mismatches", "Hits that were another answer when computed again.", &counts.mismatches),
        (
            "unchecked",
            "Hits that were to be computed again and were not: no idle slot, or another model.",
            &counts.unchecked,
        ),
        (
            "verdicts_unread",
            "Looks for what others say of answers that failed; what was missed is read when one succeeds.",
            &counts.unread,
        ),
    ];
    for (name, help, value) in counters {
        let name = format!("lastmile_response_cache_{name}_total");
        page.single(&name, "counter", help, &[], value.load(Relaxed));
    }
    let (identical, mismatches) = (counts.identical.load(Relaxed), counts.mismatches.load(Relaxed));
    let name = "lastmile_response_cache_recomputed_total";
    let help = "Hits that were computed again in idle slots.";
    page.single(name, "counter", help, &[], identical + mismatches);
    let (n_entries, n_bytes, evicted, n_too_large) = {
        let table = cache.table();
        (table.n_entries(), table.n_bytes(), table.n_evicted(), table.n_too_large())
    };
    let name = "lastmile_response_cache_evictions_total";
    page.family(name, "counter", "Answers that were forgotten, by why.");
    for (reason, n) in evicted {
        page.sample(name, &[("reason", reason)], n);
    }
    let name = "lastmile_response_cache_too_large_total";
    let help = "Answers that were not kept because they are larger than the whole cache.";
    page.single(name, "counter", help, &[], n_too_large);
    page.single("lastmile_response_cache_entries", "gauge", "Answers in it.", &[], n_entries);
    page.single("lastmile_response_cache_bytes", "gauge", "Bytes of those.", &[], n_bytes);
    let limit = cache.options.max_bytes;
    let name = "lastmile_response_cache_bytes_limit";
    page.single(name, "gauge", "Bytes that they may take.", &[], limit);
}
