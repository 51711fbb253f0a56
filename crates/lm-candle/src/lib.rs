//! An executor on candle's tensors: simple to read, and the numeric reference on CPU, where it turns
//! all weights into f32.
//!
//! It must never know sequences, queues or text, and keeps no KV inside the model: KV memory is an
//! argument of [`Decoder::forward`].
//!
//! It also turns weights from one storage type into another: [`requantize`].
//!
//! Start reading at [`CandleBackend`], then [`Decoder::forward`]; for texts to vectors at [`CandleEncoder`].

mod attention;
mod backend;
mod decoder;
mod encoder;
mod kv;
mod lora;
mod quantize;
mod rope;
mod weights;

pub use backend::{CandleBackend, CandleOptions, LoadError};
pub use decoder::{Decoder, first_gpu};
pub use encoder::CandleEncoder;
pub use kv::{PagedKv, StepSlots};
pub use lora::{CandleAdapters, StepAdapters};
pub use quantize::{QuantizeError, requantize};
