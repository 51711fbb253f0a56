//! What runs beside the engine: recording of every answer, feedback on answers, and the report of
//! what happened.
//!
//! It must never know HTTP, the engine's inside or SQL, and it can never slow or fail a token.
//!
//! Start reading at [`Ops`] (inside of a server) and [`Doctor`] (from anywhere).

mod doctor;
mod ops;
mod overrides;
mod page;
mod search;

pub use doctor::{Doctor, RunReport};
pub use ops::{FeedbackReceipt, Ops};
pub use overrides::{Overrides, now_ms, refusal as override_refusal};
pub use page::Utc;
pub use search::{RequestPage, Search};

pub use lm_rollout::{
    Asked, Desk, Item, ItemState, NewItem, Policy, RolloutError, Route, Rule, Standing, Via, Way,
    dry_run,
};
pub use lm_store::{
    FoundRequest, MAX_FOUND, Privacy, Reader, Store, StoreCounters, StoreError, StoreOptions,
    StoredError, Traffic, tenant_text,
};

#[cfg(test)]
mod tests;
