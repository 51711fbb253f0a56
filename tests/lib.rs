//! Tests across crates; the tests themselves are in `it/`.
