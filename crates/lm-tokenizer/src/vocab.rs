//! The vocabulary as GGUF metadata holds it: plain data that a model file's reader fills.
//!
//! It must never know files, formats or how text is encoded.
//!
//! Start reading at [`GgufVocab`].

/// What `tokenizer.ggml.*` says. Index `i` of `tokens`, `scores` and `token_types` is token id `i`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the rule that cuts text into words before BPE.
    pub pre: Option<String>,
    /// The text of each token, in the model's own alphabet. \[vocab_size\]
    pub tokens: Vec<String>,
    /// SentencePiece log-probabilities. \[vocab_size\], or empty for `gpt2`.
    pub scores: Vec<f32>,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. \[vocab_size\] or empty.
    pub token_types: Vec<u32>,
    /// BPE merges as `left right`, best first; empty for `llama`.
    pub merges: Vec<String>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Stands for what cannot be encoded.
    pub unk: Option<u32>,
    /// Fills rows; never generated on purpose.
    pub pad: Option<u32>,
    /// Further ids that the metadata names as ending a generation.
    pub eog: Vec<u32>,
    /// Stands before what precedes a gap that is to be filled.
    pub fim_pre: Option<u32>,
    /// Stands before what follows the gap.
    pub fim_suf: Option<u32>,
    /// Stands before what fills the gap.
    pub fim_mid: Option<u32>,
    /// Ids that the metadata names as ending what fills a gap.
    pub fim_ends: Vec<u32>,
    /// Whether a text begins with `bos`; `None` is the default of `model`.
    pub add_bos: Option<bool>,
    /// Whether a text ends with `eos`; `None` is the default of `model`.
    pub add_eos: Option<bool>,
    /// Whether SentencePiece puts a space before the text; `None` is yes.
    pub add_space_prefix: Option<bool>,
}
