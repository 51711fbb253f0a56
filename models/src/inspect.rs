//! A model's facts as plain data, for people and programs to look at.
//!
//! It must never touch a tensor's bytes.
//!
//! Start reading at [`Summary::of`].

use std::collections::BTreeMap;

use crate::{DecoderSpec, Model, ModelError, TensorType, TokenizerSource, tensor_shapes};

/// What a model is, in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// As [`Model::name`].
    pub name: String,
    /// The family: `llama`, `gemma3`, …
    pub architecture: &'static str,
    /// Numbers in all tensors.
    pub n_params: u64,
    /// Bytes of the weight files.
    pub size_bytes: u64,
    /// By type, in ggml's order.
    pub tensor_types: Vec<TensorTypeCount>,
    /// `gguf gpt2`, `gguf llama`, `tokenizer.json` or `placeholder`.
    pub tokenizer: String,
    /// Whether conversations can be rendered.
    pub has_chat_template: bool,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Every token that ends a generation.
    pub eos: Vec<u32>,
    /// The decoder.
    pub spec: DecoderSpec,
}

/// How many tensors are stored in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorTypeCount {
    /// The way.
    pub dtype: TensorType,
    /// Tensors.
    pub n_tensors: usize,
    /// Numbers in them.
    pub n_params: u64,
}

impl Summary {
    /// Looks at an opened model.
    ///
    /// # Errors
    /// As [`Model::tensor_type`]; none that [`crate::open`] would not have given.
    pub fn of(model: &Model) -> Result<Summary, ModelError> {
        let mut by_type: BTreeMap<TensorType, TensorTypeCount> = BTreeMap::new();
        for (role, shape) in tensor_shapes(&model.spec) {
            let dtype = model.tensor_type(role)?;
            let none = TensorTypeCount { dtype, n_tensors: 0, n_params: 0 };
            let count = by_type.entry(dtype).or_insert(none);
            count.n_tensors += 1;
            count.n_params += shape.iter().product::<usize>() as u64;
        }
        Ok(Summary {
            name: model.name.clone(),
            architecture: model.spec.family,
            n_params: model.n_params(),
            size_bytes: model.size_bytes(),
            tensor_types: by_type.into_values().collect(),
            tokenizer: match &model.tokenizer {
                TokenizerSource::Gguf(vocab) => format!("gguf {}", vocab.model),
                TokenizerSource::HuggingFace { .. } => "tokenizer.json".to_owned(),
                TokenizerSource::Placeholder => "placeholder".to_owned(),
            },
            has_chat_template: model.chat_template.is_some(),
            bos: model.bos,
            eos: model.eos.clone(),
            spec: model.spec.clone(),
        })
    }
}
