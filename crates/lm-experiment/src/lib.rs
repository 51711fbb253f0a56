//! Experiments: a candidate beside a primary, in stages from shadow to all, as far as the evidence carries.
//!
//! It must never know HTTP, the engine or a model, and never be asked for a file on the way of a request: what runs is
//! compiled into a [`Live`]. No clock: times are arguments.
//!
//! Start reading at [`Spec`] (what can be said), [`Live::assign`] (who gets what), [`Tally`] (what is known) and
//! [`Book`] (what is kept).

mod advice;
mod book;
mod collect;
mod error;
mod live;
mod measure;
mod moves;
mod prompts;
mod report;
mod schema;
mod spec;
mod tally;
mod words;

pub use advice::Advice;
pub use book::{AuditEntry, Book, Experiment, Forced, Status};
pub use collect::{Measure, Point};
pub use error::ExperimentError;
pub use live::{Live, Unit};
pub use measure::{Metric, values};
pub use prompts::{PromptVersion, SYSTEM};
pub use report::{GuardReport, Report, ShadowReport};
pub use spec::{Budget, Goal, Guardrail, Params, Spec, Variant};
pub use tally::Tally;
pub use words::{Promote, Stage, Tier, UnitBy};

#[cfg(test)]
mod simulations;
#[cfg(test)]
mod tests;
