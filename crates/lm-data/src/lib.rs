//! The data pipeline's first slice: a JSONL file goes in, each row is held against a JSON Schema,
//! bad rows go to quarantine with their offset and rule, the rest becomes an immutable version.
//!
//! It must never know the runtime, the store, the network or who asks; it never mends a row, and
//! never publishes half a version. Versions are JSONL for now; Parquet snapshots, column rules and
//! repair come later.
//!
//! ```text
//! data/contracts/NAME.json                     the schema that the next ingest uses
//! data/datasets/NAME/lock                      held by the one ingest that runs
//! data/datasets/NAME/staging/                  of the ingest that runs; else a leftover of a kill
//! data/datasets/NAME/versions/ID/              manifest.json contract.json rows.jsonl
//!                                              quarantine.jsonl
//! data/datasets/NAME/reports/TIME-SOURCE/      manifest.json contract.json quarantine.jsonl of an
//!                                              ingest that published nothing; the newest 16
//! ```
//!
//! Start reading at [`ingest`], then `rules` (what makes a row bad).

mod contract;
mod error;
mod home;
mod ingest;
mod json;
mod manifest;
mod quarantine;
mod row;
mod rules;
mod stage;

pub use error::DataError;
pub use home::DataHome;
pub use ingest::{IngestOptions, IngestProgress, MAX_ROW_BYTES_LIMIT, Thresholds, ingest};
pub use manifest::{Manifest, RuleShare, SourceFile, Version, VersionSummary, log};
pub use quarantine::{Encoding, QuarantineRows, QuarantinedRow, Report, quarantine};

#[cfg(test)]
mod tests;
