//! The fast CPU executor: quantised weights in panels, paged f16 KV, and a pool of workers over
//! `lm-kernels`.
//!
//! It must never know sequences, queues or text, nor an instruction set: kernels choose their own.
//!
//! Start reading at [`CpuBackend`], then at `Executor::forward` in `executor.rs`.

mod arena;
mod attention;
mod backend;
mod embedding;
mod executor;
mod head;
mod kv;
mod layer;
mod lora;
mod matrix;
mod memory;
mod mlp;
mod probe;
mod rope;
mod scratch;

pub use backend::{CpuBackend, CpuOptions, LoadError};
pub use lm_kernels::KvType;
pub use lora::CpuAdapters;
pub use matrix::packed_bytes;
pub use probe::MachineProbe;
