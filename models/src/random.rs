//! Pseudo-random weights: a real architecture without its weights.
//!
//! It must never keep state: each number depends on the seed, the tensor's role and its index
//! alone, and on whole-number arithmetic, so that every machine draws the same bits.
//!
//! Start reading at [`random_tensor`].

use std::borrow::Cow;

use crate::{TensorRole, TensorType, TensorView};

const STANDARD_DEVIATION: f32 = 0.02;

/// Norms are such that they scale by 1; everything else is about N(0, 0.02).
pub(crate) fn random_tensor(
    role: TensorRole,
    shape: Vec<usize>,
    seed: u64,
    norm_offset: f32,
) -> TensorView<'static> {
    let n_elements: usize = shape.iter().product();
    let mut data = Vec::with_capacity(n_elements * size_of::<f32>());
    if role.is_norm() {
        let one = (1.0 - norm_offset).to_le_bytes();
        (0..n_elements).for_each(|_| data.extend(one));
    } else {
        let key = mix(seed ^ name_key(&role.gguf_name()));
        for index in 0..n_elements as u64 {
            data.extend(normal(mix(key.wrapping_add(index))).to_le_bytes());
        }
    }
    TensorView { shape, dtype: TensorType::F32, data: Cow::Owned(data) }
}

/// The sum of four uniform draws of 16 bits, centred: close to normal and exact in f32.
fn normal(bits: u64) -> f32 {
    let sum: u32 = (0..4).map(|part| u32::from((bits >> (16 * part)) as u16)).sum();
    // Four uniforms on 0..65536 have mean 2 * 65535 and variance 65536² / 3.
    let centred = sum as f32 - 2.0 * 65_535.0;
    centred * (STANDARD_DEVIATION * 1.732_050_8 / 65_536.0)
}

/// Source: the finaliser of SplitMix64, Steele et al. 2014.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Source: FNV-1a.
fn name_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerTensor;

    fn values(role: TensorRole, n: usize, seed: u64) -> Vec<f32> {
        let tensor = random_tensor(role, vec![n], seed, 0.0);
        tensor.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn weights_are_about_normal() {
        let drawn = values(TensorRole::TokenEmbedding, 100_000, 7);
        let mean = drawn.iter().sum::<f32>() / 1e5;
        let variance = drawn.iter().map(|x| x * x).sum::<f32>() / 1e5;
        assert!(mean.abs() < 3e-4, "mean {mean}");
        assert!((variance.sqrt() - 0.02).abs() < 3e-4, "deviation {}", variance.sqrt());
    }

    #[test]
    fn weights_depend_on_seed_and_role_alone() {
        let q = TensorRole::Layer(0, LayerTensor::AttnQ);
        let k = TensorRole::Layer(0, LayerTensor::AttnK);
        assert_eq!(values(q, 8, 1), values(q, 9, 1)[..8]);
        assert_ne!(values(q, 8, 1), values(q, 8, 2));
        assert_ne!(values(q, 8, 1), values(k, 8, 1));
        assert_eq!(values(TensorRole::OutputNorm, 2, 1), [1.0, 1.0]);
    }
}
