//! From a row of logits and its parameters to a token. Pure.
//!
//! It must never know other rows, sequences, text or time: the same row, parameters, history, seed
//! and position give the same token, whatever ran beside it.
//!
//! Start reading at [`Sampler::sample`].

mod candidates;
mod repeat;
mod rng;
mod row;
mod sampler;

pub use rng::uniform;
pub use sampler::{History, SampleError, Sampled, Sampler};
