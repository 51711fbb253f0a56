//! How well a model predicts a text, by the method of llama.cpp's `llama-perplexity`.
//!
//! The text is tokenised once and cut into windows of `ctx` tokens; an incomplete last one is
//! dropped. Where the model begins texts with a token, it replaces each window's first. Each window
//! starts from nothing, and the tokens of its second half are scored.

use lm_backend::{Backend, BackendError, Batch, LogitsBuf, SampleRow, Want};
use lm_tokenizer::{EncodeOptions, TokenizerError};
use lm_types::{BlockIdx, TokenId};

use crate::loading::{Loaded, load_alone};
use crate::{LoadError, RuntimeConfig};

/// Tokens that are run at once: bounds the rows of logits in memory.
const CHUNK: usize = 128;

/// The result over all windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp` of the mean negative log-likelihood.
    pub perplexity: f64,
    /// The mean negative log-likelihood of a token, in nats.
    pub mean_nll: f64,
    /// Standard error of `mean_nll`.
    pub standard_error: f64,
    /// Windows that were run.
    pub n_windows: usize,
    /// Tokens that were scored.
    pub n_scored: usize,
}

/// Why a text has no perplexity.
#[derive(Debug, thiserror::Error)]
pub enum PerplexityError {
    /// The model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The text.
    #[error("the text cannot be tokenised: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The executor.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Windows that the model cannot hold, or that have no second half.
    #[error("ctx is {ctx}, but must be 4 to {max_model_len}")]
    Ctx {
        /// Tokens of a window.
        ctx: usize,
        /// The model's context.
        max_model_len: usize,
    },
    /// Not one window.
    #[error("the text has {n_tokens} tokens, but one window takes {ctx}")]
    TextTooShort {
        /// Tokens of the text.
        n_tokens: usize,
        /// Tokens of a window.
        ctx: usize,
    },
}

/// Scores the first `max_windows` windows of `text`; calls `progress(done, total, perplexity so far)`
/// after each.
///
/// # Errors
/// The model cannot be loaded, or the text is shorter than a window.
pub fn perplexity(
    config: &RuntimeConfig,
    text: &str,
    ctx: usize,
    max_windows: Option<usize>,
    mut progress: impl FnMut(usize, usize, f64),
) -> Result<Perplexity, PerplexityError> {
    let Loaded { mut backend, tokenizer, .. } = load_alone(config)?;
    let spec = backend.spec();
    let max_model_len = spec.max_model_len.min(spec.n_blocks * spec.block_size);
    if !(4..=max_model_len).contains(&ctx) {
        return Err(PerplexityError::Ctx { ctx, max_model_len });
    }
    let options = EncodeOptions { add_special: true, parse_special: false };
    let tokens = tokenizer.encode(text, options)?;
    let n_windows = (tokens.len() / ctx).min(max_windows.unwrap_or(usize::MAX));
    if n_windows == 0 {
        return Err(PerplexityError::TextTooShort { n_tokens: tokens.len(), ctx });
    }
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let mut nll = Vec::new();
    for (i, window) in tokens.chunks_exact(ctx).take(n_windows).enumerate() {
        let mut window = window.to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        score_window(backend.as_mut(), &window, &mut nll)?;
        progress(i + 1, n_windows, summary(&nll, i + 1).perplexity);
    }
    Ok(summary(&nll, n_windows))
}

/// Appends the negative log-likelihood of each token of the window's second half but the first.
fn score_window(
    backend: &mut dyn Backend,
    window: &[TokenId],
    nll: &mut Vec<f64>,
) -> Result<(), BackendError> {
    let block_size = backend.spec().block_size;
    let n_blocks = window.len().div_ceil(block_size) as u32;
    let table: Vec<BlockIdx> = (0..n_blocks).map(BlockIdx).collect();
    let (mut batch, mut logits) = (Batch::default(), LogitsBuf::default());
    // The logits at position p predict the token at p + 1.
    let scored = window.len() / 2..window.len() - 1;
    for start in (0..window.len()).step_by(CHUNK) {
        let chunk = &window[start..window.len().min(start + CHUNK)];
        batch.clear();
        batch.push_sequence(chunk, start, &table, block_size, None);
        let rows = (0..chunk.len()).filter(|i| scored.contains(&(start + i)));
        batch
            .sample_rows
            .extend(rows.clone().map(|i| SampleRow { token_idx: i as u32, want: Want::Full }));
        backend.execute(&batch, &mut logits)?;
        for (row, i) in rows.enumerate() {
            nll.push(negative_log_likelihood(logits.row(row), window[start + i + 1]));
        }
    }
    Ok(())
}

fn negative_log_likelihood(logits: &[f32], token: TokenId) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    max + sum.ln() - f64::from(logits[token as usize])
}

fn summary(nll: &[f64], n_windows: usize) -> Perplexity {
    let n = nll.len() as f64;
    let mean = nll.iter().sum::<f64>() / n;
    let variance = nll.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    Perplexity {
        perplexity: mean.exp(),
        mean_nll: mean,
        standard_error: (variance / n).sqrt(),
        n_windows,
        n_scored: nll.len(),
    }
}
