//! Seeded simulation: random traffic through the real scheduler, batch packing, placeholder and
//! sampler, with every invariant checked after every step.
//!
//! It must never know threads or clocks: time is a number that it advances itself.
//!
//! Start reading at [`simulate`].

mod disk;
mod random;
mod report;
mod rules;
mod simulation;
mod workload;

#[cfg(test)]
mod tests;

pub use report::{Failure, Report};
pub use simulation::simulate;
