//! GGUF files: a bounded reader over mapped bytes, and a writer.
//!
//! It must never know a model family or what a tensor is for. Every byte is untrusted: each length,
//! count and offset is checked against the file's size before anything is allocated for it.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3,
//! little-endian.
//!
//! Start reading at [`Header::parse`].

mod cursor;
mod header;
mod metadata;
mod split;
mod vocab;

pub mod write;

#[cfg(test)]
mod tests;

pub use header::{Header, TensorInfo};
pub use metadata::{Array, Metadata, Value};
pub(crate) use split::GgufFiles;
pub(crate) use vocab::read_vocab;
