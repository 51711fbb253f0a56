//! Tests across crates; the tests themselves are in `it/`, and those of clients in `python/`.
//!
//! It must never hold anything that a crate needs.
//!
//! Start reading at `it/main.rs`.
