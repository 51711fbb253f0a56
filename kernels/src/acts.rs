//! Activations as the kernels take them: 13-bit whole numbers with one scale for 32 values, or plain f32.
//! Must never know how weights are stored.
//! Start at [`ActBlock`]; [`SplitBlock`] holds the same numbers for matrix units.

use crate::isa::{Isa, Kind};
#[cfg(target_arch = "x86_64")]
use crate::x86;

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

/// The numbers of an [`ActBlock`] as matrix units multiply them: each is the sum of two bfloat16, which is exact, the
/// first with its upper eight bits. As bfloat16 they are multiplied and summed in f32, exactly too: no sum of whole
/// numbers here reaches 2^24. Both are times [`SPLIT_SCALE`]; weights are divided by that.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SplitBlock {
    /// The bits of the upper and of the lower parts, each in the order of the halves of `ActBlock::pairs`.
    pub(crate) parts: [[u16; ACT_BLOCK]; 2],
    /// The scale.
    pub(crate) d: f32,
    /// `d` times the sum of all numbers.
    pub(crate) d_sum: f32,
}

const _: () = assert!(size_of::<SplitBlock>() == 192);

/// 2^112, by which a number whose exponent is that of an f16, but taken for a bfloat16's, is too small.
pub(crate) const SPLIT_SCALE: f32 = f32::from_bits((112 + 127) << 23);

/// A block of quantised activations, in one of the forms that there are.
pub trait QuantizedActs: Copy + Default + Send + Sync + sealed::Sealed {
    /// The whole numbers, each in -4064..=4064.
    fn codes(&self) -> [i16; ACT_BLOCK];
    /// The scale.
    fn scale(&self) -> f32;
    /// The scale times the sum of all numbers.
    fn scaled_sum(&self) -> f32;
    /// Quantises whole blocks: `x` is `32 * out.len()` long.
    #[doc(hidden)]
    fn quantize(isa: Isa, x: &[f32], out: &mut [Self]);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ActBlock {}
    impl Sealed for super::SplitBlock {}
}

impl QuantizedActs for ActBlock {
    fn codes(&self) -> [i16; ACT_BLOCK] {
        in_order(self.pairs.as_chunks::<2>().0.iter().map(|words| {
            let [even, odd] = words.map(|word| [word as i16, (word >> 16) as i16]);
            [even[0], even[1], odd[0], odd[1]]
        }))
    }

    fn scale(&self) -> f32 {
        self.d
    }

    fn scaled_sum(&self) -> f32 {
        self.d_sum
    }

    fn quantize(isa: Isa, x: &[f32], out: &mut [Self]) {
        match isa.0 {
            Kind::Scalar => quantize(x, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
            Kind::Avx2 => unsafe { x86::quantize::quantize(x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is only made after the avx512 features were detected.
            Kind::Avx512Vnni | Kind::Amx => unsafe { x86::quantize::quantize_avx512(x, out) },
        }
    }
}

impl QuantizedActs for SplitBlock {
    fn codes(&self) -> [i16; ACT_BLOCK] {
        let [upper, lower] = self.parts.map(|part| part.map(|bits| from_bf16(bits) / SPLIT_SCALE));
        let quads = upper.as_chunks::<4>().0.iter().zip(lower.as_chunks::<4>().0);
        in_order(quads.map(|(upper, lower)| std::array::from_fn(|i| (upper[i] + lower[i]) as i16)))
    }

    fn scale(&self) -> f32 {
        self.d
    }

    fn scaled_sum(&self) -> f32 {
        self.d_sum
    }

    fn quantize(isa: Isa, x: &[f32], out: &mut [Self]) {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is only made after the avx512 features were detected.
            Kind::Avx512Vnni | Kind::Amx => unsafe { x86::quantize::split_avx512(x, out) },
            _ => split(x, out),
        }
    }
}

/// What stands in quads whose middle two have changed places.
fn in_order(quads: impl Iterator<Item = [i16; 4]>) -> [i16; ACT_BLOCK] {
    let mut codes = [0; ACT_BLOCK];
    for (codes, [first, third, second, fourth]) in
        codes.as_chunks_mut::<4>().0.iter_mut().zip(quads)
    {
        *codes = [first, second, third, fourth];
    }
    codes
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

fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The activations of a step, row-major `[m][k]`.
#[derive(Clone, Copy, Debug)]
pub enum Acts<'a> {
    /// `[m][k / 32]`, for the quantised weight types.
    Quantized(&'a [ActBlock]),
    /// `[m][k / 32]`, for the quantised weight types where [`Isa::splits`] says so; elsewhere slow.
    Split(&'a [SplitBlock]),
    /// `[m][k]`, for f16, bf16 and f32 weights.
    F32(&'a [f32]),
}

/// Scale and scaled sum of a block whose largest value is under 1e-30 (zero) or not finite (a scale that keeps
/// showing it in the results), and which has no codes; `None` for all others.
#[inline(always)]
pub(crate) fn unusual_block(amax: f32) -> Option<(f32, f32)> {
    if amax < 1e-30 {
        Some((0.0, 0.0))
    } else if amax.is_finite() {
        None
    } else {
        Some((amax, f32::NAN))
    }
}

/// The largest magnitude of a block; NaN if it has one.
fn amax(x: &[f32; ACT_BLOCK]) -> f32 {
    // As bits, so that a NaN is the largest of all.
    f32::from_bits(x.iter().fold(0, |max, v| (v.to_bits() & 0x7fff_ffff).max(max)))
}

/// Quantises blocks of 32 values: `d = max|x| / 4064`, rounded to nearest even.
fn quantize(x: &[f32], out: &mut [ActBlock]) {
    for (x, out) in x.as_chunks::<ACT_BLOCK>().0.iter().zip(out) {
        let amax = amax(x);
        if let Some((d, d_sum)) = unusual_block(amax) {
            *out = ActBlock { d, d_sum, ..ActBlock::default() };
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

/// The same numbers as [`quantize`], in two parts.
fn split(x: &[f32], out: &mut [SplitBlock]) {
    for (x, out) in x.as_chunks::<ACT_BLOCK>().0.iter().zip(out) {
        let amax = amax(x);
        if let Some((d, d_sum)) = unusual_block(amax) {
            *out = SplitBlock { d, d_sum, ..SplitBlock::default() };
            continue;
        }
        let inverse = ACT_MAX / amax;
        let numbers = x.map(|v| (v * inverse).round_ties_even());
        for (i, quad) in numbers.as_chunks::<4>().0.iter().enumerate() {
            for (j, place) in [0, 2, 1, 3].into_iter().enumerate() {
                let number = quad[place] * SPLIT_SCALE;
                let upper = f32::from_bits(number.to_bits() & 0xffff_0000);
                let parts = [upper, number - upper].map(|part| (part.to_bits() >> 16) as u16);
                [out.parts[0][4 * i + j], out.parts[1][4 * i + j]] = parts;
            }
        }
        out.d = amax / ACT_MAX;
        out.d_sum = out.d * numbers.iter().sum::<f32>();
    }
}
