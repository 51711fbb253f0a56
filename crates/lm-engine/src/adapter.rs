//! An adapter as the engine knows it: a number for the backend, and what stands in records.
//!
//! It must never know a matrix.

use std::any::Any;
use std::fmt;

use lm_scheduler::BlockHash;
use lm_types::TenantId;

use crate::ServedBy;

/// An adapter that answers are computed with. It is given up when no answer needs it any more.
pub struct ServedAdapter {
    /// What batches name it with; never 0, which is none.
    pub id: u32,
    /// Of its weights: KV that was computed with it is nobody else's.
    pub digest: [u8; 32],
    /// What stands in the records of its answers.
    pub served_by: ServedBy,
    /// Dropped with it.
    pub kept: Box<dyn Any + Send + Sync>,
}

impl ServedAdapter {
    /// What separates the prefixes of a tenant's answers with this adapter from all others.
    pub(crate) fn cache_salt(&self, tenant: TenantId) -> u64 {
        let (words, _) = self.digest.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let name = BlockHash::root(tenant.0).child(&words);
        let (head, _) = name.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
        u64::from_le_bytes(*head)
    }
}

impl fmt::Debug for ServedAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, model) = (self.id, &self.served_by.model);
        f.debug_struct("ServedAdapter").field("id", &id).field("model", model).finish()
    }
}
