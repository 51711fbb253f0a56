//! 32 weights of one row of a type without kernels, as the type that it is repacked as has them.
//! Must never know panels.
//! Start at [`stored_sub`].

use half::f16;

use super::sub::{Sub, nibbles, sub};
use crate::stored::{BlockIQ4NL, BlockIQ4XS, BlockQ2K, BlockQ3K, IQ4_VALUES, StoredType};

/// Sub-block `idx` (of 32 values) of a stored row of a quantised type, as [`StoredType::packed`] has it.
#[must_use]
pub fn stored_sub(stored: StoredType, row: &[u8], idx: usize) -> Sub {
    match stored {
        StoredType::Same(weight) => sub(weight, row, idx),
        StoredType::Q2K => rounded(&values_of_q2k(&BlockQ2K::slice(row)[idx / 8], idx % 8)),
        StoredType::Q3K => sub_q3k(&BlockQ3K::slice(row)[idx / 8], idx % 8),
        StoredType::IQ4NL => {
            let b = &BlockIQ4NL::slice(row)[idx];
            Sub { codes: iq4_codes(&b.qs), d: u16::from_le_bytes(b.d), ..Sub::default() }
        }
        StoredType::IQ4XS => sub_iq4xs(&BlockIQ4XS::slice(row)[idx / 8], idx % 8),
    }
}

/// The two bits of each of 32 values that lie in `qs` as in Q2_K and Q3_K.
fn pairs(qs: &[u8; 64], j: usize) -> [u8; 32] {
    std::array::from_fn(|i| qs[j / 4 * 32 + i] >> (j % 4 * 2) & 3)
}

fn values_of_q2k(b: &BlockQ2K, j: usize) -> [f32; 32] {
    let (d, dmin) =
        (f16::from_le_bytes(b.d).to_f32_const(), f16::from_le_bytes(b.dmin).to_f32_const());
    let codes = pairs(&b.qs, j);
    std::array::from_fn(|i| {
        let scale = b.scales[2 * j + i / 16];
        d * f32::from(scale & 15) * f32::from(codes[i]) - dmin * f32::from(scale >> 4)
    })
}

fn sub_q3k(b: &BlockQ3K, j: usize) -> Sub {
    let low = pairs(&b.qs, j);
    // A code of Q6_K stands for itself minus 32, one of Q3_K for itself minus 4.
    let codes = std::array::from_fn(|i| (low[i] | (b.hmask[i] >> j & 1) << 2) + 32 - 4);
    let scale = |n: usize| {
        let low = b.scales[n % 8] >> (n / 8 * 4) & 15;
        let high = b.scales[8 + n % 4] >> (n / 4 * 2) & 3;
        (low | high << 4).cast_signed() - 32
    };
    let scales = [scale(2 * j), scale(2 * j + 1)];
    Sub { codes, scales, d: u16::from_le_bytes(b.d), ..Sub::default() }
}

fn sub_iq4xs(b: &BlockIQ4XS, j: usize) -> Sub {
    let high = u16::from_le_bytes(b.scales_h) >> (2 * j) & 3;
    let scale = u16::from(b.scales_l[j / 2] >> (j % 2 * 4) & 15) | high << 4;
    let d = f16::from_le_bytes(b.d).to_f32_const() * (f32::from(scale) - 32.0);
    let codes = iq4_codes(b.qs.as_chunks().0.get(j).expect("there are eight of 16 bytes"));
    Sub { codes, d: f16::from_f32_const(d).to_bits(), ..Sub::default() }
}

fn iq4_codes(qs: &[u8; 16]) -> [u8; 32] {
    nibbles(qs).map(|code| IQ4_VALUES[usize::from(code)].cast_unsigned())
}

/// These values as Q8_0 has them. What is no number stays none.
fn rounded(values: &[f32; 32]) -> Sub {
    if !values.iter().all(|value| value.is_finite()) {
        return Sub { d: f16::NAN.to_bits(), ..Sub::default() };
    }
    let greatest = values.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    let mut d = f16::from_f32_const(greatest / 127.0);
    if d.to_f32_const() * 127.0 < greatest {
        // Rounded up, so that 127 is enough for the greatest.
        d = f16::from_bits(d.to_bits() + 1);
    }
    let inverse = if greatest > 0.0 { 1.0 / d.to_f32_const() } else { 0.0 };
    let codes = values.map(|value| ((value * inverse).round() as i8).cast_unsigned());
    Sub { codes, d: d.to_bits(), ..Sub::default() }
}
