//! The order of operations behind one draw.

mod ordered;

use std::sync::Arc;

use lm_types::{LogitProcessor, PromptLogprob, SamplingParams, TokenId, TokenLogprobs, TokenMask};

use crate::candidates::Candidates;
use crate::repeat;
use crate::row::{Best, Blocks};
use crate::uniform;

/// Draws tokens. Holds scratch memory and no state.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    blocks: Blocks,
    candidates: Candidates,
    /// A row after penalties and bans.
    changed: Vec<f32>,
    /// Tokens of the history, sorted.
    seen: Vec<TokenId>,
}

/// What a draw may look back at, and what it may not choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct History<'a> {
    /// The prompt; counts for the repetition penalty only.
    pub prompt: &'a [TokenId],
    /// The answer so far; counts for all penalties.
    pub generated: &'a [TokenId],
    /// Tokens that must not be drawn.
    pub banned: &'a [TokenId],
    /// The tokens that the answer's grammar allows.
    pub mask: Option<&'a TokenMask>,
    /// What changes the row before all else.
    pub processors: &'a [Arc<dyn LogitProcessor>],
}

/// A draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// When asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// A row that nothing can be drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The backend computed no number.
    #[error("the logits hold NaN or infinity")]
    NotFinite,
    /// Everything is banned.
    #[error("no token is left to draw")]
    NothingLeft,
}

impl Sampler {
    /// A sampler with room for rows of `vocab_size` and histories of `max_model_len`.
    #[must_use]
    pub fn new(vocab_size: usize, max_model_len: usize) -> Self {
        Sampler {
            blocks: Blocks::with_capacity(vocab_size),
            candidates: Candidates::with_capacity(vocab_size),
            changed: Vec::with_capacity(vocab_size),
            seen: Vec::with_capacity(max_model_len),
        }
    }

    /// The draw of a greedy row of which only the greatest logit is known.
    ///
    /// # Errors
    /// It is NaN or infinite.
    pub fn greedy(token: TokenId, logit: f32) -> Result<Sampled, SampleError> {
        match logit {
            f32::NEG_INFINITY => Err(SampleError::NothingLeft),
            _ if logit.is_finite() => Ok(Sampled { token, logprobs: None }),
            _ => Err(SampleError::NotFinite),
        }
    }

    /// Draws the token at `position` (its index in the sequence) from `logits`, `[vocab_size]`.
    /// Order: processors, grammar, allowed tokens, bad words, bias, and then, unless `params` have an order of their own, DRY,
    /// penalties, top-n-sigma, temperature, top-k, typical-p, top-p, min-p. Log-probabilities are those of the model,
    /// before all of these.
    ///
    /// # Errors
    /// The row holds NaN or +infinity, or no token is left.
    pub fn sample(
        &mut self,
        logits: &[f32],
        params: &SamplingParams,
        history: History<'_>,
        position: usize,
    ) -> Result<Sampled, SampleError> {
        let is_changed =
            params.changes_logits() || !history.banned.is_empty() || !history.processors.is_empty();
        let token = match history.mask {
            Some(mask) if !is_changed => self.draw_allowed(logits, mask, params, position)?,
            None if !is_changed => {
                let best = self.blocks.look_through(logits)?;
                self.draw(logits, best, params, position)
            }
            _ => {
                self.blocks.look_through(logits)?;
                let mut changed = std::mem::take(&mut self.changed);
                forbid(&mut changed, logits, params, history);
                let token = match &params.samplers {
                    Some(steps) => {
                        self.draw_in_order(&mut changed, steps, params, history, position)
                    }
                    None => {
                        self.change(&mut changed, params, history);
                        let best = self.blocks.look_through(&changed);
                        best.map(|best| self.draw(&changed, best, params, position))
                    }
                };
                self.changed = changed;
                token?
            }
        };
        let logprobs = params.logprobs.map(|n| self.logprobs(logits, token, n as usize));
        Ok(Sampled { token, logprobs: logprobs.transpose()? })
    }

    /// A draw of which only a grammar says what it may be. Where that is one token there is nothing to draw.
    fn draw_allowed(
        &mut self,
        logits: &[f32],
        mask: &TokenMask,
        params: &SamplingParams,
        position: usize,
    ) -> Result<TokenId, SampleError> {
        if let Some(only) = mask.only() {
            self.blocks.look_through(logits)?;
            let logit = logits.get(only as usize).filter(|logit| **logit > f32::NEG_INFINITY);
            return logit.map(|_| only).ok_or(SampleError::NothingLeft);
        }
        let mut allowed = std::mem::take(&mut self.changed);
        let best = self.blocks.look_through_allowed(logits, mask, &mut allowed);
        let token = best.map(|best| self.draw(&allowed, best, params, position));
        self.changed = allowed;
        token
    }

    /// `logits` are those that the blocks saw last.
    fn draw(
        &mut self,
        logits: &[f32],
        best: Best,
        params: &SamplingParams,
        position: usize,
    ) -> TokenId {
        if params.temperature == 0.0 {
            return best.token;
        }
        let (blocks, candidates) = (&mut self.blocks, &mut self.candidates);
        let factor = 1.0 / params.temperature.max(1e-4);
        let u = uniform(params.seed, position as u64);
        if params.top_k > 0 {
            candidates.fill_top_k(logits, blocks, params.top_k as usize);
            candidates.scale(factor);
            if params.typical_p < 1.0 {
                candidates.typical_p(f64::from(params.typical_p));
            }
            if params.top_p < 1.0 {
                candidates.top_p(f64::from(params.top_p));
            }
        } else if params.typical_p < 1.0 {
            candidates.fill_from(logits, blocks, f32::MIN);
            candidates.scale(factor);
            candidates.typical_p(f64::from(params.typical_p));
            if params.top_p < 1.0 {
                candidates.top_p(f64::from(params.top_p));
            }
        } else if params.top_p < 1.0 {
            let p = f64::from(params.top_p);
            candidates.fill_nucleus(logits, blocks, best, factor, p);
            candidates.scale(factor);
        } else if params.min_p > 0.0 {
            candidates.fill_from(logits, blocks, best.logit + params.min_p.ln() / factor);
            candidates.scale(factor);
        } else {
            let total = blocks.weigh(logits, best.logit, factor);
            let drawn = blocks.at(logits, best.logit, factor, u * total);
            return drawn.unwrap_or(best.token);
        }
        if params.min_p > 0.0 {
            candidates.min_p(params.min_p);
        }
        candidates.draw(u).unwrap_or(best.token)
    }

    /// Applies the usual steps before temperature.
    fn change(&mut self, changed: &mut [f32], params: &SamplingParams, history: History<'_>) {
        if let Some(dry) = &params.dry {
            repeat::penalise(changed, dry, history.prompt, history.generated);
        }
        self.penalise_seen(changed, params, history);
        if params.top_n_sigma > 0.0 {
            keep_within_sigmas(changed, params.top_n_sigma);
        }
    }

    fn penalise_seen(
        &mut self,
        changed: &mut [f32],
        params: &SamplingParams,
        history: History<'_>,
    ) {
        if !params.has_penalties() {
            return;
        }
        let generated = || history.generated.iter().copied();
        let repetition = params.repetition_penalty;
        self.penalise(changed, history.prompt.iter().copied().chain(generated()), |logit, _| {
            if logit > 0.0 { logit / repetition } else { logit * repetition }
        });
        self.penalise(changed, generated(), |logit, count| {
            logit - params.presence_penalty - params.frequency_penalty * count
        });
    }

    /// Calls `change(logit, count)` for each different token of `history`.
    fn penalise(
        &mut self,
        logits: &mut [f32],
        history: impl Iterator<Item = TokenId>,
        change: impl Fn(f32, f32) -> f32,
    ) {
        self.seen.clear();
        self.seen.extend(history);
        self.seen.sort_unstable();
        for run in self.seen.chunk_by(|a, b| a == b) {
            if let Some(logit) = logits.get_mut(run[0] as usize) {
                *logit = change(*logit, run.len() as f32);
            }
        }
    }

    /// How likely `token` was in a row of logits, `[vocab_size]`, with the `n_top` most likely ones.
    ///
    /// # Errors
    /// The row holds NaN or +infinity, or no token is left.
    pub fn score(
        &mut self,
        logits: &[f32],
        token: TokenId,
        n_top: usize,
    ) -> Result<PromptLogprob, SampleError> {
        let TokenLogprobs { token, logprob, top } = self.logprobs(logits, token, n_top)?;
        let own = logits[token as usize];
        let rank = 1 + logits.iter().filter(|&&logit| logit > own).count() as u32;
        Ok(PromptLogprob { token, logprob, rank, top })
    }

    fn logprobs(
        &mut self,
        logits: &[f32],
        token: TokenId,
        n_top: usize,
    ) -> Result<TokenLogprobs, SampleError> {
        let best = self.blocks.look_through(logits)?;
        let log_sum = f64::from(best.logit) + self.blocks.weigh(logits, best.logit, 1.0).ln();
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        self.candidates.fill_top_k(logits, &mut self.blocks, n_top);
        let top = self.candidates.entries();
        Ok(TokenLogprobs {
            token,
            logprob: logprob(logits[token as usize]),
            top: top.iter().map(|&(logit, token)| (token, logprob(logit))).collect(),
        })
    }
}

/// Writes `logits` with what processors change, and with bans and biases, to `changed`.
fn forbid(changed: &mut Vec<f32>, logits: &[f32], params: &SamplingParams, history: History<'_>) {
    changed.clear();
    changed.extend_from_slice(logits);
    for processor in history.processors {
        processor.process(changed, history.prompt, history.generated);
    }
    if let Some(mask) = history.mask {
        mask.forbid(changed);
    }
    restrict(changed, params, history);
}

/// Bans and biases.
fn restrict(logits: &mut [f32], params: &SamplingParams, history: History<'_>) {
    if let Some(allowed) = &params.allowed_token_ids {
        for (token, logit) in logits.iter_mut().enumerate() {
            if allowed.binary_search(&(token as TokenId)).is_err() {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    let mut forbid = |token: TokenId| {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    };
    history.banned.iter().for_each(|&token| forbid(token));
    for word in &params.bad_words {
        if let Some((&last, before)) = word.split_last()
            && history.generated.ends_with(before)
        {
            forbid(last);
        }
    }
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
}

/// Forbids what lies more than `n` standard deviations of the finite logits below the greatest.
fn keep_within_sigmas(logits: &mut [f32], n: f32) {
    let (mut count, mut sum, mut squares, mut max) = (0_f64, 0_f64, 0_f64, f32::NEG_INFINITY);
    for &logit in logits.iter().filter(|logit| logit.is_finite()) {
        let wide = f64::from(logit);
        (count, sum, squares, max) =
            (count + 1.0, sum + wide, squares + wide * wide, max.max(logit));
    }
    let mean = sum / count.max(1.0);
    let sigma = (squares / count.max(1.0) - mean * mean).max(0.0).sqrt();
    let threshold = f64::from(max) - f64::from(n) * sigma;
    let below = logits.iter_mut().filter(|logit| f64::from(**logit) < threshold);
    below.for_each(|logit| *logit = f32::NEG_INFINITY);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    const LOGITS: [f32; 6] = [0.0, 3.0, 1.0, 3.0, -2.0, 2.0];

    fn params() -> SamplingParams {
        SamplingParams::default()
    }

    /// The tokens that ever come out over many positions, sorted.
    fn support(params: &SamplingParams, history: History<'_>) -> Vec<TokenId> {
        let mut sampler = Sampler::default();
        let draw = |position| sampler.sample(&LOGITS, params, history, position).unwrap().token;
        let mut tokens: Vec<TokenId> = (0..20_000).map(draw).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[track_caller]
    fn check(params: SamplingParams, expect: &[TokenId]) {
        assert_eq!(support(&params, History::default()), expect);
    }

    #[test]
    fn filters_leave_what_they_promise() {
        check(params(), &[0, 1, 2, 3, 4, 5]);
        check(SamplingParams { temperature: 0.0, ..params() }, &[1]);
        check(SamplingParams { top_k: 1, ..params() }, &[1]);
        check(SamplingParams { top_k: 3, ..params() }, &[1, 3, 5]);
        check(SamplingParams { top_k: 99, ..params() }, &[0, 1, 2, 3, 4, 5]);
        // p(1) = p(3) = .387, p(5) = .143
        check(SamplingParams { top_p: 0.3, ..params() }, &[1]);
        check(SamplingParams { top_p: 0.7, ..params() }, &[1, 3]);
        check(SamplingParams { top_p: 0.8, ..params() }, &[1, 3, 5]);
        check(SamplingParams { min_p: 0.3, ..params() }, &[1, 3, 5]);
        check(SamplingParams { min_p: 1.0, ..params() }, &[1, 3]);
        check(SamplingParams { top_p: 1e-9, temperature: 2.0, ..params() }, &[1]);
    }

    #[test]
    fn penalties_and_bans_move_the_greedy_choice() {
        let greedy = |params: SamplingParams, history: History<'_>| {
            let params = SamplingParams { temperature: 0.0, ..params };
            Sampler::default().sample(&LOGITS, &params, history, 0).unwrap().token
        };
        let seen = History { generated: &[1, 1, 3], ..History::default() };
        let prompt = History { prompt: &[1, 3], ..History::default() };
        assert_eq!(greedy(params(), seen), 1);
        assert_eq!(greedy(SamplingParams { frequency_penalty: 0.1, ..params() }, seen), 3);
        assert_eq!(greedy(SamplingParams { presence_penalty: 1.5, ..params() }, seen), 5);
        assert_eq!(greedy(SamplingParams { presence_penalty: 1.5, ..params() }, prompt), 1);
        assert_eq!(greedy(SamplingParams { repetition_penalty: 1.6, ..params() }, prompt), 5);
        let banned = History { banned: &[1, 77], ..History::default() };
        assert_eq!(greedy(params(), banned), 3);
    }

    #[test]
    fn processors_change_the_row_before_bans() {
        /// Makes the token after the last generated one likely, and forbids none.
        #[derive(Debug)]
        struct CountsUp;
        impl LogitProcessor for CountsUp {
            fn name(&self) -> &str {
                "counts_up"
            }
            fn process(&self, logits: &mut [f32], prompt: &[TokenId], generated: &[TokenId]) {
                let last = generated.last().or(prompt.last()).copied().unwrap_or(0);
                logits[last as usize + 1] = 100.0;
            }
        }
        let processors: [Arc<dyn LogitProcessor>; 1] = [Arc::new(CountsUp)];
        let draw = |generated: &[TokenId], banned: &[TokenId], mask: Option<&TokenMask>| {
            let history =
                History { prompt: &[1], generated, banned, mask, processors: &processors };
            let sampled = Sampler::default().sample(&LOGITS, &params(), history, 0).unwrap();
            sampled.token
        };
        assert_eq!(draw(&[], &[], None), 2);
        assert_eq!(draw(&[3], &[], None), 4);
        assert_ne!(draw(&[3], &[4], None), 4);
        let mask = TokenMask::from_words(vec![0b10_0001]);
        assert_eq!(draw(&[4], &[], Some(&mask)), 5);
        assert!([0, 5].contains(&draw(&[3], &[], Some(&mask))));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let mut sampler = Sampler::default();
        let logits = [0.0, 2f32.ln()];
        let ones = (0..30_000)
            .filter(|&i| {
                sampler.sample(&logits, &params(), History::default(), i).unwrap().token == 1
            })
            .count();
        assert!((19_600..20_400).contains(&ones), "{ones} of 30000 draws, expected 20000");
    }

    #[test]
    fn broken_rows_are_errors() {
        let sample = |logits: &[f32], banned: &[TokenId]| {
            let history = History { banned, ..History::default() };
            Sampler::default().sample(logits, &params(), history, 0).map(|s| s.token)
        };
        assert_eq!(sample(&[0.0, f32::NAN], &[]), Err(SampleError::NotFinite));
        assert_eq!(sample(&[0.0, f32::INFINITY], &[]), Err(SampleError::NotFinite));
        assert_eq!(sample(&[f32::NEG_INFINITY; 2], &[]), Err(SampleError::NothingLeft));
        assert_eq!(sample(&[1.0, 0.0], &[0, 1]), Err(SampleError::NothingLeft));
        assert_eq!(sample(&[1.0, f32::NEG_INFINITY], &[]), Ok(0));
    }

    #[test]
    fn logprobs_are_those_of_the_model() {
        let params = SamplingParams { top_k: 1, logprobs: Some(3), ..params() };
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let sampled = Sampler::default().sample(&logits, &params, History::default(), 0).unwrap();
        let found = sampled.logprobs.unwrap();
        let tokens: Vec<TokenId> = found.top.iter().map(|t| t.0).collect();
        assert_eq!((found.token, tokens), (2, vec![2, 1, 0]));
        assert!((found.logprob - (5f32 / 8.0).ln()).abs() < 1e-6);
        assert!((found.top[2].1 - (1f32 / 8.0).ln()).abs() < 1e-6);
    }

    /// The drawn token's share of the way through the probabilities that are left, computed plainly.
    fn share(logits: &[f32], params: &SamplingParams, token: TokenId) -> Option<(f64, f64)> {
        let scaled = |logit: f32| f64::from(logit) / f64::from(params.temperature);
        let mut left: Vec<(f64, usize)> =
            logits.iter().map(|&logit| scaled(logit)).zip(0..).collect();
        let is_filtered = params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0;
        if is_filtered {
            left.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        if params.top_k > 0 {
            left.truncate(params.top_k as usize);
        }
        let max = left.iter().map(|entry| entry.0).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = left.iter().map(|entry| (entry.0 - max).exp()).sum();
        let mut sum = 0.0;
        left.retain(|entry| {
            let is_needed = sum < f64::from(params.top_p) * total * (1.0 + 1e-4);
            sum += (entry.0 - max).exp();
            is_needed && entry.0 - max >= f64::from(params.min_p).ln() - 1e-4
        });
        let total: f64 = left.iter().map(|entry| (entry.0 - max).exp()).sum();
        let place = left.iter().position(|entry| entry.1 == token as usize)?;
        let before: f64 = left[..place].iter().map(|entry| (entry.0 - max).exp()).sum();
        Some((before / total, (before + (left[place].0 - max).exp()) / total))
    }

    proptest! {
        #[test]
        fn any_row_and_parameters_give_a_token_of_the_row(
            logits in prop::collection::vec(-50f32..50.0, 1..300),
            temperature in 0f32..2.0, top_k in 0u32..400, top_p in 0.001f32..1.0,
            min_p in 0f32..1.0, seed: u64, position in 0usize..100_000,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..params() };
            let sample = || Sampler::default().sample(&logits, &params, History::default(), position);
            let token = sample().unwrap().token;
            prop_assert!((token as usize) < logits.len());
            prop_assert_eq!(token, sample().unwrap().token);
        }

        #[test]
        fn a_grammar_draws_as_if_all_that_it_forbids_were_banned(
            logits in prop::collection::vec(-9f32..9.0, 1..700), density in 0u32..4,
            words in prop::collection::vec(any::<u32>(), 0..24), one in 0u32..700,
            temperature in prop_oneof![Just(0.0), 0.2f32..2.0],
            top_k in prop_oneof![Just(0), 1u32..40], top_p in prop_oneof![Just(1.0), 0.1f32..1.0],
            min_p in prop_oneof![Just(0.0), 0.001f32..0.5], seed: u64,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..params() };
            // Nothing, one token, some, and nearly all.
            let words: Vec<u32> = (0..).zip(words).map(|(i, word)| match density {
                0 => 0,
                1 if one / 32 == i => 1 << (one % 32),
                1 => 0,
                2 => word,
                _ => if word.is_multiple_of(3) { word } else { u32::MAX },
            }).collect();
            let mask = TokenMask::from_words(words);
            let banned: Vec<TokenId> =
                (0..logits.len() as TokenId).filter(|&token| !mask.allows(token)).collect();
            let by_mask = History { mask: Some(&mask), ..History::default() };
            let by_list = History { banned: &banned, ..History::default() };
            let sample = |history| Sampler::default().sample(&logits, &params, history, 5);
            prop_assert_eq!(sample(by_mask), sample(by_list));
            let mut broken = logits.clone();
            broken[logits.len() / 2] = f32::NAN;
            let found = Sampler::default().sample(&broken, &params, by_mask, 5);
            prop_assert_eq!(found, Err(SampleError::NotFinite));
        }

        #[test]
        fn draws_are_those_of_plain_arithmetic(
            logits in prop::collection::vec(-9f32..9.0, 1..700), temperature in 0.2f32..2.0,
            top_k in prop_oneof![Just(0), 1u32..400], top_p in prop_oneof![Just(1.0), 0.1f32..1.0],
            min_p in prop_oneof![Just(0.0), 0.001f32..0.5], seed: u64,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..params() };
            let token = Sampler::default().sample(&logits, &params, History::default(), 5).unwrap().token;
            let (from, to) = share(&logits, &params, token).expect("the token is among those left");
            let u = uniform(seed, 5);
            // A token more or less at the nucleus's end moves all shares by its own.
            let slack = 1e-4 + if top_p < 1.0 { 0.01 } else { 0.0 };
            prop_assert!(from - slack <= u && u <= to + slack, "{u} is not in {from}..{to}");
        }
    }
}
