//! What an operator says of the response cache.

use std::time::Duration;

/// What an operator says of the response cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseCacheOptions {
    /// What all entries take together in memory; those that were used longest ago make room. 0 turns it off.
    pub max_bytes: usize,
    /// Older entries are not told.
    pub max_age: Duration,
    /// Each hit of this number is computed again in an idle slot and compared bit for bit; 0 is none.
    pub recheck_every: u64,
    /// Routes, as the router names them, whose answers are told again although they were drawn without a seed.
    pub sampled_routes: Vec<String>,
}

impl Default for ResponseCacheOptions {
    fn default() -> Self {
        ResponseCacheOptions {
            max_bytes: 0,
            max_age: Duration::from_hours(1),
            recheck_every: 100,
            sampled_routes: Vec::new(),
        }
    }
}
