//! What `/metrics` says of rows that others send, by dataset.
//!
//! It must never look at the disk: what waits is as it was when it was last looked.
//!
//! Start reading at [`write`].

use lm_ops::{IngestCounts, Ingests};

use crate::app::App;
use crate::exposition::Exposition;

/// Name, kind, help and value.
type Number = (&'static str, &'static str, &'static str, fn(&IngestCounts) -> u64);

const NUMBERS: [Number; 10] = [
    ("lastmile_ingest_bodies_total", "counter", "Bodies of rows taken, each once.", |counts| {
        counts.bodies
    }),
    ("lastmile_ingest_bytes_total", "counter", "Bytes of those.", |counts| counts.bytes),
    (
        "lastmile_ingest_refused_batches_total",
        "counter",
        "Batches that did not pass their audit.",
        |counts| counts.refused_batches,
    ),
    (
        "lastmile_ingest_refused_bodies_total",
        "counter",
        "Bodies that were refused for it.",
        |counts| counts.refused_bodies,
    ),
    ("lastmile_ingest_rows_total", "counter", "Rows of bodies that were added.", |counts| {
        counts.rows.rows_in
    }),
    ("lastmile_ingest_published_rows_total", "counter", "Those that were published.", |counts| {
        counts.rows.rows_published
    }),
    ("lastmile_ingest_backlog_bodies", "gauge", "Bodies that wait to be added.", |counts| {
        counts.backlog.n_bodies
    }),
    (
        "lastmile_ingest_backlog_bytes",
        "gauge",
        "Their bytes, and those of bodies that are being received.",
        |counts| counts.backlog.size_bytes + counts.backlog.receiving_bytes,
    ),
    (
        "lastmile_ingest_refused_bodies",
        "gauge",
        "Bodies that were refused, and wait for another contract.",
        |counts| counts.backlog.refused_bodies,
    ),
    ("lastmile_ingest_refused_bytes", "gauge", "Their bytes.", |counts| {
        counts.backlog.refused_bytes
    }),
];

pub(crate) fn write(page: &mut Exposition, app: &App) {
    let Some(ingests) = app.ops.ingests() else { return };
    let all = ingests.counts();
    for (name, kind, help, value) in NUMBERS {
        page.family(name, kind, help);
        for (source, counts) in &all {
            page.sample(name, &[("source", source.as_str())], value(counts));
        }
    }
    let name = "lastmile_ingest_quarantined_rows_total";
    page.family(name, "counter", "Rows of added bodies that went to quarantine, by rule.");
    for (source, counts) in &all {
        for (rule, n_rows) in &counts.rows.by_rule {
            page.sample(name, &[("source", source.as_str()), ("rule", rule.as_str())], n_rows);
        }
    }
    limits(page, ingests);
}

fn limits(page: &mut Exposition, ingests: &Ingests) {
    let limits = ingests.limits();
    let help = "Bodies that may wait, by dataset.";
    page.single("lastmile_ingest_backlog_bodies_limit", "gauge", help, &[], limits.n_bodies);
    let help = "Bytes that may wait, by dataset.";
    page.single("lastmile_ingest_backlog_bytes_limit", "gauge", help, &[], limits.size_bytes);
}
