//! Rows of GGUF blocks to test with, from a seed.

use half::f16;
use lm_kernels::{WeightType, pack_panel, panel_bytes};

/// A small counter-based generator: the same everywhere.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }
    /// From -1 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }
    pub(crate) fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// What the codes and scales of a corpus are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Codes {
    Random,
    Highest,
    Lowest,
    Alternating,
    ZeroScales,
    DenormalScales,
}

pub(crate) const CORPORA: [Codes; 6] = [
    Codes::Random,
    Codes::Highest,
    Codes::Lowest,
    Codes::Alternating,
    Codes::ZeroScales,
    Codes::DenormalScales,
];

/// Byte places of the f16 fields of a block.
fn halves(weight: WeightType) -> &'static [usize] {
    match weight {
        WeightType::Q4_0 | WeightType::Q5_0 | WeightType::Q8_0 => &[0],
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => &[0, 2],
        WeightType::Q6K => &[208],
        WeightType::F16 | WeightType::BF16 | WeightType::F32 => &[],
    }
}

/// One GGUF row of `k` values.
pub(crate) fn row(weight: WeightType, codes: Codes, k: usize, rng: &mut Rng) -> Vec<u8> {
    match weight {
        WeightType::F32 => return rng.units(k).into_iter().flat_map(f32::to_le_bytes).collect(),
        WeightType::F16 => {
            let halves = rng.units(k).into_iter().map(f16::from_f32);
            return halves.flat_map(f16::to_le_bytes).collect();
        }
        WeightType::BF16 => {
            let halves = rng.units(k).into_iter().map(half::bf16::from_f32);
            return halves.flat_map(half::bf16::to_le_bytes).collect();
        }
        _ => {}
    }
    let signed = weight == WeightType::Q8_0;
    let mut out = vec![0u8; weight.row_bytes(k).expect("k is whole blocks")];
    for block in out.chunks_exact_mut(weight.block_bytes()) {
        for (i, byte) in block.iter_mut().enumerate() {
            *byte = match codes {
                Codes::Highest if signed => 127,
                Codes::Highest => 255,
                Codes::Lowest if signed => 128,
                Codes::Lowest => 0,
                Codes::Alternating if i % 2 == 0 => 127,
                Codes::Alternating => 128,
                _ => rng.below(256) as u8,
            };
        }
        if weight == WeightType::Q6K && matches!(codes, Codes::Highest | Codes::Lowest) {
            block[192..208].fill(128);
        }
        for at in halves(weight) {
            let half = match codes {
                Codes::ZeroScales => 0,
                Codes::DenormalScales => rng.below(1024) as u16,
                _ => f16::from_f32(0.002 + 0.01 * rng.unit().abs()).to_bits(),
            };
            block[*at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    out
}

/// `n` rows and their panel.
pub(crate) fn panel(
    weight: WeightType,
    codes: Codes,
    n: usize,
    k: usize,
    rng: &mut Rng,
) -> (Vec<Vec<u8>>, Vec<u8>) {
    let rows: Vec<Vec<u8>> = (0..n).map(|_| row(weight, codes, k, rng)).collect();
    let refs: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    let mut packed = vec![0xaa; panel_bytes(weight, k).expect("k is whole blocks")];
    pack_panel(weight, &refs, k, &mut packed);
    (rows, packed)
}
