//! The weight types and their blocks as GGUF stores them.
//! Knows bytes and sizes; must never know of panels, instruction sets or models.
//! Start at [`WeightType`].

/// How a matrix of weights is stored, named as in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 32 values: f16 scale, 4-bit codes minus 8.
    Q4_0,
    /// 32 values: f16 scale and minimum, 4-bit codes.
    Q4_1,
    /// 32 values: f16 scale, 5-bit codes minus 16.
    Q5_0,
    /// 32 values: f16 scale and minimum, 5-bit codes.
    Q5_1,
    /// 32 values: f16 scale, 8-bit signed codes.
    Q8_0,
    /// 256 values: f16 scale and minimum, 6-bit scale and minimum per 32, 4-bit codes.
    Q4K,
    /// 256 values: f16 scale and minimum, 6-bit scale and minimum per 32, 5-bit codes.
    Q5K,
    /// 256 values: f16 scale, 8-bit scale per 16, 6-bit codes minus 32.
    Q6K,
    /// One IEEE half each.
    F16,
    /// The upper half of an f32 each.
    BF16,
    /// One f32 each.
    F32,
}

impl WeightType {
    /// All types, in the order of their declaration.
    pub const ALL: [WeightType; 11] = [
        WeightType::Q4_0,
        WeightType::Q4_1,
        WeightType::Q5_0,
        WeightType::Q5_1,
        WeightType::Q8_0,
        WeightType::Q4K,
        WeightType::Q5K,
        WeightType::Q6K,
        WeightType::F16,
        WeightType::BF16,
        WeightType::F32,
    ];

    /// Values in one block: 1, 32 or 256.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            WeightType::Q4_0
            | WeightType::Q4_1
            | WeightType::Q5_0
            | WeightType::Q5_1
            | WeightType::Q8_0 => 32,
            WeightType::Q4K | WeightType::Q5K | WeightType::Q6K => 256,
            WeightType::F16 | WeightType::BF16 | WeightType::F32 => 1,
        }
    }

    /// Bytes of one block in GGUF.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            WeightType::Q4_0 => size_of::<BlockQ4_0>(),
            WeightType::Q4_1 => size_of::<BlockQ4_1>(),
            WeightType::Q5_0 => size_of::<BlockQ5_0>(),
            WeightType::Q5_1 => size_of::<BlockQ5_1>(),
            WeightType::Q8_0 => size_of::<BlockQ8_0>(),
            WeightType::Q4K => size_of::<BlockQ4K>(),
            WeightType::Q5K => size_of::<BlockQ5K>(),
            WeightType::Q6K => size_of::<BlockQ6K>(),
            WeightType::F16 | WeightType::BF16 => 2,
            WeightType::F32 => 4,
        }
    }

    /// Whether the weights are whole numbers with scales, and so meet whole-number activations;
    /// the float types take f32 activations.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of a GGUF row of `k` values; `None` when `k` is not a whole number of blocks or too
    /// large to address.
    #[must_use]
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_len()) {
            return None;
        }
        (k / self.block_len()).checked_mul(self.block_bytes())
    }
}

macro_rules! block {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, {
        $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)?
    }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type),* }

        const _: () = assert!(size_of::<$name>() == $bytes && align_of::<$name>() == 1);

        impl $name {
            /// The blocks of a row, without a copy.
            ///
            /// # Panics
            /// When `row` is not a whole number of blocks.
            #[must_use]
            pub fn slice(row: &[u8]) -> &[$name] {
                assert!(
                    row.len().is_multiple_of($bytes),
                    "a row of {} bytes is not a whole number of blocks of {}", row.len(), $bytes
                );
                // SAFETY: the block is made of bytes only (alignment 1, no padding, every bit
                // pattern valid; asserted above), and `len / size` blocks lie inside of `row`.
                unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), row.len() / $bytes) }
            }
        }
    };
}

pub(crate) use block;

block!(
    /// 32 values `d * (q - 8)`.
    BlockQ4_0, 18, {
        /// Scale, f16 little-endian.
        d: [u8; 2],
        /// Low nibbles are values 0..16, high ones 16..32.
        qs: [u8; 16],
    }
);
block!(
    /// 32 values `d * q + m`.
    BlockQ4_1, 20, {
        /// Scale, f16.
        d: [u8; 2],
        /// Minimum, f16.
        m: [u8; 2],
        /// Low nibbles are values 0..16, high ones 16..32.
        qs: [u8; 16],
    }
);
block!(
    /// 32 values `d * (q - 16)`.
    BlockQ5_0, 22, {
        /// Scale, f16.
        d: [u8; 2],
        /// Bit `i` is the fifth bit of value `i`.
        qh: [u8; 4],
        /// Low nibbles are values 0..16, high ones 16..32.
        qs: [u8; 16],
    }
);
block!(
    /// 32 values `d * q + m`.
    BlockQ5_1, 24, {
        /// Scale, f16.
        d: [u8; 2],
        /// Minimum, f16.
        m: [u8; 2],
        /// Bit `i` is the fifth bit of value `i`.
        qh: [u8; 4],
        /// Low nibbles are values 0..16, high ones 16..32.
        qs: [u8; 16],
    }
);
block!(
    /// 32 values `d * q`.
    BlockQ8_0, 34, {
        /// Scale, f16.
        d: [u8; 2],
        /// Codes.
        qs: [i8; 32],
    }
);
block!(
    /// 256 values `d * scale * q - dmin * min`, scale and min per 32.
    BlockQ4K, 144, {
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Scale of the minima, f16.
        dmin: [u8; 2],
        /// Eight 6-bit scales and eight 6-bit minima.
        scales: [u8; 12],
        /// Per 64 values 32 bytes: low nibbles the first 32, high ones the last.
        qs: [u8; 128],
    }
);
block!(
    /// 256 values `d * scale * q - dmin * min`, scale and min per 32.
    BlockQ5K, 176, {
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Scale of the minima, f16.
        dmin: [u8; 2],
        /// Eight 6-bit scales and eight 6-bit minima.
        scales: [u8; 12],
        /// Bit `j` of byte `i` is the fifth bit of value `32 * j + i`.
        qh: [u8; 32],
        /// Per 64 values 32 bytes: low nibbles the first 32, high ones the last.
        qs: [u8; 128],
    }
);
block!(
    /// 256 values `d * scale * (q - 32)`, scale per 16.
    BlockQ6K, 210, {
        /// Lower four bits; per 128 values 64 bytes.
        ql: [u8; 128],
        /// Upper two bits; per 128 values 32 bytes.
        qh: [u8; 64],
        /// One scale for 16 values.
        scales: [i8; 16],
        /// Scale of the scales, f16.
        d: [u8; 2],
    }
);
