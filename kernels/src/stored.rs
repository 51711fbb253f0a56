//! How files store matrices: as a type that has kernels, or as one that is repacked as such a type.
//! Knows bytes and sizes; must never know of panels, instruction sets or models.
//! Start at [`StoredType`].

use crate::types::{WeightType, block};

/// How a matrix is stored in a file, named as in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredType {
    /// As in panels.
    Same(WeightType),
    /// 256 values: f16 scale and minimum, 4-bit scale and minimum per 16, 2-bit codes. Repacked as
    /// Q8_0: no type with kernels has minima per 16, so each value is rounded, by up to 1/253 of the
    /// greatest of its 32 (of those below 0.01, whose scale would be no normal f16, by a little more).
    Q2K,
    /// 256 values: f16 scale, 6-bit scale per 16, 3-bit codes minus 4. Repacked as Q6_K, which has the same
    /// values.
    Q3K,
    /// 32 values: f16 scale, 4-bit codes of 16 values that are not evenly spaced. Repacked as Q8_0, which
    /// has the same values.
    IQ4NL,
    /// 256 values: f16 scale, 6-bit scale per 32, codes as of IQ4_NL. Repacked as Q8_0, whose one scale is
    /// rounded to f16.
    IQ4XS,
}

/// What the codes of IQ4_NL and IQ4_XS stand for. Source: `kvalues_iq4nl` of ggml.
pub(crate) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl StoredType {
    /// All types that are not the same in panels.
    pub const REPACKED: [StoredType; 4] =
        [StoredType::Q2K, StoredType::Q3K, StoredType::IQ4NL, StoredType::IQ4XS];

    /// The type of a GGUF tensor's type id; `None` for the ids that cannot be computed with.
    #[must_use]
    pub fn from_ggml_id(id: u32) -> Option<StoredType> {
        Some(StoredType::Same(match id {
            0 => WeightType::F32,
            1 => WeightType::F16,
            2 => WeightType::Q4_0,
            3 => WeightType::Q4_1,
            6 => WeightType::Q5_0,
            7 => WeightType::Q5_1,
            8 => WeightType::Q8_0,
            10 => return Some(StoredType::Q2K),
            11 => return Some(StoredType::Q3K),
            12 => WeightType::Q4K,
            13 => WeightType::Q5K,
            14 => WeightType::Q6K,
            20 => return Some(StoredType::IQ4NL),
            23 => return Some(StoredType::IQ4XS),
            30 => WeightType::BF16,
            _ => return None,
        }))
    }

    /// The type of its panels.
    #[must_use]
    pub const fn packed(self) -> WeightType {
        match self {
            StoredType::Same(weight) => weight,
            StoredType::Q3K => WeightType::Q6K,
            StoredType::Q2K | StoredType::IQ4NL | StoredType::IQ4XS => WeightType::Q8_0,
        }
    }

    /// Values in one block: 1, 32 or 256.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            StoredType::Same(weight) => weight.block_len(),
            StoredType::IQ4NL => 32,
            StoredType::Q2K | StoredType::Q3K | StoredType::IQ4XS => 256,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            StoredType::Same(weight) => weight.block_bytes(),
            StoredType::Q2K => size_of::<BlockQ2K>(),
            StoredType::Q3K => size_of::<BlockQ3K>(),
            StoredType::IQ4NL => size_of::<BlockIQ4NL>(),
            StoredType::IQ4XS => size_of::<BlockIQ4XS>(),
        }
    }

    /// Bytes of a row of `k` values; `None` when `k` is not a whole number of blocks or too large to
    /// address.
    #[must_use]
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_len()) {
            return None;
        }
        (k / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl From<WeightType> for StoredType {
    fn from(weight: WeightType) -> Self {
        StoredType::Same(weight)
    }
}

block!(
    /// 256 values `d * scale * q - dmin * min`, scale and min per 16.
    BlockQ2K, 84, {
        /// Low nibble: the scale of 16 values; high one: their minimum.
        scales: [u8; 16],
        /// Per 128 values 32 bytes: the first two bits are the first 32, and so on.
        qs: [u8; 64],
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Scale of the minima, f16.
        dmin: [u8; 2],
    }
);
block!(
    /// 256 values `d * (scale - 32) * (q - 4)`, scale per 16.
    BlockQ3K, 110, {
        /// Bit `j` of byte `i` is the third bit of value `32 * j + i`.
        hmask: [u8; 32],
        /// Lower two bits; per 128 values 32 bytes: the first two bits are the first 32, and so on.
        qs: [u8; 64],
        /// Sixteen 6-bit scales.
        scales: [u8; 12],
        /// Scale of the scales, f16.
        d: [u8; 2],
    }
);
block!(
    /// 32 values `d * value[q]`.
    BlockIQ4NL, 18, {
        /// Scale, f16.
        d: [u8; 2],
        /// Low nibbles are values 0..16, high ones 16..32.
        qs: [u8; 16],
    }
);
block!(
    /// 256 values `d * (scale - 32) * value[q]`, scale per 32.
    BlockIQ4XS, 136, {
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Upper two bits of the eight scales.
        scales_h: [u8; 2],
        /// Lower four bits of the eight scales.
        scales_l: [u8; 4],
        /// Per 32 values 16 bytes: low nibbles the first 16, high ones the last.
        qs: [u8; 128],
    }
);
