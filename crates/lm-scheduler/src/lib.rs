//! Which sequences run in the next step, and where their KV lives. Pure.
//!
//! It must never know what time it is (`now` is an argument), and neither I/O, threads, randomness,
//! tensors nor text. Nothing here depends on the iteration order of a hash map, so a run can be
//! repeated from its calls alone.
//!
//! Start reading at [`Scheduler::schedule`]; [`BlockManager`] owns the memory behind it.

mod blocks;
mod config;
mod integrity;
mod prefix;
mod scheduler;
mod sequence;
mod step;

pub use blocks::BlockManager;
pub use config::{ConfigError, SchedulerConfig};
pub use integrity::Broken;
pub use prefix::BlockHash;
pub use scheduler::{AddError, Drawn, Scheduler, SchedulerCounters};
pub use sequence::{NewSequence, Sequence};
pub use step::{ScheduledRow, Step};
