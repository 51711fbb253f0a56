//! Element-wise kernels: checks lengths, then runs the body of `lanes` compiled for the instruction
//! set.
//! Must never compute anything itself.
//! Start at [`rms_norm`]. All give the same bits on every instruction set.

use half::f16;

use crate::isa::{Isa, Kind};
use crate::lanes;
#[cfg(target_arch = "x86_64")]
use crate::x86;

/// Compiles an `inline(always)` body once per instruction set, and calls the right one.
macro_rules! per_isa {
    ($isa:expr, $($body:ident)::+($($arg:ident: $type:ty),*) -> $out:ty) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2($($arg: $type),*) -> $out {
            $($body)::+($($arg),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        fn avx512($($arg: $type),*) -> $out {
            $($body)::+($($arg),*)
        }
        match $isa.0 {
            crate::isa::Kind::Scalar => $($body)::+($($arg),*),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
            crate::isa::Kind::Avx2 => unsafe { avx2($($arg),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is only made after these avx512 features were detected
            // too.
            crate::isa::Kind::Avx512Vnni | crate::isa::Kind::Amx => unsafe { avx512($($arg),*) },
        }
    }};
}
pub(crate) use per_isa;

#[track_caller]
fn same_len(what: &str, wanted: usize, n: usize) {
    assert!(n == wanted, "{what} has {n} values where {wanted} are needed");
}

/// RMS norm of one row: `out = x / sqrt(mean(x^2) + eps) * weight`, all of the same length. A
/// family that adds one to the weight adds it when it loads.
///
/// # Panics
/// When the lengths differ.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    same_len("weight", x.len(), weight.len());
    same_len("out", x.len(), out.len());
    per_isa!(isa, lanes::rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> ());
}

/// As [`rms_norm`], in place.
///
/// # Panics
/// When the lengths differ.
pub fn rms_norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    same_len("weight", x.len(), weight.len());
    per_isa!(isa, lanes::rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) -> ());
}

/// `x += y`.
///
/// # Panics
/// When the lengths differ.
pub fn add_assign(isa: Isa, x: &mut [f32], y: &[f32]) {
    same_len("y", x.len(), y.len());
    per_isa!(isa, lanes::add_assign(x: &mut [f32], y: &[f32]) -> ());
}

/// `out = gate * sigmoid(gate) * up`.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    same_len("up", gate.len(), up.len());
    same_len("out", gate.len(), out.len());
    per_isa!(isa, lanes::silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) -> ());
}

/// `out = gelu(gate) * up`, gelu by its tanh form.
///
/// # Panics
/// When the lengths differ.
pub fn gelu_tanh_mul(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    same_len("up", gate.len(), up.len());
    same_len("out", gate.len(), out.len());
    per_isa!(isa, lanes::gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) -> ());
}

/// `x = gelu(x)` by the error function, within 2e-7 times `x`.
pub fn gelu_in_place(isa: Isa, x: &mut [f32]) {
    per_isa!(isa, lanes::gelu_in_place(x: &mut [f32]) -> ());
}

/// `x = cap * tanh(x / cap)`, `cap` > 0.
pub fn soft_cap(isa: Isa, x: &mut [f32], cap: f32) {
    per_isa!(isa, lanes::soft_cap(x: &mut [f32], cap: f32) -> ());
}

/// RoPE of one head in place, value i with value i + n (as NeoX, Qwen, Gemma). cos, sin: `[n]`; the
/// first 2n values of `x` turn, the others stay.
///
/// # Panics
/// When `cos` and `sin` differ in length or `x` is shorter than twice that.
pub fn rope_halves(isa: Isa, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    same_len("sin", cos.len(), sin.len());
    let n = x.len();
    assert!(n >= 2 * cos.len(), "a head of {n} values is shorter than twice {}", cos.len());
    per_isa!(isa, lanes::rope_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) -> ());
}

/// RoPE of one head in place, value 2i with value 2i + 1 (as Llama in GGUF). cos, sin: `[n]`; the
/// first 2n values of `x` turn, the others stay.
///
/// # Panics
/// When `cos` and `sin` differ in length or `x` is shorter than twice that.
pub fn rope_interleaved(isa: Isa, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    same_len("sin", cos.len(), sin.len());
    let n = x.len();
    assert!(n >= 2 * cos.len(), "a head of {n} values is shorter than twice {}", cos.len());
    per_isa!(isa, lanes::rope_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) -> ());
}

/// Softmax in place.
pub fn softmax(isa: Isa, x: &mut [f32]) {
    per_isa!(isa, lanes::softmax(x: &mut [f32]) -> ());
}

/// The largest value; -inf of nothing. NaN is passed over.
#[must_use]
pub fn max(isa: Isa, x: &[f32]) -> f32 {
    per_isa!(isa, lanes::max(x: &[f32]) -> f32)
}

/// Replaces each x by e to the (x - shift), relative error within 2e-7, 0 under -87.3; returns the
/// sum.
pub fn exp_in_place(isa: Isa, x: &mut [f32], shift: f32) -> f32 {
    per_isa!(isa, lanes::exp_in_place(x: &mut [f32], shift: f32) -> f32)
}

/// The largest logit of a panel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PanelMax {
    /// Its first place; 0 when there is none.
    pub idx: usize,
    /// Its value; NaN when any value is NaN, -inf when there are no values.
    pub value: f32,
}

/// The largest value and its first place.
#[must_use]
pub fn argmax_panel(isa: Isa, x: &[f32]) -> PanelMax {
    let (idx, value) = per_isa!(isa, lanes::argmax(x: &[f32]) -> (usize, f32));
    PanelMax { idx, value }
}

/// `out[i]` is `x[i]` where bit `i % 32` of word `i / 32` of `allowed` is set, else -inf; gives the largest of these and its first place.
/// What lies behind the last word is not allowed. NaN or +inf anywhere in `x`, allowed or not, shows as NaN.
///
/// # Panics
/// When the lengths of `x` and `out` differ.
#[must_use]
pub fn allow_panel(isa: Isa, x: &[f32], allowed: &[u32], out: &mut [f32]) -> PanelMax {
    same_len("out", x.len(), out.len());
    let (idx, value) =
        per_isa!(isa, lanes::allow(x: &[f32], allowed: &[u32], out: &mut [f32]) -> (usize, f32));
    PanelMax { idx, value }
}

/// f32 to the bits of f16, rounded to nearest even.
///
/// # Panics
/// When the lengths differ.
pub fn f32_to_f16(isa: Isa, x: &[f32], out: &mut [u16]) {
    same_len("out", x.len(), out.len());
    match isa.0 {
        Kind::Scalar => {
            for (out, x) in out.iter_mut().zip(x) {
                *out = f16::from_f32_const(*x).to_bits();
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
        Kind::Avx2 | Kind::Avx512Vnni | Kind::Amx => unsafe { x86::half::from_f32(x, out) },
    }
}

/// The bits of f16 to f32.
///
/// # Panics
/// When the lengths differ.
pub fn f16_to_f32(isa: Isa, bits: &[u16], out: &mut [f32]) {
    same_len("out", bits.len(), out.len());
    match isa.0 {
        Kind::Scalar => {
            for (out, bits) in out.iter_mut().zip(bits) {
                *out = f16::from_bits(*bits).to_f32_const();
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
        Kind::Avx2 | Kind::Avx512Vnni | Kind::Amx => unsafe { x86::half::to_f32(bits, out) },
    }
}
