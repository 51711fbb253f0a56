//! Answers of one prompt: the first computes it, and the others begin where it is in the prefix cache.
//!
//! It must never keep an answer from ending: who is held here has its place in the queue, its limits and its reader as
//! those who wait in the scheduler.
//!
//! Start reading at [`Engine::hold`].

use std::sync::Arc;

use lm_scheduler::NewSequence;
use lm_types::{GenerateRequest, Outcome, SeqId};

use crate::Engine;
use crate::submit::never_runs;

/// An answer that waits for another one to compute its prompt.
#[derive(Debug)]
pub(crate) struct Sibling {
    first: SeqId,
    id: SeqId,
    sequence: NewSequence,
}

impl Engine {
    /// Adds an answer's sequence to the scheduler; or holds it back while the request's first one computes what both
    /// share.
    pub(crate) fn add_or_hold(
        &mut self,
        request: &Arc<GenerateRequest>,
        choice: u32,
        id: SeqId,
        sequence: NewSequence,
    ) {
        let config = self.scheduler.config();
        let is_shared = config.prefix_cache && sequence.prompt.len() > config.block_size;
        let is_first = |first: &&SeqId| {
            self.active.get(first).is_some_and(|active| Arc::ptr_eq(&active.request, request))
        };
        let first = self.last_first.as_ref().filter(is_first).copied();
        match first {
            Some(first) if choice > 0 && is_shared && !self.has_prompt(first) => {
                self.siblings.push(Sibling { first, id, sequence });
            }
            _ => {
                if choice == 0 {
                    self.last_first = Some(id);
                }
                self.add_sequence(id, sequence);
            }
        }
    }

    /// Lets go on whose prompt is computed, or whose first one ended before it was.
    pub(crate) fn release_siblings(&mut self) {
        let mut i = 0;
        while i < self.siblings.len() {
            if self.has_prompt(self.siblings[i].first) {
                let Sibling { id, sequence, .. } = self.siblings.remove(i);
                self.add_sequence(id, sequence);
            } else {
                i += 1;
            }
        }
    }

    /// Whether nothing more of this sequence's prompt will be computed.
    fn has_prompt(&self, first: SeqId) -> bool {
        self.scheduler.sequence(first).is_none_or(|seq| seq.n_generated() > 0)
    }

    fn add_sequence(&mut self, id: SeqId, sequence: NewSequence) {
        // Its reader may have left while it was held.
        if !self.active.contains_key(&id) {
            return;
        }
        if let Err(refused) = self.scheduler.add(sequence) {
            self.end(id, Outcome::Failed(never_runs(&refused)));
        }
        self.note_arrival(id);
    }
}
