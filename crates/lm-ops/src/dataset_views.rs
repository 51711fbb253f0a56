//! What is shown of a dataset.
//!
//! It must never read a file.
//!
//! Start reading at [`VersionView`].

use std::collections::BTreeMap;

use lm_data::{Encoding, Manifest, QuarantinedRow, Stratum};
use serde::Serialize;

use crate::Cut;

/// Characters of a row.
pub(crate) const SHOWN_CHARS: usize = 2_000;

/// One version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VersionView {
    /// Its digest.
    pub version: String,
    /// The one before it.
    pub parent: Option<String>,
    /// From 1, by time of publication.
    pub sequence: u64,
    /// Unix milliseconds.
    pub created_at_ms: u64,
    /// Rows read for it and those it builds on.
    pub rows_in: u64,
    /// Rows read for it alone.
    pub batch_rows_in: u64,
    /// Rows in it.
    pub rows_published: u64,
    /// Rows in its quarantine.
    pub rows_quarantined: u64,
    /// Quarantined rows that were published after all.
    pub rows_released: u64,
    /// Quarantined rows by the rule that each broke first.
    pub by_rule: BTreeMap<String, u64>,
    /// Digest of its contract.
    pub contract_hash: String,
    /// Files of rows.
    pub n_files: usize,
    /// Their size.
    pub size_bytes: u64,
}

/// One dataset of the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetView {
    /// Its name.
    pub name: String,
    /// How many versions it has.
    pub n_versions: usize,
    /// The newest one.
    pub newest: Option<VersionView>,
    /// Its files cannot be read; the log says why.
    pub is_damaged: bool,
}

/// The versions of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetPage {
    /// Its name.
    pub name: String,
    /// Newest first.
    pub versions: Vec<VersionView>,
    /// Where the next page begins: the sequence to give as `before`.
    pub next: Option<u64>,
    /// What the last ingest found that published nothing.
    pub unpublished: Option<VersionView>,
}

/// How two versions differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiffView {
    /// The older one; empty for nothing.
    pub from: String,
    /// The newer one.
    pub to: String,
    /// Rows that only `to` has.
    pub rows_added: u64,
    /// Rows that only `from` has.
    pub rows_removed: u64,
    /// Rows that both have.
    pub rows_same: u64,
    /// The first of the added rows.
    pub added: Vec<Cut>,
    /// The first of the removed rows.
    pub removed: Vec<Cut>,
}

/// Quarantined rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuarantinePage {
    /// The rows.
    pub data: Vec<BadRow>,
    /// Where to go on, as `from`; `None` at the end.
    pub next: Option<u64>,
}

/// One quarantined row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BadRow {
    /// 16 hexadecimal digits.
    pub id: String,
    /// The source's name.
    pub source: String,
    /// Where its first byte is in the source.
    pub offset_bytes: u64,
    /// Its line in the source.
    pub line: u64,
    /// The rule that it broke first.
    pub rule: String,
    /// Where in the row, and what was wanted.
    pub detail: String,
    /// The size of the whole row.
    pub size_bytes: u64,
    /// Whether its bytes are text; others are shown as U+FFFD.
    pub is_utf8: bool,
    /// The row.
    pub raw: Cut,
    /// What could be published in its place.
    pub repair: Option<RepairView>,
}

/// A proposed repair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RepairView {
    /// What was done.
    pub kind: String,
    /// The row as it would be.
    pub row: Cut,
}

/// What a dataset has of each kind of rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoverageView {
    /// Those that are lacking first, then the largest.
    pub strata: Vec<Stratum>,
    /// How many there are in all.
    pub n_strata: usize,
    /// How many of all are lacking.
    pub n_lacking: usize,
}

impl VersionView {
    pub(crate) fn of(manifest: &Manifest) -> VersionView {
        VersionView {
            version: manifest.version.clone(),
            parent: manifest.parent.clone(),
            sequence: manifest.sequence,
            created_at_ms: manifest.created_at_ms,
            rows_in: manifest.rows_in,
            batch_rows_in: manifest.batch_rows_in,
            rows_published: manifest.rows_published,
            rows_quarantined: manifest.rows_quarantined,
            rows_released: manifest.rows_released,
            by_rule: manifest.by_rule.clone(),
            contract_hash: manifest.contract_hash.clone(),
            n_files: manifest.segments.len(),
            size_bytes: manifest.segments.iter().map(|segment| segment.size_bytes).sum(),
        }
    }
}

impl BadRow {
    pub(crate) fn of(row: QuarantinedRow) -> BadRow {
        let raw = row.raw_bytes().unwrap_or_default();
        BadRow {
            raw: Cut::new(&String::from_utf8_lossy(&raw), SHOWN_CHARS),
            is_utf8: row.encoding == Encoding::Utf8,
            repair: row.repair.map(|repair| RepairView {
                kind: repair.kind.into_owned(),
                row: Cut::new(&repair.row, SHOWN_CHARS),
            }),
            id: row.id,
            source: row.source,
            offset_bytes: row.offset_bytes,
            line: row.line,
            rule: row.rule,
            detail: row.detail,
            size_bytes: row.size_bytes,
        }
    }
}
