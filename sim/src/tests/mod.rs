//! What takes more than a seed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod overload;
