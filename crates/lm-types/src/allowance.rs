//! What an answer may still use while it runs.

use std::fmt::Debug;
use std::sync::Arc;

use crate::Usage;

/// Counts what the answers of one request take while they run, and says when nothing is left.
pub trait Allowance: Debug + Send + Sync {
    /// Answer `choice` took so much so far, the CPU time in seconds. False when nothing is left: it ends with the
    /// text that it has. Asked for each of its tokens and after each step of its prompt, so that it must not wait; once
    /// more when it has ended.
    fn spend(&self, choice: u32, usage: Usage, cpu_seconds: f64) -> bool;
}

/// An [`Allowance`] that many hold; equal to itself alone.
#[derive(Clone, Debug)]
pub struct SharedAllowance(pub Arc<dyn Allowance>);

impl PartialEq for SharedAllowance {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }
}
