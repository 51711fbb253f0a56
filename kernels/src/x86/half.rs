//! f16 to f32 and back, by F16C.
//! Must never know what the numbers are.
//! Start at [`from_f32`].

use half::f16;

use super::load;

/// f32 to the bits of f16, rounded to nearest even.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn from_f32(x: &[f32], out: &mut [u16]) {
    let (body, rest) = x.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<8>();
    for (x, out) in body.iter().zip(out) {
        load::put_half8(out, load::f32s(x, 0));
    }
    for (x, out) in rest.iter().zip(out_rest) {
        *out = f16::from_f32_const(*x).to_bits();
    }
}

/// The bits of f16 to f32.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn to_f32(bits: &[u16], out: &mut [f32]) {
    let (body, rest) = bits.as_chunks::<8>();
    for (i, bits) in body.iter().enumerate() {
        load::put_f32x8(out, 8 * i, load::half8(bits, 0));
    }
    for (bits, out) in rest.iter().zip(&mut out[8 * body.len()..]) {
        *out = f16::from_bits(*bits).to_f32_const();
    }
}
