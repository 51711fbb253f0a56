//! The data pipeline: rows come in from files, folders and offers, are held against the dataset's contract, and become
//! immutable versions; what breaks a rule goes to quarantine with its offset, rule and proposed repair.
//!
//! It must never know the runtime, the network or who asks; it never mends a row unasked, and never publishes half a
//! version.
//!
//! ```text
//! data/contracts/NAME.toml                     the contract that the next ingest uses (or NAME.json: a JSON Schema)
//! data/datasets/NAME/lock                      held by the one ingest that runs
//! data/datasets/NAME/staging/                  of the ingest that runs, or that was killed and will be gone on with
//! data/datasets/NAME/objects/HASH.parquet      rows; shared by the versions that have them
//! data/datasets/NAME/objects/HASH.jsonl        quarantined rows
//! data/datasets/NAME/versions/N-ID/            manifest.json contract.toml sources.jsonl lineage.jsonl
//! data/datasets/NAME/reports/TIME-N/           manifest.json quarantine.jsonl of an ingest that published nothing;
//!                                              the newest 16
//! data/datasets/NAME/inbox/                    what came by offers and waits to be added
//! data/datasets/NAME/scratch-…                 of what runs or was killed, and nobody goes on with
//! ```
//!
//! Start reading at [`ingest`], then `check` (what makes a row bad), `pipeline` (the cores), `stage` (what survives a
//! kill), `cross` (rows beside rows) and `version` (what is published).

mod audit;
mod catalog;
mod caught;
mod check;
mod cross;
mod disk;
mod drain;
mod error;
mod home;
mod inbox;
mod infer;
mod infer_near;
mod ingest;
mod known;
mod manifest;
mod offering;
mod pipeline;
mod quarantine;
mod read;
mod reader;
mod receipts;
mod refused;
mod room;
mod shares;
mod sources;
mod stage;
mod turns;
mod version;
mod watch;

pub use catalog::{Dataset, datasets, unpublished, versions};
pub use check::language::{must_exist as language_must_exist, of as language_of};
pub use check::minhash::{N_BINS, Sketch, similarity};
pub use check::rule::Repair;
pub use check::tokenizer_of;
pub use drain::{Drained, drain, waiting_digest};
pub use error::DataError;
pub use home::DataHome;
pub use inbox::{Fate, Receipt, Taken, awaited, has_contract, receipt};
pub use infer::{Inferred, infer};
pub use ingest::{
    CountTokens, IngestOptions, IngestProgress, MAX_ROW_BYTES_LIMIT, Thresholds, ingest,
};
pub use lm_privacy::mask;
pub use manifest::{Manifest, RuleShare, Version, VersionSummary, log, show};
pub use offering::Offering;
pub use quarantine::{Encoding, QuarantineRows, QuarantinedRow, Report, quarantine};
pub use read::Format;
pub use receipts::{RECEIPTS_KEPT, forget_receipts};
pub use room::{Backlog, InboxLimits, backlog};
pub use stage::ledger::{SourceFile, Stamp, Tally};
pub use version::arrival::Arrival;
pub use version::checkout::{checkout, export};
pub use version::coverage::{Stratum, coverage};
pub use version::diff::{Diff, diff};
pub use version::gc::{Collected, gc};
pub use version::merkle::Tree;
pub use version::new_folder::NewFolder;
pub use version::proof::check_rows;
pub use version::release::{Lineage, Release, Released, Select, release};
pub use version::segment::Segment;
pub use version::transfer::{
    CarriedFile, Link, MAX_COUNT, Parcel, Pick, carried_objects, is_carried, joins, parcels,
    read_manifest, version_folder,
};
pub use watch::{WatchEvent, WatchOptions, watch};

#[cfg(test)]
mod tests;
