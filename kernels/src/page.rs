//! How K and V lie in a page of the cache, and how they are written.
//! Must never know a layer, a sequence or who reads.
//! Start at [`KvType`], then [`store_k`].
//!
//! A page holds 32 positions of one kv head. K: `[position / 16][head_dim][position % 16]`, so that sixteen
//! positions' scores grow in one vector; V: `[position][head_dim]`. The unit is a word of 16 bits: one f16, or
//! two int8, the first in the lower byte. After the numbers of an int8 part come its scales, bf16: of K `[head_dim
//! / 32][32]`, since some of its dimensions are much larger than others; of V `[32]`.

use crate::isa::Isa;
use crate::vector::{f32_to_f16, per_isa};

/// Positions of a page.
pub const KV_PAGE: usize = 32;
/// Positions that lie side by side in K.
pub(crate) const K_GROUP: usize = 16;

/// Dimensions of K that share a scale in int8.
pub(crate) const K_SCALED: usize = 32;

/// The largest whole number of an int8 value.
const CODE_MAX: f32 = 127.0;

/// How the numbers of K and V are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Rounded to f16.
    #[default]
    F16,
    /// Whole numbers from -127 to 127. A scale is for 32 dimensions of a position's K in one head, and for all
    /// of its V.
    Int8,
}

impl KvType {
    /// The name by which it is asked for.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::Int8 => "int8",
        }
    }

    /// Numbers in a word.
    pub(crate) const fn per_word(self) -> usize {
        match self {
            KvType::F16 => 1,
            KvType::Int8 => 2,
        }
    }

    /// Words of the numbers of one kv head's K or V in a page.
    pub(crate) fn number_words(self, head_dim: usize) -> usize {
        KV_PAGE * head_dim / self.per_word()
    }

    /// Words of one kv head's K in a page, scales included.
    #[must_use]
    pub fn k_words(self, head_dim: usize) -> usize {
        self.number_words(head_dim) + self.scale_words(head_dim.div_ceil(K_SCALED))
    }

    /// Words of one kv head's V in a page, scales included.
    #[must_use]
    pub fn v_words(self, head_dim: usize) -> usize {
        self.number_words(head_dim) + self.scale_words(1)
    }

    fn scale_words(self, per_position: usize) -> usize {
        match self {
            KvType::F16 => 0,
            KvType::Int8 => per_position * KV_PAGE,
        }
    }
}

/// Writes one position's K of one kv head. k: `[head_dim]`; `page`: that head's part of the page, as long as
/// [`KvType::k_words`] says; `slot`: the position's place in the page. What cannot be scaled, because a value is
/// not finite, reads as NaN.
///
/// # Panics
/// When the lengths do not fit each other, or `slot` is over 31.
pub fn store_k(isa: Isa, kv_type: KvType, k: &[f32], page: &mut [u16], slot: usize) {
    const CHUNK: usize = 64;
    assert_eq!(page.len(), kv_type.k_words(k.len()), "K's part of the page is of another size");
    let (numbers, scales) = split(kv_type, k.len(), page, slot);
    let words = K_GROUP / kv_type.per_word();
    let group = &mut numbers[slot / K_GROUP * words * k.len()..][..words * k.len()];
    let place = slot % K_GROUP;
    match kv_type {
        KvType::F16 => {
            let mut bits = [0; CHUNK];
            let lanes = group.as_chunks_mut::<K_GROUP>().0;
            for (k, lanes) in k.chunks(CHUNK).zip(lanes.chunks_mut(CHUNK)) {
                let bits = &mut bits[..k.len()];
                f32_to_f16(isa, k, bits);
                for (lanes, bits) in lanes.iter_mut().zip(bits) {
                    lanes[place] = *bits;
                }
            }
        }
        KvType::Int8 => per_isa!(isa, int8_k(k: &[f32], group: &mut [u16], scales: &mut [u16],
            slot: usize) -> ()),
    }
}

/// Writes one position's V of one kv head, as [`store_k`] does K; `page` is as long as [`KvType::v_words`] says.
///
/// # Panics
/// As [`store_k`].
pub fn store_v(isa: Isa, kv_type: KvType, v: &[f32], page: &mut [u16], slot: usize) {
    assert_eq!(page.len(), kv_type.v_words(v.len()), "V's part of the page is of another size");
    let (numbers, scales) = split(kv_type, v.len(), page, slot);
    let n_words = v.len() / kv_type.per_word();
    let row = &mut numbers[slot * n_words..][..n_words];
    match kv_type {
        KvType::F16 => f32_to_f16(isa, v, row),
        KvType::Int8 => scales[slot] = per_isa!(isa, int8_v(v: &[f32], row: &mut [u16]) -> u16),
    }
}

#[inline(always)]
fn int8_k(k: &[f32], group: &mut [u16], scales: &mut [u16], slot: usize) {
    let place = slot % K_GROUP;
    let lanes = group.as_chunks_mut::<{ K_GROUP / 2 }>().0.chunks_mut(K_SCALED);
    let mut codes = [0; K_SCALED];
    for ((k, lanes), scales) in k.chunks(K_SCALED).zip(lanes).zip(scales.chunks_mut(KV_PAGE)) {
        let inverse;
        (scales[slot], inverse) = scale(k);
        codes.iter_mut().zip(k).for_each(|(out, k)| *out = code(*k, inverse));
        for (lanes, code) in lanes.iter_mut().zip(codes) {
            let mut bytes = lanes[place / 2].to_le_bytes();
            bytes[place % 2] = code;
            lanes[place / 2] = u16::from_le_bytes(bytes);
        }
    }
}

#[inline(always)]
fn int8_v(v: &[f32], row: &mut [u16]) -> u16 {
    let (bits, inverse) = scale(v);
    for (word, v) in row.iter_mut().zip(v.as_chunks::<2>().0) {
        *word = u16::from_le_bytes(v.map(|v| code(v, inverse)));
    }
    bits
}

/// The value of number `i` of a part, not yet scaled.
pub(crate) fn number(kv_type: KvType, numbers: &[u16], i: usize) -> f32 {
    match kv_type {
        KvType::F16 => half::f16::from_bits(numbers[i]).to_f32_const(),
        KvType::Int8 => f32::from(numbers[i / 2].to_le_bytes()[i % 2].cast_signed()),
    }
}

/// A scale from its bits.
#[inline(always)]
pub(crate) fn scale_from_bits(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The numbers and the scales of a part.
fn split(
    kv_type: KvType,
    head_dim: usize,
    page: &mut [u16],
    slot: usize,
) -> (&mut [u16], &mut [u16]) {
    assert!(slot < KV_PAGE, "slot {slot} is outside of a page of {KV_PAGE}");
    assert!(head_dim.is_multiple_of(kv_type.per_word()), "head_dim {head_dim} is odd");
    page.split_at_mut(kv_type.number_words(head_dim))
}

/// The bits of the scale of some values, and by what to multiply them. Rounded up, so that no code is over 127.
#[inline(always)]
fn scale(values: &[f32]) -> (u16, f32) {
    // The bits of numbers without a sign are in the order of the numbers, and what is not finite comes last.
    let largest = values.iter().fold(0, |largest: u32, v| largest.max(v.abs().to_bits()));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        return (half::bf16::NAN.to_bits(), 0.0);
    }
    let bits = (largest / CODE_MAX).to_bits().div_ceil(1 << 16) as u16;
    // Less than the smallest normal number counts as zero everywhere here.
    let scale = scale_from_bits(bits);
    if scale < f32::MIN_POSITIVE { (0, 0.0) } else { (bits, 1.0 / scale) }
}

/// The nearest whole number, ties to even, in the lowest byte of a sum that has no room for fractions.
#[inline(always)]
fn code(value: f32, inverse: f32) -> u8 {
    const ROUND: f32 = 12_582_912.0;
    (value.mul_add(inverse, ROUND)).to_bits() as u8
}
