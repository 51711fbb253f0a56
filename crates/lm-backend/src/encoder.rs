//! The seam for models that read a text once and write none: texts in, one row of numbers for each out.

use lm_types::TokenId;

use crate::BackendError;

/// Runs an encoder. Texts of one batch never see each other.
pub trait Encoder: Send {
    /// The facts of the model.
    fn spec(&self) -> &EncoderSpec;

    /// Appends one row for each text of the batch, in order: `[n_texts, width]` of [`EncoderSpec`].
    ///
    /// # Errors
    /// The batch failed as a whole; what was appended means nothing.
    fn encode(&mut self, batch: &EncoderBatch, rows: &mut Vec<f32>) -> Result<(), BackendError>;
}

/// The facts of a loaded encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderSpec {
    /// The executor and its numeric path, such as `candle-cpu-f32`. Part of the release.
    pub kernel_path: String,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Longest text in tokens, those that begin and end it included.
    pub max_model_len: usize,
    /// Bytes of resident weights.
    pub weights_bytes: u64,
    /// What a row says.
    pub output: EncoderOutput,
}

/// What the rows of an encoder say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncoderOutput {
    /// A vector of this many numbers, as pooled: not normalised.
    Vector {
        /// How many.
        dimensions: usize,
    },
    /// A logit for each label; a cross-encoder has one.
    Labels {
        /// The labels' names.
        names: Vec<String>,
    },
}

/// Texts that are encoded together: flat vectors, no padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncoderBatch {
    /// Tokens of all texts, one after the other. `[n_tokens]`
    pub input_ids: Vec<TokenId>,
    /// 0, or 1 in the second text of a pair. `[n_tokens]`
    pub token_types: Vec<u32>,
    /// Where texts begin, and where the last one ends. `[n_texts + 1]`
    pub cu_seqlens: Vec<u32>,
}

impl EncoderSpec {
    /// Numbers in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        match &self.output {
            EncoderOutput::Vector { dimensions } => *dimensions,
            EncoderOutput::Labels { names } => names.len(),
        }
    }
}

impl EncoderBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        EncoderBatch { cu_seqlens: vec![0], ..EncoderBatch::default() }
    }

    /// Adds a text.
    ///
    /// # Panics
    /// When ids and types differ in number, or a batch has more than 2^32 tokens.
    pub fn push(&mut self, input_ids: &[TokenId], token_types: &[u32]) {
        assert_eq!(input_ids.len(), token_types.len(), "each token has a type");
        self.input_ids.extend_from_slice(input_ids);
        self.token_types.extend_from_slice(token_types);
        self.cu_seqlens.push(u32::try_from(self.input_ids.len()).expect("a batch is small"));
    }

    /// How many texts there are.
    #[must_use]
    pub fn n_texts(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// Where the tokens of each text lie.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.cu_seqlens.windows(2).map(|ends| ends[0] as usize..ends[1] as usize)
    }
}
