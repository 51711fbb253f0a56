//! A backend without a model, whose answers show every fault of the memory behind them.
//!
//! Its paged KV cache holds token ids, and beside each a hash of everything before it, as K and V of a
//! real model depend on it. The logits of a row are a hash of what is read back of its whole context
//! through the block table: a wrong slot, a stale block, a bad prefix hit or a double free changes
//! the text.

use std::ops::Range;
use std::time::{Duration, Instant};

use lm_types::{BlockIdx, TokenId};

use crate::{
    Backend, BackendError, BackendSpec, Batch, LogitsBuf, PlaceholderMode, PlaceholderOptions,
    PlaceholderVocab, ScriptedTokens, StepLoad,
};

/// What a slot holds before anything was written to it.
const UNWRITTEN: TokenId = TokenId::MAX;
/// What a slot holds whose K and V are not numbers; whoever reads it computes NaN.
const NOT_A_NUMBER: TokenId = TokenId::MAX - 1;

/// A factor that loses nothing of a word.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes of a slot outside of the cache: its token, then the hash beside it.
const SLOT_BYTES: usize = size_of::<TokenId>() + size_of::<u64>();

/// A backend that computes hashes instead of a decoder.
#[derive(Debug)]
pub struct PlaceholderBackend {
    spec: BackendSpec,
    vocab: PlaceholderVocab,
    options: PlaceholderOptions,
    /// What modes `replay` and `schema` answer.
    script: ScriptedTokens,
    /// The KV cache. `[n_blocks * block_size]`
    kv_tokens: Vec<TokenId>,
    /// Beside each token: it and everything before it, hashed. `[n_blocks * block_size]`
    kv_chain: Vec<u64>,
    /// The tokens of one row, read back. Reused.
    context: Vec<TokenId>,
    /// What was read back with them, hashed.
    context_hash: u64,
    n_steps: u64,
}

impl PlaceholderBackend {
    /// A placeholder with an empty cache.
    #[must_use]
    pub fn new(options: PlaceholderOptions, vocab: PlaceholderVocab) -> Self {
        let n_slots = options.n_blocks * options.block_size;
        PlaceholderBackend {
            spec: BackendSpec {
                rows_are_exact: true,
                kernel_path: "placeholder".to_owned(),
                kv_type: "token_ids",
                vocab_size: vocab.vocab_size,
                block_size: options.block_size,
                n_blocks: options.n_blocks,
                max_model_len: options.max_model_len,
                weights_bytes: 0,
                kv_bytes: options.n_blocks as u64 * options.kv_block_bytes(),
            },
            kv_tokens: vec![UNWRITTEN; n_slots],
            kv_chain: vec![0; n_slots],
            context: Vec::with_capacity(options.max_model_len),
            context_hash: 0,
            n_steps: 0,
            script: ScriptedTokens::default(),
            vocab,
            options,
        }
    }

    /// The slots of a block whose bytes are `n_bytes`.
    fn slots(&self, block: BlockIdx, n_bytes: usize) -> Result<Range<usize>, BackendError> {
        let block_size = self.spec.block_size;
        BackendError::check_block(block_size * SLOT_BYTES, n_bytes)?;
        Ok(block.index() * block_size..(block.index() + 1) * block_size)
    }

    /// The answers of modes `replay` and `schema`.
    #[must_use]
    pub fn with_script(self, script: ScriptedTokens) -> Self {
        PlaceholderBackend { script, ..self }
    }

    /// How long a step takes that began now.
    fn cost_of(&self, batch: &Batch) -> Duration {
        let cost = self.options.costs.of(&StepLoad::of(batch));
        let is_slow = self.options.slow_every.is_some_and(|n| self.n_steps.is_multiple_of(n));
        let extra = if is_slow { self.options.slow } else { Duration::ZERO };
        if self.options.jitter_percent == 0 {
            return cost + extra;
        }
        // Evenly from -1 to 1, the same for the same seed and step.
        let draw = mix(mix(self.options.seed) ^ self.n_steps) as f64 / u64::MAX as f64 * 2.0 - 1.0;
        cost.mul_f64(1.0 + draw * f64::from(self.options.jitter_percent) / 100.0) + extra
    }

    fn inject_faults(
        &mut self,
        n_tokens: usize,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), BackendError> {
        let step = self.n_steps;
        if self.options.hang_at_step == Some(step) {
            // What hangs does not ask.
            std::thread::sleep(self.options.hang);
        }
        let per_token = self.options.delay_per_token.saturating_mul(n_tokens as u32);
        sleep_while(self.options.delay.saturating_add(per_token), is_wanted)?;
        assert!(self.options.panic_at_step != Some(step), "panic injected at step {step}");
        let fails = self.options.fail_at_step == Some(step)
            || self.options.fail_every.is_some_and(|n| step.is_multiple_of(n));
        if fails { Err(BackendError::Injected { step }) } else { Ok(()) }
    }

    /// Writes the tokens of sequence `s` to their slots.
    fn write(&mut self, batch: &Batch, s: usize) {
        let (block_size, table) = (self.spec.block_size, batch.block_table_of(s));
        for i in batch.tokens_of(s) {
            let (token, slot) = (batch.input_ids[i], batch.slot_mapping[i] as usize);
            let before = match batch.positions[i] as usize {
                0 => self.options.seed,
                position => {
                    let (block, offset) =
                        ((position - 1) / block_size, (position - 1) % block_size);
                    self.kv_chain[table[block].index() * block_size + offset]
                }
            };
            self.kv_tokens[slot] = token;
            self.kv_chain[slot] = mix(mix(before) ^ u64::from(token));
        }
    }

    /// Reads positions `0..=position` of sequence `s` back through its block table.
    fn read_back(&mut self, batch: &Batch, s: usize, position: usize) {
        let block_size = self.spec.block_size;
        self.context.clear();
        self.context_hash = mix(self.options.seed ^ 0x5bd1_e995);
        for (i, block) in batch.block_table_of(s).iter().enumerate() {
            let filled = (position + 1).saturating_sub(i * block_size).min(block_size);
            let slots = block.index() * block_size..block.index() * block_size + filled;
            self.context.extend_from_slice(&self.kv_tokens[slots.clone()]);
            // What is beside a token is spread already, so little is enough to tell their order.
            for chained in &self.kv_chain[slots] {
                self.context_hash = (self.context_hash.rotate_left(5) ^ chained).wrapping_mul(ODD);
            }
        }
        self.context_hash = mix(self.context_hash);
    }

    fn fill_row(&self, row: &mut [f32]) {
        let is_broken = self.context.contains(&NOT_A_NUMBER);
        if is_broken || self.options.nan_at == Some(self.context.len() as u32) {
            row.fill(f32::NAN);
            return;
        }
        match self.options.mode {
            PlaceholderMode::Random => self.fill_random(row),
            PlaceholderMode::Echo => self.fill_certain(row, self.echoed_token()),
            PlaceholderMode::Embed | PlaceholderMode::Classify => row.fill(f32::NAN),
            PlaceholderMode::Replay | PlaceholderMode::Schema => {
                self.fill_certain(row, self.scripted_token());
            }
        }
    }

    fn fill_certain(&self, row: &mut [f32], token: TokenId) {
        row.fill(-30.0);
        row[token as usize] = 0.0;
    }

    /// The token after the context when an answer is told by the script.
    fn scripted_token(&self) -> TokenId {
        let (context, end) = (&self.context, self.vocab.turn_end);
        let Some(start) = self.answer_start() else { return end };
        let answer = self.script.answer(&context[..start]).unwrap_or_default();
        answer.get(context.len() - start).copied().unwrap_or(end)
    }

    /// Where the answer begins: behind a raw prompt, or behind the head of the last turn.
    fn answer_start(&self) -> Option<usize> {
        let (context, vocab) = (&self.context, &self.vocab);
        let border = context.iter().rposition(|&t| t == vocab.sep || t == vocab.turn_start)?;
        if context[border] == vocab.sep {
            return Some(border + 1);
        }
        let head = context[border..].iter().position(|&t| t == vocab.newline)?;
        Some(border + head + 1)
    }

    fn fill_random(&self, row: &mut [f32]) {
        let hash = self.context_hash;
        for (token, logit) in row.iter_mut().enumerate() {
            let spread = (mix(hash ^ (token as u64) << 32) >> 40) as f32 / (1 << 24) as f32;
            let is_word = self.vocab.words.contains(&(token as TokenId));
            *logit = if is_word { 8.0 * spread } else { spread - 30.0 };
        }
        if hash.is_multiple_of(u64::from(self.options.mean_tokens)) {
            row[self.vocab.turn_end as usize] = 30.0;
        }
    }

    /// The token after the context when an answer repeats its prompt.
    fn echoed_token(&self) -> TokenId {
        let (context, vocab) = (&self.context, &self.vocab);
        let is_border = |&t: &TokenId| t == vocab.sep || t == vocab.turn_start;
        let Some(border) = context.iter().rposition(is_border) else { return vocab.turn_end };
        let newline_after = |start: usize| {
            let found = context[start..].iter().position(|&t| t == vocab.newline);
            found.map(|offset| start + offset + 1)
        };
        // [prompt, n_echoed]: what is repeated, and how much of it already was.
        let (prompt, n_echoed) = if context[border] == vocab.sep {
            let start = usize::from(context[0] == vocab.bos);
            (&context[start.min(border)..border], context.len() - border - 1)
        } else {
            let before = &context[..border];
            let turn = before.iter().rposition(|&t| t == vocab.turn_start);
            let end = before.iter().rposition(|&t| t == vocab.turn_end);
            let (Some(start), Some(end)) = (turn.and_then(newline_after), end) else {
                return vocab.turn_end;
            };
            let Some(answer) = newline_after(border) else { return vocab.turn_end };
            (&context[start.min(end)..end], context.len() - answer)
        };
        prompt.get(n_echoed).copied().unwrap_or(vocab.turn_end)
    }
}

impl Backend for PlaceholderBackend {
    fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn execute(&mut self, batch: &Batch, logits: &mut LogitsBuf) -> Result<(), BackendError> {
        self.execute_while(batch, logits, &|| true)
    }

    fn execute_while(
        &mut self,
        batch: &Batch,
        logits: &mut LogitsBuf,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), BackendError> {
        let started = Instant::now();
        self.n_steps += 1;
        self.inject_faults(batch.n_tokens(), is_wanted)?;
        for s in 0..batch.n_sequences() {
            self.write(batch, s);
        }
        if self.options.nan_at_step == Some(self.n_steps) {
            for sample in &batch.sample_rows {
                let slot = batch.slot_mapping[sample.token_idx as usize];
                self.kv_tokens[slot as usize] = NOT_A_NUMBER;
            }
        }
        logits.reset(batch.sample_rows.len(), self.spec.vocab_size);
        let mut s = 0;
        for (row, sample) in batch.sample_rows.iter().enumerate() {
            while batch.cu_seqlens_q[s + 1] <= sample.token_idx {
                s += 1;
            }
            self.read_back(batch, s, batch.positions[sample.token_idx as usize] as usize);
            self.fill_row(logits.row_mut(row));
        }
        let left = self.cost_of(batch).saturating_sub(started.elapsed());
        sleep_while(left, is_wanted).inspect_err(|_| {
            // Whoever reads what is undefined now shall see it.
            for slot in &batch.slot_mapping {
                self.kv_tokens[*slot as usize] = NOT_A_NUMBER;
            }
        })
    }

    fn movable_block_bytes(&self) -> Option<usize> {
        Some(self.spec.block_size * SLOT_BYTES)
    }

    fn export_block(&self, block: BlockIdx, bytes: &mut [u8]) -> Result<(), BackendError> {
        let slots = self.slots(block, bytes.len())?;
        for (slot, bytes) in slots.zip(bytes.as_chunks_mut::<SLOT_BYTES>().0) {
            let (token, chain) = bytes.split_at_mut(size_of::<TokenId>());
            token.copy_from_slice(&self.kv_tokens[slot].to_le_bytes());
            chain.copy_from_slice(&self.kv_chain[slot].to_le_bytes());
        }
        Ok(())
    }

    fn import_block(&mut self, block: BlockIdx, bytes: &[u8]) -> Result<(), BackendError> {
        let slots = self.slots(block, bytes.len())?;
        for (slot, bytes) in slots.zip(bytes.as_chunks::<SLOT_BYTES>().0) {
            let [a, b, c, d, chain @ ..] = *bytes;
            self.kv_tokens[slot] = TokenId::from_le_bytes([a, b, c, d]);
            self.kv_chain[slot] = u64::from_le_bytes(chain);
        }
        Ok(())
    }
}

/// Sleeps, unless nobody wants what is slept for any more: it asks every millisecond.
fn sleep_while(duration: Duration, is_wanted: &dyn Fn() -> bool) -> Result<(), BackendError> {
    let started = Instant::now();
    loop {
        let left = duration.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        if !is_wanted() {
            return Err(BackendError::GivenUp);
        }
        std::thread::sleep(left.min(Duration::from_millis(1)));
    }
}

/// A bijection of 64-bit words that spreads every bit. Source: Steele et al. 2014 (`SplitMix64`).
pub(crate) fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(ODD);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::Want;

    fn vocab() -> PlaceholderVocab {
        PlaceholderVocab {
            vocab_size: 40,
            bos: 1,
            sep: 4,
            turn_start: 2,
            turn_end: 3,
            newline: 39,
            words: 5..39,
        }
    }

    fn backend(options: &str) -> PlaceholderBackend {
        let options = format!("block_size=4,n_blocks=8,max_model_len=32,{options}");
        PlaceholderBackend::new(options.parse().unwrap(), vocab())
    }

    fn argmax(row: &[f32]) -> TokenId {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.unwrap().0 as TokenId
    }

    /// Runs `chunks` of one sequence with the given table, and gives the last row.
    fn run(backend: &mut PlaceholderBackend, chunks: &[&[TokenId]], table: &[u32]) -> Vec<f32> {
        let table: Vec<BlockIdx> = table.iter().map(|&b| BlockIdx(b)).collect();
        let (mut batch, mut logits, mut start) = (Batch::default(), LogitsBuf::default(), 0);
        for chunk in chunks {
            batch.clear();
            batch.push_sequence(chunk, start, &table, 4, Some(Want::Full));
            backend.execute(&batch, &mut logits).unwrap();
            start += chunk.len();
        }
        logits.row(0).to_vec()
    }

    #[test]
    fn a_row_depends_on_its_tokens_and_not_on_chunks_or_blocks() {
        let whole = run(&mut backend(""), &[&[5, 6, 7, 8, 9, 10]], &[0, 1]);
        assert_eq!(whole, run(&mut backend(""), &[&[5, 6, 7, 8, 9], &[10]], &[6, 2]));
        assert_ne!(whole, run(&mut backend(""), &[&[5, 6, 7, 9, 8, 10]], &[0, 1]));
        assert_ne!(whole, run(&mut backend("seed=1"), &[&[5, 6, 7, 8, 9, 10]], &[0, 1]));
    }

    #[test]
    fn a_block_that_another_wrote_over_changes_the_row() {
        let mut shared = backend("");
        run(&mut shared, &[&[5, 6, 7, 8, 9]], &[0, 1]);
        run(&mut shared, &[&[11]], &[0]);
        let mut batch = Batch::default();
        batch.push_sequence(&[10], 5, &[BlockIdx(0), BlockIdx(1)], 4, Some(Want::Full));
        let mut logits = LogitsBuf::default();
        shared.execute(&batch, &mut logits).unwrap();
        let clean = run(&mut backend(""), &[&[5, 6, 7, 8, 9, 10]], &[0, 1]);
        assert_ne!(logits.row(0), clean);
    }

    #[test]
    fn a_block_that_was_moved_out_and_in_is_the_same() {
        let mut first = backend("");
        run(&mut first, &[&[5, 6, 7, 8, 9]], &[3, 1]);
        let mut bytes = vec![0; first.movable_block_bytes().unwrap()];
        first.export_block(BlockIdx(3), &mut bytes).unwrap();
        let mut second = backend("");
        second.import_block(BlockIdx(6), &bytes).unwrap();
        let mut batch = Batch::default();
        batch.push_sequence(&[9], 4, &[BlockIdx(6), BlockIdx(0)], 4, Some(Want::Full));
        let mut logits = LogitsBuf::default();
        second.execute(&batch, &mut logits).unwrap();
        assert_eq!(logits.row(0), run(&mut backend(""), &[&[5, 6, 7, 8, 9]], &[0, 1]));
        let short = second.import_block(BlockIdx(6), &bytes[1..]);
        assert_eq!(short, Err(BackendError::BlockLength { wanted: 48, found: 47 }));
    }

    #[test]
    fn echo_repeats_a_raw_prompt_and_a_user_turn() {
        let mut echo = backend("mode=echo");
        assert_eq!(argmax(&run(&mut echo, &[&[1, 7, 8, 4]], &[0, 1])), 7);
        assert_eq!(argmax(&run(&mut echo, &[&[1, 7, 8, 4, 7]], &[0, 1])), 8);
        assert_eq!(argmax(&run(&mut echo, &[&[1, 7, 8, 4, 7, 8]], &[0, 1])), 3);
        let chat = [2, 20, 39, 7, 8, 3, 39, 2, 21, 39];
        assert_eq!(argmax(&run(&mut echo, &[&chat], &[0, 1, 2])), 7);
        assert_eq!(argmax(&run(&mut echo, &[&chat, &[7], &[8]], &[0, 1, 2])), 3);
    }

    #[test]
    fn a_script_is_told_to_raw_prompts_and_chats_and_ends() {
        let mut script = ScriptedTokens::default();
        script.push(Some(vec![1, 7, 4]), vec![8, 9]);
        script.push(Some(vec![2, 20, 39, 7, 3, 39, 2, 21, 39]), vec![11]);
        let mut replay = backend("mode=replay").with_script(script);
        assert_eq!(argmax(&run(&mut replay, &[&[1, 7, 4]], &[0, 1])), 8);
        assert_eq!(argmax(&run(&mut replay, &[&[1, 7, 4, 8]], &[0, 1])), 9);
        assert_eq!(argmax(&run(&mut replay, &[&[1, 7, 4, 8, 9]], &[0, 1])), 3);
        let chat = [2, 20, 39, 7, 3, 39, 2, 21, 39];
        assert_eq!(argmax(&run(&mut replay, &[&chat], &[0, 1, 2])), 11);
        assert_eq!(argmax(&run(&mut replay, &[&chat, &[11]], &[0, 1, 2])), 3);
    }

    #[test]
    fn a_step_takes_what_it_costs_and_every_nth_more() {
        let mut costly =
            backend("step_ns=2000000,prefill_token_ns=1000000,slow_every=2,slow_us=9000");
        let mut took = || {
            let started = Instant::now();
            run(&mut costly, &[&[5, 6, 7]], &[0]);
            started.elapsed()
        };
        assert!(took() >= Duration::from_millis(5));
        assert!(took() >= Duration::from_millis(14));
    }

    #[test]
    fn injected_faults_come_when_they_were_asked_for() {
        let mut failing = backend("fail_at_step=2");
        run(&mut failing, &[&[5]], &[0]);
        let mut batch = Batch::default();
        batch.push_sequence(&[5], 0, &[BlockIdx(0)], 4, None);
        let mut logits = LogitsBuf::default();
        let found = failing.execute(&batch, &mut logits);
        assert_eq!(found, Err(BackendError::Injected { step: 2 }));
        assert_eq!(failing.execute(&batch, &mut logits), Ok(()));
        assert!(run(&mut backend("nan_at=2"), &[&[5, 6]], &[0])[0].is_nan());
    }
}
