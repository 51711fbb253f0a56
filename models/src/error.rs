//! What can be wrong with a model file.
//!
//! It must never know where files come from; see [`crate::FetchError`] for that.
//!
//! Start reading at [`ModelError`].

use std::path::PathBuf;

/// Why a model cannot be opened or read. Each names the field, its value and the limit.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Something is wrong with this file or folder.
    #[error("{}: {source}", path.display())]
    In {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ModelError>,
    },
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// The file ends before what its header promises.
    #[error("{what} ends at byte {end}, but the file has {size_bytes}")]
    Truncated {
        /// What was being read.
        what: String,
        /// First byte after it.
        end: u64,
        /// Bytes of the file.
        size_bytes: u64,
    },
    /// A number is over its limit.
    #[error("{what} is {value}, but at most {limit} can be")]
    TooLarge {
        /// The field.
        what: String,
        /// Its value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// A field holds what it must not.
    #[error("{what} is {value}, but must be {wanted}")]
    Invalid {
        /// The field.
        what: String,
        /// Its value.
        value: String,
        /// What it must be.
        wanted: String,
    },
    /// A field that the model needs is not there.
    #[error("{key} is missing")]
    MissingKey {
        /// The metadata key or config field.
        key: String,
    },
    /// A name stands twice.
    #[error("{what} {name:?} is given twice")]
    Duplicate {
        /// What kind of name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A tensor that the model needs is not there.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// Its name in the file.
        name: String,
    },
    /// Tensors that the family has no use for: the model is not what its metadata says.
    #[error("tensor {name} has no place in a {family} model, nor have {n_more} more")]
    UnexpectedTensor {
        /// The first one's name.
        name: String,
        /// The family.
        family: &'static str,
        /// How many more there are.
        n_more: usize,
    },
    /// A tensor's shape contradicts the metadata.
    #[error("tensor {name} has shape {found:?}, but the metadata asks for {wanted:?}")]
    TensorShape {
        /// Its name in the file.
        name: String,
        /// The shape in the file, `[out, in]`.
        found: Vec<usize>,
        /// The shape by the metadata.
        wanted: Vec<usize>,
    },
    /// Two tensors share bytes.
    #[error("tensor {second} begins at byte {begin}, inside of tensor {first} that ends at {end}")]
    TensorOverlap {
        /// The one that lies first.
        first: String,
        /// The other.
        second: String,
        /// First byte of `second`.
        begin: u64,
        /// First byte after `first`.
        end: u64,
    },
    /// The model needs what lastmile does not do.
    #[error("{what} {value} is not supported; supported: {supported}")]
    Unsupported {
        /// The field.
        what: String,
        /// Its value.
        value: String,
        /// What is.
        supported: String,
    },
    /// A safetensors header that its own library refuses.
    #[error("not a safetensors file: {source}")]
    SafeTensors {
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A JSON file that is not JSON.
    #[error("not valid JSON: {source}")]
    Json {
        /// Why.
        source: serde_json::Error,
    },
    /// A tokenizer that cannot be built.
    #[error("the tokenizer: {source}")]
    Tokenizer {
        /// Why.
        source: lm_tokenizer::TokenizerError,
    },
    /// A folder without a model.
    #[error("the folder holds neither one .gguf file nor a config.json")]
    NoModel,
    /// A folder with more than one model.
    #[error("the folder holds several models, name one of them: {}", files.join(", "))]
    SeveralModels {
        /// The file names.
        files: Vec<String>,
    },
    /// A role that this model has no tensor for.
    #[error("a {family} model has no tensor {role}")]
    NoSuchRole {
        /// The family.
        family: &'static str,
        /// The role, as GGUF would name it.
        role: String,
    },
}

impl ModelError {
    /// Names the file that the error is about; an error that names one already stays as it is.
    pub(crate) fn in_file(self, path: &std::path::Path) -> ModelError {
        match self {
            ModelError::In { .. } => self,
            other => ModelError::In { path: path.to_path_buf(), source: Box::new(other) },
        }
    }

    /// The field `what` holds `value` where `wanted` must be.
    pub(crate) fn invalid(
        what: impl Into<String>,
        value: impl ToString,
        wanted: impl Into<String>,
    ) -> ModelError {
        ModelError::Invalid { what: what.into(), value: value.to_string(), wanted: wanted.into() }
    }

    /// The field `what` asks for something that lastmile does not do.
    pub(crate) fn unsupported(
        what: impl Into<String>,
        value: impl ToString,
        supported: impl Into<String>,
    ) -> ModelError {
        ModelError::Unsupported {
            what: what.into(),
            value: value.to_string(),
            supported: supported.into(),
        }
    }
}
