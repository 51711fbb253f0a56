//! Activations as the kernels take them: 13-bit whole numbers with one scale for 32 values, or plain f32.
//! Must never know how weights are stored.
//! Start at [`ActBlock`].

/// Values that share one scale.
pub const ACT_BLOCK: usize = 32;

/// 32 activations as whole numbers of 13 bits with one scale: `x[i] ~ d * q[i]`, `|q| <= 4064`. They are held
/// as the vector units multiply them: two i16 a word, which one 32-bit broadcast gives to all rows. A row is
/// `k / 32` blocks; one pointer then reaches everything that a column of a tile needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActBlock {
    /// The words `2 g` and `2 g + 1` hold the numbers `4 g` and `4 g + 2`, and `4 g + 1` and `4 g + 3`, the first
    /// in the lower half: the even and the odd bytes of four codes become i16 by a mask and by a shift.
    pub(crate) pairs: [i32; 16],
    /// Sums of the numbers 0..16 and 16..32.
    pub(crate) sums: [i32; 2],
    /// The scale.
    pub(crate) d: f32,
    /// `d` times the sum of all numbers.
    pub(crate) d_sum: f32,
}

const _: () = assert!(size_of::<ActBlock>() == 80 && align_of::<ActBlock>() == 4);

/// The largest number of a block: the product of 32 with int8 codes is then exact in f32.
pub(crate) const ACT_MAX: f32 = 4064.0;

impl ActBlock {
    /// The whole numbers, each in -4064..=4064.
    #[must_use]
    pub fn codes(&self) -> [i16; ACT_BLOCK] {
        let mut codes = [0; ACT_BLOCK];
        for (quad, words) in
            codes.as_chunks_mut::<4>().0.iter_mut().zip(self.pairs.as_chunks::<2>().0)
        {
            let [even, odd] = words.map(|word| [word as i16, (word >> 16) as i16]);
            *quad = [even[0], odd[0], even[1], odd[1]];
        }
        codes
    }

    /// The scale.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.d
    }
}

/// Whole numbers in the order of [`ActBlock::pairs`].
fn pairs(codes: [i16; ACT_BLOCK]) -> [i32; 16] {
    let mut pairs = [0; 16];
    for (words, quad) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<4>().0) {
        let word =
            |lower: i16, upper: i16| i32::from(upper) << 16 | i32::from(lower.cast_unsigned());
        *words = [word(quad[0], quad[2]), word(quad[1], quad[3])];
    }
    pairs
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
        out.pairs = pairs(codes);
        out.d = amax / ACT_MAX;
        let (first, second) = codes.split_at(ACT_BLOCK / 2);
        out.sums = [first, second].map(|codes| codes.iter().map(|q| i32::from(*q)).sum());
        out.d_sum = out.d * (out.sums[0] + out.sums[1]) as f32;
    }
}
