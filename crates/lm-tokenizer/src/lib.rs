//! Text to token ids and back: encoding, incremental decoding that is UTF-8 safe, stop strings.
//!
//! It must never know requests, schedulers, models' weights or chat templates. It opens no file but
//! a `tokenizer.json`, and it never prints.
//!
//! Start reading at [`Tokenizer`]; then [`DecodeStream`] and [`StopMatcher`], the way back.

mod bpe;
mod decode;
mod end_tokens;
mod error;
mod fim;
mod gguf;
mod guard;
mod hf;
mod merge;
pub mod placeholder;
mod pre_tokenizer;
mod special;
mod spm;
mod stop;
mod token_table;
mod tokenizer;
mod vocab;
mod wordpiece;

pub use decode::DecodeStream;
pub use error::TokenizerError;
pub use fim::FimTokens;
pub use pre_tokenizer::pre_tokenizer_names;
pub use stop::{StopMatcher, StopScan};
pub use tokenizer::{EncodeOptions, Tokenizer};
pub use vocab::GgufVocab;
