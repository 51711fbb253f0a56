//! `lm-kernels`: the arithmetic of a decoder on CPU, slices in and slices out: quantised matrix
//! products, attention over paged KV, norms, activations.
//!
//! It must never know a model or a batch: the caller splits the work, and no result depends on how. Every kernel computes the same float operations in the same order on every instruction
//! set, so the same inputs give the same bits on all of them.
//!
//! Start reading at [`gemm`] for the matrix products, [`attend_span`] for attention, [`Isa::detect`]
//! for what every function wants first. What is computed is defined by the scalar modules; `x86`
//! only repeats it faster.

#![expect(unsafe_code, reason = "vector instructions behind detection, and the pool of workers")]

mod acts;
mod attend;
mod columns;
mod denormals;
mod dispatch;
mod isa;
mod lanes;
mod layout;
mod pack;
mod page;
mod pool;
pub mod probe;
mod scalar;
mod share;
mod stored;
mod types;
mod vector;
mod worker;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use acts::{ACT_BLOCK, ActBlock, Acts, QuantizedActs, SplitBlock};
pub use attend::{AttendOut, KvPages, Query, SPAN, attend_span, merge_span};
pub use columns::Columns;
pub use denormals::flush_denormals;
pub use dispatch::{Panels, Put, gemm, quantize_activations};
pub use isa::{Isa, UnknownIsa};
pub use layout::{PANEL_ROWS, panel_bytes};
pub use pack::{pack_panel, unpack_sub};
pub use page::{KV_PAGE, KvType, store_k, store_v};
pub use pool::Pool;
pub use scalar::dequantize::{dequantize_panel_row, dequantize_row};
pub use scalar::gemm::dot_row;
pub use scalar::repack::stored_sub;
pub use scalar::sub::{Sub, sub};
pub use share::{begins_share, share_start};
pub use stored::{BlockIQ4NL, BlockIQ4XS, BlockQ2K, BlockQ3K, StoredType};
pub use types::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, WeightType,
};
pub use vector::{
    PanelMax, add_assign, allow_panel, argmax_panel, exp_in_place, f16_to_f32, f32_to_f16,
    gelu_in_place, gelu_tanh_mul, max, rms_norm, rms_norm_in_place, rope_halves, rope_interleaved,
    silu_mul, soft_cap, softmax,
};
