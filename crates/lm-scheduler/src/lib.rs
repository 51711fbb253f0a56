//! Which sequences run in the next step, and where their KV lives. Pure.
//!
//! It must never know what time it is (`now` is an argument), and neither I/O, threads, randomness,
//! tensors nor text. Nothing here depends on the iteration order of a hash map, so a run can be
//! repeated from its calls alone.
//!
//! Start reading at [`Scheduler::schedule`]; [`BlockManager`] owns the memory behind it. What may wait at
//! all is decided before, by [`Admission`].

mod admission;
mod blocks;
mod config;
mod cost;
mod draft;
mod fairness;
mod fill;
mod forecast;
mod integrity;
mod outside;
mod prefix;
mod scheduler;
mod sequence;
mod slots;
mod step;
mod waiting;

pub use admission::{Admission, Offer, Refusal, RefusedBecause, Ticket, TimeLimits};
pub use blocks::BlockManager;
pub use config::{ConfigError, SchedulerConfig};
pub use cost::{CostModel, StepShape};
pub use forecast::{Forecast, Load};
pub use integrity::Broken;
pub use outside::Import;
pub use prefix::BlockHash;
pub use scheduler::{AddError, Drawn, Scheduler, SchedulerCounters};
pub use sequence::{NewSequence, Sequence};
pub use step::{Displaced, Expired, ScheduledRow, Step};

#[cfg(test)]
mod tests;
