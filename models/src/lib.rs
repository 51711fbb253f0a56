//! Decoders and encoders described as data, weight files, model cards, and where to fetch them.
//!
//! It must never know a tensor library, an executor, an HTTP server or the JSON of the wire: it
//! hands out shapes, element types and bytes. Model files are untrusted input, and nothing here
//! panics on one.
//!
//! Start reading at [`open`], then [`DecoderSpec`]; for fetching at [`pull`].

mod error;
mod spec;
mod tensor;

mod open;
mod open_tokenizer;

mod check;
mod model;
mod roles;

mod families;
mod plain;
mod rope;

mod gemma2;
mod gemma3;
mod granite;
mod llama;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;

pub mod gguf;
mod hf_config;
mod mapped;
mod random;
mod safetensors;

mod encoder;
mod encoder_config;
mod encoder_spec;

mod inspect;

mod lora;

mod export;

mod catalog;
mod fetch;
mod model_ref;

pub use catalog::{Card, CardFile, Catalog, PackagePart, Source};
pub use encoder::{EncoderModel, open_encoder};
pub use encoder_spec::{
    EncoderActivation, EncoderFamily, EncoderModelSpec, EncoderPart, EncoderTensor, LabelHead,
    Pooling,
};
pub use error::ModelError;
pub use export::{Assigned, Export, ExportTensor, RECIPES, Recipe, SHAPES, shape};
pub use fetch::{
    Attempt, FetchError, Home, Installed, InstalledFile, NoProgress, Progress, PullOptions,
    installed, locate, pull, remove,
};
pub use inspect::{Summary, TensorTypeCount};
pub use lm_tokenizer::GgufVocab;
pub use lora::{LoraAdapter, LoraPart, open_lora};
pub use model::{DefaultSampling, Model, TokenizerSource};
pub use model_ref::ModelRef;
pub use open::{WeightsFrom, open};
pub use open_tokenizer::open_tokenizer;
pub use roles::tensor_shapes;
pub use spec::{
    Activation, DecoderSpec, LayerTensor, NormPlacement, NormSpec, QkNorm, RopeLayout, RopeScaling,
    RopeSpec, TensorRole,
};
pub use tensor::{TensorType, TensorView};
