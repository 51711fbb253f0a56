//! The bugs that are planted.

use anyhow::bail;

/// Who must catch a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// `lm-sim`, by an invariant or by an answer that differs from its reference.
    Simulation,
    /// The tests of `lm-scheduler`: for what the placeholder's KV, which holds each token apart,
    /// cannot show.
    UnitTests,
}

/// One bug: a text that stands exactly once in a file, and what replaces it.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    find: &'static str,
    replace: &'static str,
    pub(super) judge: Judge,
}

impl Mutant {
    /// The file's text with the bug in it.
    pub(super) fn apply(&self, text: &str) -> anyhow::Result<String> {
        let n_found = text.matches(self.find).count();
        if n_found != 1 {
            bail!(
                "{}: {:?} stands {n_found} times in {}, but must stand once: the code has moved on, \
                 and this mutant must follow",
                self.name,
                self.find,
                self.file
            );
        }
        Ok(text.replacen(self.find, self.replace, 1))
    }
}

const BLOCKS: &str = "crates/lm-scheduler/src/blocks.rs";
const PREFIX: &str = "crates/lm-scheduler/src/prefix.rs";
const SCHEDULER: &str = "crates/lm-scheduler/src/scheduler.rs";
const DRAFT: &str = "crates/lm-scheduler/src/draft.rs";
const FILL: &str = "crates/lm-scheduler/src/fill.rs";
const SLOTS: &str = "crates/lm-scheduler/src/slots.rs";
const WAITING: &str = "crates/lm-scheduler/src/waiting.rs";
const ADMISSION: &str = "crates/lm-scheduler/src/admission.rs";
const BATCH: &str = "crates/lm-backend/src/batch.rs";

const OUTSIDE: &str = "crates/lm-scheduler/src/outside.rs";

pub(super) const MUTANTS: [Mutant; 34] = [
    Mutant {
        name: "double free",
        file: SCHEDULER,
        find: "        blocks.release(block);\n",
        replace: "        blocks.release(block);\n        \
                  if seq.block_table.is_empty() { blocks.release(block); }\n",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "double free on preemption",
        file: SLOTS,
        find: "        release_blocks(seq, &mut self.blocks);\n        seq.n_preemptions += 1;\n",
        replace: "        if let Some(&last) = seq.block_table.last() { self.blocks.release(last); }\n\
                  release_blocks(seq, &mut self.blocks);\n        seq.n_preemptions += 1;\n",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "stale name in the prefix cache",
        file: BLOCKS,
        find: "            self.by_hash.remove(&hash);\n            self.n_evictions += 1;\n",
        replace: "            let _ = hash;\n            self.n_evictions += 1;\n",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "stale prefix hit",
        file: BLOCKS,
        find: "if let Some(hash) = block.hash.take() {",
        replace: "if let Some(hash) = None::<BlockHash> {",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "off by one in slot_mapping",
        file: BATCH,
        find: "narrow(block * block_size + position % block_size)",
        replace: "narrow(block * block_size + (position + 1) % block_size)",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "off by one block in slot_mapping",
        file: BATCH,
        find: "block_table[position / block_size].index()",
        replace: "block_table[(position + 1) / block_size % n_blocks].index()",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "block named one token too early",
        file: SCHEDULER,
        find: "(seq.n_hashed_blocks + 1) * block_size <= seq.n_computed {",
        replace: "(seq.n_hashed_blocks + 1) * block_size <= seq.n_computed + 1 \
                  && seq.n_hashed_blocks < seq.block_table.len() \
                  && (seq.n_hashed_blocks + 1) * block_size <= seq.tokens.len() {",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "n_computed kept on preemption",
        file: SCHEDULER,
        find: "    seq.n_computed = 0;\n",
        replace: "",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "free list keeps a stale tail",
        file: BLOCKS,
        find: "            NONE => self.free_tail = prev,\n",
        replace: "            NONE => {}\n",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "whole prompt taken from the cache",
        file: SLOTS,
        find: "let n_full = (seq.tokens.len() - 1).min(seq.n_scored()) / block_size;",
        replace: "let n_full = seq.tokens.len().min(seq.n_scored()) / block_size;",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "shared block left in the free list",
        file: BLOCKS,
        find: "        if self.blocks[block.index()].ref_count == 0 {\n            \
               self.unlink(block.0);\n        }\n",
        replace: "",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "budget not spent",
        file: FILL,
        find: "        room.tokens -= n_tokens;\n",
        replace: "",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "abort keeps its blocks",
        file: SCHEDULER,
        find: "        release_blocks(&mut seq, &mut self.blocks);\n",
        replace: "        let _ = &mut seq;\n",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "drawn before the prompt's end",
        file: FILL,
        find: "let samples = end == seq.tokens.len();",
        replace: "let samples = end + 1 >= seq.tokens.len();",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "prefix match without its parent",
        file: PREFIX,
        find: "blake3::Hasher::new_keyed(&self.0)",
        replace: "blake3::Hasher::new_keyed(&[0; 32])",
        judge: Judge::UnitTests,
    },
    Mutant {
        name: "prefix match without its salt",
        file: PREFIX,
        find: "blake3::hash(&salt.to_le_bytes())",
        replace: "blake3::hash(&(salt * 0).to_le_bytes())",
        judge: Judge::UnitTests,
    },
    Mutant {
        name: "the most served tenant is next",
        file: WAITING,
        find: "heads.min_by_key(|(turn, _)| *turn)",
        replace: "heads.max_by_key(|(turn, _)| *turn)",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "chunks as long as the budget",
        file: FILL,
        find: "let in_time = self.time_bounds(room, seq.class)",
        replace: "let in_time = None::<(f64, f64)>",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "background keeps who comes waiting",
        file: FILL,
        find: "let part = BACKGROUND_PART * self.config",
        replace: "let part = self.config",
        judge: Judge::UnitTests,
    },
    Mutant {
        name: "decodes over the bound",
        file: FILL,
        find: "self.cost.predict(&shape) > seconds",
        replace: "self.cost.predict(&shape) > 2.0 * seconds",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "the same decodes left out each time",
        file: FILL,
        find: "last_row: if take_turns { seq.last_row } else { 0 },",
        replace: "last_row: 0,",
        judge: Judge::UnitTests,
    },
    Mutant {
        name: "what is too late runs",
        file: SCHEDULER,
        find: ".filter(|(due, _)| *due < now)",
        replace: ".filter(|(due, _)| due.0 + 50_000 < now.0)",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "background runs beside prompts",
        file: FILL,
        find: "let background = !self.has_urgent_work();",
        replace: "let background = true;",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "computed before its content came",
        file: OUTSIDE,
        find: "if blocks.is_expecting(seq.block_table[seq.n_hashed_blocks]) {",
        replace: "if blocks.n_blocks() == 0 {",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "content for a block that was let go",
        file: BLOCKS,
        find: "            if let Some(hash) = entry.expects.take() {\n                \
               self.expected.remove(&hash);\n            }\n",
        replace: "",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "blocks after one that did not come",
        file: OUTSIDE,
        find: "        seq.imports.truncate(at);\n",
        replace: "        seq.imports.truncate(at + 1);\n",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "waits for ever for what does not come",
        file: OUTSIDE,
        find: "self.now.since(self.sequences[&id].imports_since) >= PATIENCE",
        replace: "self.now.since(self.sequences[&id].imports_since) >= PATIENCE * 1000",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "a newcomer takes a promised place",
        file: ADMISSION,
        find: "self.queued.len() + n_promised.min(self.max_requests / MOST_RESERVED)",
        replace: "self.queued.len() + 0 * n_promised",
        judge: Judge::UnitTests,
    },
    Mutant {
        name: "wrong guesses count as computed",
        file: SCHEDULER,
        find: "seq.n_computed = row.start + row.n_tokens - row.n_drafts;",
        replace: "seq.n_computed = row.start + row.n_tokens;",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "one guess too many counts as right",
        file: DRAFT,
        find: "        self.n_computed += n_in_place;\n",
        replace: "        self.n_computed += n_in_place + usize::from(n_in_place > 1);\n",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "guesses beside prompts",
        file: DRAFT,
        find: "|| self.step.shape.n_prefill_tokens > 0",
        replace: "|| self.step.shape.n_prefill_tokens > 1 << 20",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "guesses over the bound",
        file: DRAFT,
        find: "|| predicted > longest",
        replace: "|| predicted > 4.0 * longest",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "more rows of logits than there is room",
        file: FILL,
        find: "let n_rows = n_free_rows.saturating_add(room.extra_logits + 1);",
        replace: "let n_rows = n_free_rows.saturating_add(self.config.max_batch_tokens);",
        judge: Judge::Simulation,
    },
    Mutant {
        name: "likelihoods of what came from the cache",
        file: SLOTS,
        find: "(seq.tokens.len() - 1).min(seq.n_scored())",
        replace: "(seq.tokens.len() - 1)",
        judge: Judge::Simulation,
    },
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<&str>) {
        let mutant = Mutant {
            name: "test",
            file: "a.rs",
            find: "a += 1;",
            replace: "a += 2;",
            judge: Judge::Simulation,
        };
        assert_eq!(mutant.apply(text).ok().as_deref(), expect);
    }

    #[test]
    fn a_mutant_that_does_not_apply_once_is_an_error() {
        check("{ a += 1; }", Some("{ a += 2; }"));
        check("{ a += 3; }", None);
        check("{ a += 1; a += 1; }", None);
    }

    #[test]
    fn names_are_unique_and_every_bug_changes_something() {
        for (i, mutant) in MUTANTS.iter().enumerate() {
            assert!(MUTANTS[..i].iter().all(|other| other.name != mutant.name));
            assert_ne!(mutant.find, mutant.replace);
            assert_ne!(mutant.apply(mutant.find).unwrap(), mutant.find);
        }
    }
}
