//! 32 weights of one row with their scales, as stored: codes before any arithmetic.
//! Must never know panels.
//! Start at [`Sub`].

use half::f16;

use crate::types::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, WeightType,
};

/// 32 weights of a quantised row, as stored. Fields that a type does not have are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sub {
    /// The codes; of Q8_0 the bits of the i8.
    pub codes: [u8; 32],
    /// Q4_K, Q5_K: the 6-bit scale, first; Q6_K: the scales of both halves.
    pub scales: [i8; 2],
    /// Q4_K, Q5_K: the 6-bit minimum.
    pub min: u8,
    /// The f16 scale's bits.
    pub d: u16,
    /// The f16 minimum's bits.
    pub m: u16,
}

impl Sub {
    /// `(d, m)` so that a value is `d * code + m`, with `code` of [`Sub::signed_codes`].
    pub(crate) fn scale_min(&self, weight: WeightType) -> (f32, f32) {
        let d = f16::from_bits(self.d).to_f32_const();
        let m = f16::from_bits(self.m).to_f32_const();
        match weight {
            WeightType::Q4_0 => (d, -8.0 * d),
            WeightType::Q5_0 => (d, -16.0 * d),
            WeightType::Q4_1 | WeightType::Q5_1 => (d, m),
            WeightType::Q4K | WeightType::Q5K => {
                (d * f32::from(self.scales[0]), -(m * f32::from(self.min)))
            }
            _ => (d, 0.0),
        }
    }

    /// The codes as whole numbers; of Q6_K already times their scale.
    pub(crate) fn signed_codes(&self, weight: WeightType) -> [i32; 32] {
        std::array::from_fn(|i| match weight {
            WeightType::Q8_0 => i32::from(self.codes[i].cast_signed()),
            WeightType::Q6K => (i32::from(self.codes[i]) - 32) * i32::from(self.scales[i / 16]),
            _ => i32::from(self.codes[i]),
        })
    }
}

/// Sub-block `idx` (of 32 values) of a GGUF row of a quantised type.
#[must_use]
pub fn sub(weight: WeightType, row: &[u8], idx: usize) -> Sub {
    match weight {
        WeightType::Q4_0 => {
            let b = &BlockQ4_0::slice(row)[idx];
            Sub { codes: nibbles(&b.qs), d: u16::from_le_bytes(b.d), ..Sub::default() }
        }
        WeightType::Q4_1 => {
            let b = &BlockQ4_1::slice(row)[idx];
            let (d, m) = (u16::from_le_bytes(b.d), u16::from_le_bytes(b.m));
            Sub { codes: nibbles(&b.qs), d, m, ..Sub::default() }
        }
        WeightType::Q5_0 => {
            let b = &BlockQ5_0::slice(row)[idx];
            let codes = with_fifth_bits(nibbles(&b.qs), b.qh);
            Sub { codes, d: u16::from_le_bytes(b.d), ..Sub::default() }
        }
        WeightType::Q5_1 => {
            let b = &BlockQ5_1::slice(row)[idx];
            let codes = with_fifth_bits(nibbles(&b.qs), b.qh);
            let (d, m) = (u16::from_le_bytes(b.d), u16::from_le_bytes(b.m));
            Sub { codes, d, m, ..Sub::default() }
        }
        WeightType::Q8_0 => {
            let b = &BlockQ8_0::slice(row)[idx];
            let codes = b.qs.map(i8::cast_unsigned);
            Sub { codes, d: u16::from_le_bytes(b.d), ..Sub::default() }
        }
        WeightType::Q4K => {
            let b = &BlockQ4K::slice(row)[idx / 8];
            let j = idx % 8;
            let (scale, min) = scale_min_k4(&b.scales, j);
            let (d, m) = (u16::from_le_bytes(b.d), u16::from_le_bytes(b.dmin));
            Sub { codes: nibbles_k(&b.qs, j), scales: [scale, 0], min, d, m }
        }
        WeightType::Q5K => {
            let b = &BlockQ5K::slice(row)[idx / 8];
            let j = idx % 8;
            let (scale, min) = scale_min_k4(&b.scales, j);
            let (d, m) = (u16::from_le_bytes(b.d), u16::from_le_bytes(b.dmin));
            let mut codes = nibbles_k(&b.qs, j);
            for (code, high) in codes.iter_mut().zip(b.qh) {
                *code |= (high >> j & 1) << 4;
            }
            Sub { codes, scales: [scale, 0], min, d, m }
        }
        WeightType::Q6K => sub_q6k(&BlockQ6K::slice(row)[idx / 8], idx % 8),
        WeightType::F16 | WeightType::BF16 | WeightType::F32 => {
            panic!("{weight:?} has no codes: this is a bug")
        }
    }
}

pub(super) fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

fn with_fifth_bits(mut codes: [u8; 32], qh: [u8; 4]) -> [u8; 32] {
    let bits = u32::from_le_bytes(qh);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> i & 1) << 4) as u8;
    }
    codes
}

fn nibbles_k(qs: &[u8; 128], j: usize) -> [u8; 32] {
    std::array::from_fn(|i| qs[j / 2 * 32 + i] >> (j % 2 * 4) & 15)
}

fn scale_min_k4(packed: &[u8; 12], j: usize) -> (i8, u8) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (scale.cast_signed(), min)
}

fn sub_q6k(b: &BlockQ6K, j: usize) -> Sub {
    let (half, quarter) = (j / 4, j % 4);
    let ql = &b.ql[64 * half + 32 * (quarter % 2)..];
    let qh = &b.qh[32 * half..];
    let codes = std::array::from_fn(|i| {
        ql[i] >> (4 * (quarter / 2)) & 15 | (qh[i] >> (2 * quarter) & 3) << 4
    });
    let scales = [b.scales[2 * j], b.scales[2 * j + 1]];
    Sub { codes, scales, d: u16::from_le_bytes(b.d), ..Sub::default() }
}
