//! The oracle: plain Rust, straight from the definition of each type.
//! Must never know a vector unit; what it says is right by definition.
//! Start at [`sub`] for what 32 weights are, then `gemm`.

pub(crate) mod attend;
pub(crate) mod dequantize;
pub(crate) mod gemm;
pub(crate) mod repack;
pub(crate) mod sub;
