//! One sequence: its tokens, how far they are computed, and the blocks that hold them.

use std::collections::VecDeque;

use lm_types::{BlockIdx, CacheMissReason, Priority, SeqId, TenantId, Timestamp, TokenId};

use crate::BlockHash;
use crate::draft::Drafter;

/// A sequence that asks for admission.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Unique among the sequences in the scheduler.
    pub id: SeqId,
    /// The prompt; not empty.
    pub prompt: Vec<TokenId>,
    /// Tokens that may be generated; at least 1.
    pub max_new_tokens: usize,
    /// Who goes first.
    pub priority: Priority,
    /// On whose behalf.
    pub tenant: TenantId,
    /// When its request arrived.
    pub arrived: Timestamp,
    /// Dropped when it was not first scheduled by then.
    pub start_by: Option<Timestamp>,
    /// Dropped when it has not ended by then.
    pub deadline: Option<Timestamp>,
    /// Prefixes are shared among sequences of one salt only.
    pub cache_salt: u64,
    /// Whether the logits after each token of its prompt are wanted. They are computed once.
    pub scores_prompt: bool,
}

/// A sequence in the scheduler.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub(crate) id: SeqId,
    /// While a step runs its last `n_drafts` are drafts.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) n_drafts: usize,
    pub(crate) drafter: Drafter,
    /// The logits after this position and later ones of the prompt are wanted.
    pub(crate) unscored_from: Option<usize>,
    pub(crate) n_prompt: usize,
    pub(crate) max_new_tokens: usize,
    pub(crate) n_computed: usize,
    pub(crate) block_table: Vec<BlockIdx>,
    pub(crate) tenant: TenantId,
    /// Its class now: a batch sequence that waited long is interactive from then on.
    pub(crate) class: Priority,
    /// Sequences that were added before it.
    pub(crate) arrival: u64,
    /// Whether it has a slot.
    pub(crate) is_running: bool,
    /// Since when it has no slot.
    pub(crate) waiting_since: Timestamp,
    pub(crate) start_by: Option<Timestamp>,
    pub(crate) deadline: Option<Timestamp>,
    /// The last step that had a row of it.
    pub(crate) last_step: u64,
    /// The number of its last row, of all rows of all steps.
    pub(crate) last_row: u64,
    /// Tokens that its tenant was charged for; what is computed again costs nothing.
    pub(crate) n_charged: usize,
    pub(crate) root: BlockHash,
    /// The name of the block before the first one that was not yet named.
    pub(crate) last_hash: BlockHash,
    pub(crate) n_hashed_blocks: usize,
    /// The names of the blocks after the hashed ones whose content is on its way from outside. While there
    /// are any, the sequence has no rows.
    pub(crate) imports: VecDeque<BlockHash>,
    /// When the last of those was asked for.
    pub(crate) imports_since: Timestamp,
    pub(crate) n_cached: usize,
    pub(crate) first_miss: Option<(usize, CacheMissReason)>,
    pub(crate) n_preemptions: u32,
    pub(crate) first_scheduled: Option<Timestamp>,
}

impl Sequence {
    pub(crate) fn new(new: NewSequence, arrival: u64, block_size: usize) -> Self {
        let max_len = new.prompt.len() + new.max_new_tokens;
        let root = BlockHash::root(new.cache_salt);
        let mut tokens = new.prompt;
        let n_prompt = tokens.len();
        tokens.reserve_exact(new.max_new_tokens);
        Sequence {
            id: new.id,
            tokens,
            n_drafts: 0,
            drafter: Drafter::default(),
            unscored_from: new.scores_prompt.then_some(0),
            n_prompt,
            max_new_tokens: new.max_new_tokens,
            n_computed: 0,
            block_table: Vec::with_capacity(max_len.div_ceil(block_size)),
            tenant: new.tenant,
            class: new.priority,
            arrival,
            is_running: false,
            waiting_since: new.arrived,
            start_by: new.start_by,
            deadline: new.deadline,
            last_step: 0,
            last_row: 0,
            n_charged: 0,
            root,
            last_hash: root,
            n_hashed_blocks: 0,
            imports: VecDeque::new(),
            imports_since: Timestamp(0),
            n_cached: 0,
            first_miss: None,
            n_preemptions: 0,
            first_scheduled: None,
        }
    }

    /// Prompt and answer so far. `[n_prompt + n_generated]`
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens[..self.tokens.len() - self.n_drafts]
    }

    /// The same, and while a step runs, what is guessed to follow.
    #[must_use]
    pub fn tokens_and_drafts(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens that were guessed so far, and how many of those were right.
    #[must_use]
    pub fn n_drafted_accepted(&self) -> (u32, u32) {
        (self.drafter.n_drafted, self.drafter.n_accepted)
    }

    /// Tokens of the prompt.
    #[must_use]
    pub fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    /// Tokens generated so far.
    #[must_use]
    pub fn n_generated(&self) -> usize {
        self.tokens().len() - self.n_prompt
    }

    /// The blocks that hold its KV, in order of position.
    #[must_use]
    pub fn block_table(&self) -> &[BlockIdx] {
        &self.block_table
    }

    /// Prompt tokens whose KV came from the prefix cache when it was first scheduled.
    #[must_use]
    pub fn n_cached(&self) -> usize {
        self.n_cached
    }

    /// The first block that was not in the prefix cache when it was first scheduled, and why.
    #[must_use]
    pub fn first_miss(&self) -> Option<(usize, CacheMissReason)> {
        self.first_miss
    }

    /// KV blocks that came from the prefix cache when it was first scheduled.
    #[must_use]
    pub fn n_cached_blocks(&self) -> usize {
        self.first_miss.map_or(0, |(block, _)| block)
    }

    /// Whether blocks of it are on their way from outside of the pool.
    #[must_use]
    pub fn is_importing(&self) -> bool {
        !self.imports.is_empty()
    }

    /// How often it lost its blocks and was computed again.
    #[must_use]
    pub fn n_preemptions(&self) -> u32 {
        self.n_preemptions
    }

    /// When it left the queue for the first time.
    #[must_use]
    pub fn first_scheduled(&self) -> Option<Timestamp> {
        self.first_scheduled
    }

    /// On whose behalf.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Its class now: a batch sequence that waited long is interactive from then on.
    #[must_use]
    pub fn class(&self) -> Priority {
        self.class
    }

    /// Whether it has a slot.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.is_running
    }

    /// What was not found in the prefix cache; only what holds at the first step is remembered.
    pub(crate) fn missed(&mut self, first_miss: (usize, CacheMissReason)) {
        if self.first_scheduled.is_none() {
            self.first_miss = Some(first_miss);
        }
    }

    /// When it is dropped, as things stand.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        match self.first_scheduled {
            None => self.start_by.into_iter().chain(self.deadline).min(),
            Some(_) => self.deadline,
        }
    }

    /// Tokens whose KV is not yet computed.
    pub(crate) fn n_remaining(&self) -> usize {
        self.tokens().len() - self.n_computed
    }

    /// Positions, counted from the first, whose logits are not wanted any more.
    pub(crate) fn n_scored(&self) -> usize {
        self.unscored_from.unwrap_or(usize::MAX)
    }
}
