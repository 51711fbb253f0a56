//! Activations as the kernels take them: 13-bit whole numbers with one scale for 32 values, or plain f32.
//! Must never know how weights are stored.
//! Start at [`ActBlock`].

/// Values that share one scale.
pub const ACT_BLOCK: usize = 32;

/// 32 activations as whole numbers of 13 bits with one scale: `x[i] ~ d * q[i]`, `|q| <= 4064`. Each is
/// held as two int8, `q = 32 * high + low`, which is what the vector units multiply. A row is `k / 32`
/// blocks; one pointer then reaches everything that a column of a tile needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActBlock {
    /// High parts, -127..=127: four a word, the first in the lowest byte: one 32-bit broadcast.
    pub(crate) high: [i32; 8],
    /// Low parts, -16..=15, in the same order.
    pub(crate) low: [i32; 8],
    /// Sums of the numbers 0..16 and 16..32.
    pub(crate) sums: [i32; 2],
    /// The scale.
    pub(crate) d: f32,
    /// `d` times the sum of all numbers.
    pub(crate) d_sum: f32,
}

const _: () = assert!(size_of::<ActBlock>() == 80 && align_of::<ActBlock>() == 4);

/// The largest number of a block: 127 in the high part.
pub(crate) const ACT_MAX: f32 = 4064.0;
/// What a high part counts for, as a shift.
pub(crate) const HIGH_SHIFT: u32 = 5;

impl ActBlock {
    /// The whole numbers, each in -4064..=4064.
    #[must_use]
    pub fn codes(&self) -> [i16; ACT_BLOCK] {
        let (high, low) = (bytes(self.high), bytes(self.low));
        std::array::from_fn(|i| (i16::from(high[i]) << HIGH_SHIFT) + i16::from(low[i]))
    }

    /// The scale.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.d
    }

    /// The sum of all numbers.
    #[inline(always)]
    pub(crate) fn sum(&self) -> i32 {
        self.sums[0].wrapping_add(self.sums[1])
    }
}

fn bytes(words: [i32; 8]) -> [i8; ACT_BLOCK] {
    let mut bytes = [0; ACT_BLOCK];
    for (quad, word) in bytes.chunks_exact_mut(4).zip(words) {
        quad.copy_from_slice(&word.to_le_bytes().map(u8::cast_signed));
    }
    bytes
}

fn words(bytes: [i8; ACT_BLOCK]) -> [i32; 8] {
    let mut words = [0; 8];
    for (word, quad) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = i32::from_le_bytes(quad.map(i8::cast_unsigned));
    }
    words
}

/// The activations of a step, row-major `[m][k]`.
#[derive(Clone, Copy, Debug)]
pub enum Acts<'a> {
    /// `[m][k / 32]`, for the quantised weight types.
    Quantized(&'a [ActBlock]),
    /// `[m][k]`, for f16, bf16 and f32 weights.
    F32(&'a [f32]),
}

/// What a block becomes whose largest value is under 1e-30 (zero) or not finite (no codes, and a
/// scale that keeps showing it in the results); `None` for all others.
#[inline(always)]
pub(crate) fn unusual_block(amax: f32) -> Option<ActBlock> {
    if amax < 1e-30 {
        Some(ActBlock::default())
    } else if amax.is_finite() {
        None
    } else {
        Some(ActBlock { d: amax, d_sum: f32::NAN, ..ActBlock::default() })
    }
}

/// Quantises blocks of 32 values: `d = max|x| / 4064`, rounded to nearest even.
pub(crate) fn quantize(x: &[f32], out: &mut [ActBlock]) {
    for (x, out) in x.as_chunks::<ACT_BLOCK>().0.iter().zip(out) {
        // As bits, so that a NaN is the largest of all.
        let max_bits = x.iter().fold(0, |max, v| (v.to_bits() & 0x7fff_ffff).max(max));
        let amax = f32::from_bits(max_bits);
        if let Some(block) = unusual_block(amax) {
            *out = block;
            continue;
        }
        let inverse = ACT_MAX / amax;
        let codes = x.map(|v| (v * inverse).round_ties_even() as i16);
        let high = codes.map(|q| (q + (1 << HIGH_SHIFT >> 1)) >> HIGH_SHIFT);
        out.high = words(high.map(|q| q as i8));
        out.low = words(std::array::from_fn(|i| (codes[i] - (high[i] << HIGH_SHIFT)) as i8));
        let (first, second) = codes.split_at(ACT_BLOCK / 2);
        out.sums = [first, second].map(|codes| codes.iter().map(|q| i32::from(*q)).sum());
        out.d = amax / ACT_MAX;
        out.d_sum = out.d * out.sum() as f32;
    }
}
