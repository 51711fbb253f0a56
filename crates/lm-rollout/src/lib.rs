//! Escape hatches: what an operator, a user or a rule puts in the place of what the model would answer.
//!
//! It must never know HTTP, the engine or a model, and never be asked for a database on the way of a request: rules are
//! compiled into a [`Policy`], which is replaced as a whole. No clock: times are arguments.
//!
//! Start reading at [`Rule`] (what can be said), [`Policy::route`] (what is decided) and [`Desk`] (what is kept).

mod audit;
mod breaker;
mod desk;
mod dry_run;
mod error;
mod path;
mod policy;
mod queue;
mod route;
mod rule;
mod schema;
mod subject;
mod switches;
mod when;

pub use audit::{AuditEntry, Counted};
pub use breaker::{Breakers, State as BreakerState};
pub use desk::{Desk, Standing};
pub use dry_run::{DryRun, dry_run};
pub use error::RolloutError;
pub use policy::{Asked, Operator, Policy, Via, Way};
pub use queue::{Item, ItemState, NewItem};
pub use route::Route;
pub use rule::{Action, FallbackWhen, JsonTest, OnHitWord, Rule, When};
pub use switches::Undone;

#[cfg(test)]
mod tests;
