//! What happened: releases, requests, attempts, feedback and runs of the process, in one SQLite
//! file. One thread writes, in groups; anybody may read, from other processes too.
//!
//! It must never know HTTP, engines, models or who asks; it never prints and never deletes a file.
//! Telemetry that cannot be stored is dropped and counted; feedback is durable or its caller gets
//! the error.
//!
//! Start reading at [`Store`] (the handle), then `writer` (the one loop) and `schema` (the tables).

mod answers;
mod assigned;
mod book_file;
mod book_watch;
mod costs;
mod erase;
mod erasing;
mod error;
mod implied;
mod job;
mod mask;
mod migrate;
mod options;
mod pace;
mod pressure;
mod read;
mod read_as;
pub mod recipe;
mod record;
mod recorded;
mod retention;
mod schema;
mod search;
mod server;
pub mod sql;
mod store;
mod timeline;
mod totals;
mod traffic;
mod upkeep;
mod write;
mod writer;

pub use answers::{Answered, Place};
pub use assigned::Assigned;
pub use book_file::{BookFile, Journal, OpenedBook};
pub use book_watch::BookWatch;
pub use costs::{CostBy, CostLine};
pub use erase::{Erase, Erased};
pub use erasing::Erasing;
pub use error::StoreError;
pub use implied::Implied;
pub use migrate::{Migrated, Missing, migrate};
pub use options::{Privacy, Retention, StoreOptions};
pub use pressure::{CachePressure, SameTail};
pub use read::{Reader, RowCounts};
pub use read_as::read_as_of;
pub use record::{
    Feedback, FeedbackId, Rating, Release, Run, RunInfo, RunState, StoredAttempt, StoredError,
    StoredFeedback, StoredRequest,
};
pub use recorded::{RecordedAnswer, RecordedRelease};
pub use search::{FoundRequest, MAX_FOUND, MAX_SEARCHED, Search};
pub use sql::shown as shown_place;
pub use store::{Store, StoreCounters};
pub use timeline::{
    StoredCause, StoredChunk, StoredGap, StoredLoss, StoredMiss, StoredOther, StoredQueue,
    StoredStall, StoredTimeline,
};
pub use totals::{LatencyMs, Totals};
pub use traffic::Traffic;
pub use upkeep::{StoreStats, backup, stats, upgrade};
pub use write::{params_json, priority_text, prompt_json, tenant_text};

#[cfg(test)]
mod tests;
