//! Activations as the kernels take them: int8 with one scale for 32 values, or plain f32.
//! Must never know how weights are stored.
//! Start at [`ActBlock`].

/// Values that share one scale.
pub const ACT_BLOCK: usize = 32;

/// 32 activations as int8: `x[i] ~ d * q[i]`. A row is `k / 32` of them; one pointer then reaches
/// everything that a column of a tile needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActBlock {
    /// Four codes a word, the first in the lowest byte: one 32-bit broadcast.
    pub(crate) quads: [i32; 8],
    /// Sums of the codes 0..16 and 16..32.
    pub(crate) sums: [i16; 2],
    /// The scale.
    pub(crate) d: f32,
    /// `d` times the sum of all codes.
    pub(crate) d_sum: f32,
}

const _: () = assert!(size_of::<ActBlock>() == 44 && align_of::<ActBlock>() == 4);

impl ActBlock {
    /// The int8 codes, each in -127..=127.
    #[must_use]
    pub fn codes(&self) -> [i8; ACT_BLOCK] {
        let mut codes = [0; ACT_BLOCK];
        for (quad, word) in codes.chunks_exact_mut(4).zip(self.quads) {
            for (code, byte) in quad.iter_mut().zip(word.to_le_bytes()) {
                *code = byte.cast_signed();
            }
        }
        codes
    }

    /// The scale.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.d
    }

    /// Both sums in one word, the first in the lower half: what `pmaddwd` wants to have broadcast.
    #[inline(always)]
    pub(crate) fn sums_word(&self) -> i32 {
        i32::from(self.sums[0]) & 0xffff | i32::from(self.sums[1]) << 16
    }
}

/// The activations of a step, row-major `[m][k]`.
#[derive(Clone, Copy, Debug)]
pub enum Acts<'a> {
    /// `[m][k / 32]`, for the quantised weight types.
    Q8(&'a [ActBlock]),
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

/// Quantises blocks of 32 values: `d = max|x| / 127`, codes rounded to nearest even.
pub(crate) fn quantize(x: &[f32], out: &mut [ActBlock]) {
    for (x, out) in x.as_chunks::<ACT_BLOCK>().0.iter().zip(out) {
        // As bits, so that a NaN is the largest of all.
        let max_bits = x.iter().fold(0, |max, v| (v.to_bits() & 0x7fff_ffff).max(max));
        let amax = f32::from_bits(max_bits);
        if let Some(block) = unusual_block(amax) {
            *out = block;
            continue;
        }
        let inverse = 127.0 / amax;
        let codes = x.map(|v| (v * inverse).round_ties_even() as i8);
        for (quad, codes) in out.quads.iter_mut().zip(codes.as_chunks::<4>().0) {
            *quad = i32::from_le_bytes(codes.map(i8::cast_unsigned));
        }
        let (first, second) = codes.split_at(ACT_BLOCK / 2);
        out.sums = [first, second].map(|codes| codes.iter().map(|q| i16::from(*q)).sum());
        out.d = amax / 127.0;
        out.d_sum = out.d * (f32::from(out.sums[0]) + f32::from(out.sums[1]));
    }
}
