//! How many spans of traces left, as whoever sends them counts.

use std::sync::Arc;

/// Spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// The collector took them.
    pub exported: u64,
    /// There was no room for them.
    pub dropped: u64,
    /// The collector did not take them.
    pub failed: u64,
    /// Their sender does not record their trace.
    pub unsampled: u64,
}

/// Asks for the counts of now.
pub(crate) type CountSpans = Arc<dyn Fn() -> SpanCounts + Send + Sync>;
