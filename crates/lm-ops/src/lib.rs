//! What runs beside the engine: recording of every answer, feedback on answers, and the report of
//! what happened.
//!
//! It must never know HTTP, the engine's inside or SQL, and it can never slow or fail a token.
//!
//! Start reading at [`Ops`] (inside of a server) and [`Doctor`] (from anywhere).

mod cost;
mod doctor;
mod ops;
mod page;
mod search;

pub use cost::{CostBy, CostCount, CostCounters, CostReport, Spending};
pub use doctor::{Doctor, RunReport};
pub use ops::{FeedbackReceipt, Ops};
pub use page::Utc;
pub use search::{RequestPage, Search};

pub use lm_store::{
    Erase, Erased, FoundRequest, Migrated, MAX_FOUND, Privacy, Reader, Retention, Store, StoreCounters,
    StoreError, StoreOptions, StoreStats, StoredError, Traffic, backup, migrate, stats, upgrade,
};

#[cfg(test)]
mod tests;
