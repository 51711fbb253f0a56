//! Tests across crates, by what a user of the library or of the command line can notice.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bits;
mod cli;
mod data;
mod disk_cache;
mod encoders;
mod executors;
mod fairness;
mod families;
mod inspect;
mod invariance;
mod keys;
mod lora;
mod memory;
mod models;
mod parity;
mod peft;
mod program;
mod pull;
mod quantize;
mod real_model;
mod structured;
mod tokenize;
