//! Where things lie in a panel: 16 rows of weights, repacked for the vector units.
//! Must never know an instruction set; the group of four bytes is common to all of them.
//! Start at [`Layout`].
//!
//! A panel of a quantised type is a sequence of super-blocks, each of them `subs` sub-blocks of 32
//! values and then 16 f16 scales (and 16 f16 minima). A sub-block holds, one after the other:
//! - the codes. Nibbles: byte `[g][row][j]`, low = value `4g + j`, high = value `16 + 4g + j`, `g`
//!   < 4. Int8: byte `[g][row][j]` = value `4g + j`, `g` < 8.
//! - the upper bits. Fifth bits: byte `[row][j]`, bit `g` = value `4g + j`. Upper pairs of 6-bit
//!   codes: byte `[g / 4][row][j]`, bits `2 (g % 4)` and the next one.
//! - scales: u8 per row, or for Q6_K i8 `[half of 16 values][row]`; minima: u8 per row.
//!
//! A float panel is `[k][row]` in its own type.

use crate::types::WeightType;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// What is added to `d * code`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Min {
    /// Nothing: the codes are signed, or made so in whole numbers.
    None,
    /// This many `d`.
    TimesScale(f32),
    /// An f16 of its own.
    Own,
    /// An f16 times the row's u8, subtracted.
    Scaled,
}

/// Sizes in bytes of the parts of a super-block, for a quantised type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) subs: usize,
    pub(crate) codes: usize,
    pub(crate) plane: usize,
    pub(crate) scales: usize,
    pub(crate) min: Min,
}

impl Layout {
    pub(crate) const fn mins(&self) -> usize {
        if matches!(self.min, Min::Scaled) { PANEL_ROWS } else { 0 }
    }
    pub(crate) const fn plane_at(&self) -> usize {
        self.codes
    }
    pub(crate) const fn scales_at(&self) -> usize {
        self.codes + self.plane
    }
    pub(crate) const fn mins_at(&self) -> usize {
        self.scales_at() + self.scales
    }
    pub(crate) const fn sub_bytes(&self) -> usize {
        self.mins_at() + self.mins()
    }
    pub(crate) const fn d_at(&self) -> usize {
        self.subs * self.sub_bytes()
    }
    pub(crate) const fn m_at(&self) -> usize {
        self.d_at() + 2 * PANEL_ROWS
    }
    pub(crate) const fn bytes(&self) -> usize {
        let m = if matches!(self.min, Min::Own | Min::Scaled) { 2 * PANEL_ROWS } else { 0 };
        self.m_at() + m
    }
}

/// A quantised type as a type, so that kernels are compiled for each.
pub(crate) trait Format {
    const LAYOUT: Layout;
    /// Bits of a code: 4, 5, 6 or 8.
    const BITS: u32;
    // Constants rather than calls: the kernels' loops must not work them out.
    const SUBS: usize = Self::LAYOUT.subs;
    const BYTES: usize = Self::LAYOUT.bytes();
    const SUB_BYTES: usize = Self::LAYOUT.sub_bytes();
    const PLANE_AT: usize = Self::LAYOUT.plane_at();
    const SCALES_AT: usize = Self::LAYOUT.scales_at();
    const MINS_AT: usize = Self::LAYOUT.mins_at();
    const D_AT: usize = Self::LAYOUT.d_at();

    /// The sub-block `block` (of 32 values, counted from the panel's start), and the scales and
    /// minima behind the sub-blocks of its super-block.
    #[inline(always)]
    fn sub(panel: &[u8], block: usize) -> (&[u8], &[u8]) {
        let whole = &panel[(block / Self::SUBS).wrapping_mul(Self::BYTES)..][..Self::BYTES];
        let sub = &whole[(block % Self::SUBS) * Self::SUB_BYTES..][..Self::SUB_BYTES];
        (sub, &whole[Self::D_AT..])
    }
}

macro_rules! format {
    ($name:ident, $bits:literal, $subs:literal, $codes:literal, $plane:literal, $scales:literal,
     $min:expr) => {
        pub(crate) struct $name;
        impl Format for $name {
            const LAYOUT: Layout =
                Layout { subs: $subs, codes: $codes, plane: $plane, scales: $scales, min: $min };
            const BITS: u32 = $bits;
        }
    };
}

format!(Q4_0, 4, 1, 256, 0, 0, Min::TimesScale(-8.0));
format!(Q4_1, 4, 1, 256, 0, 0, Min::Own);
format!(Q5_0, 5, 1, 256, 64, 0, Min::TimesScale(-16.0));
format!(Q5_1, 5, 1, 256, 64, 0, Min::Own);
format!(Q8_0, 8, 1, 512, 0, 0, Min::None);
format!(Q4K, 4, 8, 256, 0, 16, Min::Scaled);
format!(Q5K, 5, 8, 256, 64, 16, Min::Scaled);
format!(Q6K, 6, 8, 256, 128, 32, Min::None);

/// The layout and the bits of a code; `None` for float types.
pub(crate) const fn layout(weight: WeightType) -> Option<(Layout, u32)> {
    Some(match weight {
        WeightType::Q4_0 => (Q4_0::LAYOUT, Q4_0::BITS),
        WeightType::Q4_1 => (Q4_1::LAYOUT, Q4_1::BITS),
        WeightType::Q5_0 => (Q5_0::LAYOUT, Q5_0::BITS),
        WeightType::Q5_1 => (Q5_1::LAYOUT, Q5_1::BITS),
        WeightType::Q8_0 => (Q8_0::LAYOUT, Q8_0::BITS),
        WeightType::Q4K => (Q4K::LAYOUT, Q4K::BITS),
        WeightType::Q5K => (Q5K::LAYOUT, Q5K::BITS),
        WeightType::Q6K => (Q6K::LAYOUT, Q6K::BITS),
        WeightType::F16 | WeightType::BF16 | WeightType::F32 => return None,
    })
}

/// Bytes of a panel of 16 rows of `k` values; `None` when `k` is not a whole number of blocks or
/// too large to address.
#[must_use]
pub fn panel_bytes(weight: WeightType, k: usize) -> Option<usize> {
    if !k.is_multiple_of(weight.block_len()) {
        return None;
    }
    match layout(weight) {
        Some((layout, _)) => (k / weight.block_len()).checked_mul(layout.bytes()),
        None => k.checked_mul(PANEL_ROWS * weight.block_bytes()),
    }
}
