//! What an encoder computes, as data, and the tensors that it needs.
//!
//! It must never know how tensors are called in a file.
//!
//! Start reading at [`EncoderModelSpec`].

/// What an encoder computes.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderModelSpec {
    /// How its tensors are called, and what it has.
    pub family: EncoderFamily,
    /// Layers.
    pub n_layers: usize,
    /// Numbers of a token between layers.
    pub hidden_size: usize,
    /// Heads of attention.
    pub n_heads: usize,
    /// Numbers of a token within a layer's MLP.
    pub intermediate_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Rows of the table of positions.
    pub n_positions: usize,
    /// The first position that a token has: `RoBERTa` leaves the first ones free.
    pub first_position: usize,
    /// Kinds of tokens: 2 where pairs are told apart, 0 where nothing is added for it.
    pub n_token_types: usize,
    /// Added to variances.
    pub layer_norm_eps: f32,
    /// Between the two products of an MLP.
    pub activation: EncoderActivation,
    /// How tokens become a vector.
    pub pooling: Pooling,
    /// What stands on top.
    pub head: Option<LabelHead>,
    /// Longest text, tokens around it included, that its authors recommend.
    pub max_len: usize,
}

/// The families that are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderFamily {
    /// BERT: positions from 0, two token types.
    Bert,
    /// `RoBERTa` and XLM-RoBERTa: positions after the padding's id, one token type.
    Roberta,
    /// `DistilBERT`: no token types.
    DistilBert,
}

/// Between the two products of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderActivation {
    /// By the error function.
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// How the tokens of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The greatest of each number.
    Max,
}

/// What turns the first token's vector into logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelHead {
    /// The labels' names, in order.
    pub labels: Vec<String>,
    /// Whether more than one label may hold, so that each has a sigmoid of its own.
    pub is_multi_label: bool,
}

/// A tensor of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderTensor {
    /// `[vocab_size, hidden]`.
    Words,
    /// `[n_positions, hidden]`.
    Positions,
    /// `[n_token_types, hidden]`.
    TokenTypes,
    /// A norm or product with weight and bias: after the embeddings, of a layer, or of the head.
    Weight(EncoderPart),
    /// Its bias.
    Bias(EncoderPart),
}

/// Something with a weight and a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the papers")]
pub enum EncoderPart {
    EmbeddingNorm,
    Query(usize),
    Key(usize),
    Value(usize),
    AttentionOutput(usize),
    AttentionNorm(usize),
    Up(usize),
    Down(usize),
    OutputNorm(usize),
    HeadDense,
    HeadOutput,
}

impl EncoderModelSpec {
    /// Every tensor with its shape.
    #[must_use]
    pub fn tensor_shapes(&self) -> Vec<(EncoderTensor, Vec<usize>)> {
        use EncoderPart as P;
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let mut all = vec![
            (EncoderTensor::Words, vec![self.vocab_size, hidden]),
            (EncoderTensor::Positions, vec![self.n_positions, hidden]),
        ];
        if self.n_token_types > 0 {
            all.push((EncoderTensor::TokenTypes, vec![self.n_token_types, hidden]));
        }
        let mut part = |part: P, out: usize, input: Option<usize>| {
            let weight = input.map_or_else(|| vec![out], |input| vec![out, input]);
            all.push((EncoderTensor::Weight(part), weight));
            all.push((EncoderTensor::Bias(part), vec![out]));
        };
        part(P::EmbeddingNorm, hidden, None);
        for layer in 0..self.n_layers {
            for product in [P::Query, P::Key, P::Value, P::AttentionOutput] {
                part(product(layer), hidden, Some(hidden));
            }
            part(P::AttentionNorm(layer), hidden, None);
            part(P::Up(layer), inner, Some(hidden));
            part(P::Down(layer), hidden, Some(inner));
            part(P::OutputNorm(layer), hidden, None);
        }
        if let Some(head) = &self.head {
            part(P::HeadDense, hidden, Some(hidden));
            part(P::HeadOutput, head.labels.len(), Some(hidden));
        }
        all
    }

    /// Bytes of its weights as f32.
    #[must_use]
    pub fn f32_bytes(&self) -> u64 {
        let shapes = self.tensor_shapes();
        let n: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        (n * size_of::<f32>()) as u64
    }
}
