//! Tests across crates, by what a user of the library or of the command line can notice.

mod invariance;
mod parity;
mod real_model;
