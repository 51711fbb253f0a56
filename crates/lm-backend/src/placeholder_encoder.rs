//! An encoder without a model: hashes of words, added up, so that texts which share words are near each
//! other, and so that a text which got another's tokens shows it.
//!
//! It must never know text.

use std::time::{Duration, Instant};

use lm_types::TokenId;

use crate::placeholder::mix;
use crate::{
    BackendError, Encoder, EncoderBatch, EncoderOutput, EncoderSpec, PlaceholderMode,
    PlaceholderOptions, StepLoad,
};

/// Numbers in a placeholder's vector.
const DIMENSIONS: usize = 64;

/// An encoder that hashes instead of computing.
#[derive(Debug)]
pub struct PlaceholderEncoder {
    spec: EncoderSpec,
    options: PlaceholderOptions,
    n_steps: u64,
}

impl PlaceholderEncoder {
    /// Of mode `embed` a vector, of mode `classify` as many labels as the options say.
    #[must_use]
    pub fn new(options: PlaceholderOptions, vocab_size: usize) -> Self {
        let output = match options.mode {
            PlaceholderMode::Classify => {
                let names = (0..options.labels).map(|i| format!("LABEL_{i}")).collect();
                EncoderOutput::Labels { names }
            }
            _ => EncoderOutput::Vector { dimensions: DIMENSIONS },
        };
        let spec = EncoderSpec {
            kernel_path: "placeholder".to_owned(),
            vocab_size,
            max_model_len: options.max_model_len,
            weights_bytes: 0,
            output,
        };
        PlaceholderEncoder { spec, options, n_steps: 0 }
    }

    /// The faults and delays that were asked for.
    fn begin(&mut self, n_tokens: usize) -> Result<(), BackendError> {
        self.n_steps += 1;
        let (step, options) = (self.n_steps, &self.options);
        let mut delay = options.delay + options.delay_per_token * n_tokens as u32;
        if options.slow_every.is_some_and(|every| step.is_multiple_of(every)) {
            delay += options.slow;
        }
        if options.hang_at_step == Some(step) {
            delay += options.hang;
        }
        if delay > Duration::ZERO {
            std::thread::sleep(delay);
        }
        assert!(options.panic_at_step != Some(step), "panic injected at step {step}");
        let fails = options.fail_every.is_some_and(|every| step.is_multiple_of(every));
        if fails || options.fail_at_step == Some(step) {
            return Err(BackendError::Injected { step });
        }
        Ok(())
    }

    /// The sum of the hashes of the tokens and of their pairs, so that order counts a little.
    fn vector(&self, tokens: &[TokenId], rows: &mut Vec<f32>) {
        let mut sums = [0.0; DIMENSIONS];
        let mut add = |hash: u64, weight: f32| {
            let mut state = hash;
            for sum in &mut sums {
                state = mix(state);
                *sum += if state & 1 == 0 { weight } else { -weight };
            }
        };
        for token in tokens {
            add(mix(self.options.seed ^ u64::from(*token)), 1.0);
        }
        for pair in tokens.windows(2) {
            add(mix(self.options.seed ^ (u64::from(pair[0]) << 32 | u64::from(pair[1]))), 0.25);
        }
        rows.extend(sums);
    }

    /// The share of the first text's tokens that the second one has; other labels are hashes.
    fn labels(&self, tokens: &[TokenId], types: &[u32], n: usize, rows: &mut Vec<f32>) {
        let of = |side: u32| {
            let mut side: Vec<_> =
                tokens.iter().zip(types).filter(|(_, t)| **t == side).map(|(id, _)| *id).collect();
            side.sort_unstable();
            side.dedup();
            side
        };
        let (first, second) = (of(0), of(1));
        let shared = first.iter().filter(|id| second.binary_search(id).is_ok()).count();
        rows.push(8.0 * shared as f32 / first.len().max(1) as f32 - 4.0);
        let mut state =
            tokens.iter().fold(self.options.seed, |hash, id| mix(hash ^ u64::from(*id)));
        for _ in 1..n {
            state = mix(state);
            rows.push((state >> 40) as f32 / (1 << 21) as f32 - 4.0);
        }
    }
}

impl Encoder for PlaceholderEncoder {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn encode(&mut self, batch: &EncoderBatch, rows: &mut Vec<f32>) -> Result<(), BackendError> {
        let began = Instant::now();
        let n_tokens = batch.input_ids.len();
        self.begin(n_tokens)?;
        for range in batch.ranges() {
            let (ids, types) = (&batch.input_ids[range.clone()], &batch.token_types[range]);
            let begin = rows.len();
            match &self.spec.output {
                EncoderOutput::Vector { .. } => self.vector(ids, rows),
                EncoderOutput::Labels { names } => self.labels(ids, types, names.len(), rows),
            }
            if self.options.nan_at.is_some_and(|at| at as usize == ids.len()) {
                rows[begin..].fill(f32::NAN);
            }
        }
        let load = StepLoad { n_prefill_tokens: n_tokens as u64, ..StepLoad::default() };
        let left = self.options.costs.of(&load).saturating_sub(began.elapsed());
        if !self.options.costs.is_zero() && left > Duration::ZERO {
            std::thread::sleep(left);
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn rows(options: &str, texts: &[(&[TokenId], &[u32])]) -> Result<Vec<f32>, BackendError> {
        let mut encoder = PlaceholderEncoder::new(options.parse().unwrap(), 512);
        let mut batch = EncoderBatch::new();
        texts.iter().for_each(|(ids, types)| batch.push(ids, types));
        let mut rows = Vec::new();
        encoder.encode(&batch, &mut rows)?;
        Ok(rows)
    }

    #[test]
    fn texts_that_share_words_are_near_and_do_not_see_each_other() {
        let (a, b, c): (&[u32], &[u32], &[u32]) = (&[5, 6, 7, 8], &[5, 6, 7, 9], &[50, 60, 70, 80]);
        let types: &[u32] = &[0; 4];
        let all = rows("mode=embed", &[(a, types), (b, types), (c, types)]).unwrap();
        let dot = |x: usize, y: usize| -> f32 {
            let row = |i: usize| &all[i * DIMENSIONS..(i + 1) * DIMENSIONS];
            row(x).iter().zip(row(y)).map(|(x, y)| x * y).sum()
        };
        assert!(dot(0, 1) > 2.0 * dot(0, 2).abs());
        assert_eq!(rows("mode=embed", &[(b, types)]).unwrap(), all[DIMENSIONS..2 * DIMENSIONS]);
    }

    #[test]
    fn labels_say_how_much_is_shared_and_faults_come_when_asked_for() {
        let pair: (&[u32], &[u32]) = (&[5, 6, 5, 6], &[0, 0, 1, 1]);
        assert_eq!(rows("mode=classify", &[pair]).unwrap(), [4.0]);
        let three = rows("mode=classify,labels=3", &[pair]).unwrap();
        assert!(three.len() == 3 && three.iter().all(|logit| logit.abs() <= 4.0));
        assert!(rows("mode=embed,fail_at_step=1", &[pair]).is_err());
        assert!(rows("mode=embed,nan_at=4", &[pair]).unwrap().iter().all(|x| x.is_nan()));
    }
}
