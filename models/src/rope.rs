//! RoPE scaling as GGUF metadata and as `rope_scaling` of a config.json say it.
//!
//! It must never know a family; a rule that it does not know is an error, never ignored.
//!
//! Start reading at [`from_config`].

use crate::check::limits;
use crate::families::{GgufFacts, rope_factors};
use crate::hf_config::HfConfig;
use crate::{ModelError, RopeScaling};

/// Llama 3's rule, as `rope_scaling` of type `llama3` gives it.
struct Llama3Rule {
    factor: f32,
    low_freq_factor: f32,
    high_freq_factor: f32,
    original_context: f32,
}

/// Reads `rope.scaling.*` and the tensors of factors of a GGUF file.
///
/// # Errors
/// `Unsupported` for any rule but a linear factor and factors of each dimension.
pub(crate) fn from_gguf(facts: &GgufFacts<'_>) -> Result<RopeScaling, ModelError> {
    if let Some(factors) = facts.rope_factors(rope_factors::ALL)? {
        return Ok(RopeScaling::PerDimension(factors));
    }
    let need = |name: &str| {
        let missing = || ModelError::MissingTensor { name: name.to_owned() };
        facts.rope_factors(name)?.ok_or_else(missing)
    };
    if let Some(short) = facts.rope_factors(rope_factors::SHORT)? {
        let original = "rope.scaling.original_context_length";
        return Ok(RopeScaling::Long {
            short,
            long: need(rope_factors::LONG)?,
            original_context: facts.need_size(original, limits::CONTEXT)?,
            magnitude: facts.f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
        });
    }
    match facts.str("rope.scaling.type")? {
        None if facts.f32("rope.scale_linear")?.is_some() => {
            Ok(facts.f32("rope.scale_linear")?.map_or(RopeScaling::None, linear))
        }
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(facts.f32("rope.scaling.factor")?.map_or(RopeScaling::None, linear)),
        Some(other) => {
            let key = facts.key("rope.scaling.type");
            Err(ModelError::unsupported(key, other, "none and linear"))
        }
    }
}

/// Reads `rope_scaling` of a config.json. `n_dims` dimensions rotate, with base `theta`.
///
/// # Errors
/// `Unsupported` for any rule but `default`, `linear`, `llama3` and `longrope`.
pub(crate) fn from_config(
    config: &HfConfig,
    n_dims: usize,
    theta: f32,
) -> Result<RopeScaling, ModelError> {
    let nested = match config.object("rope_scaling")? {
        None => parameters(config, "full_attention")?,
        scaling => scaling,
    };
    let Some(rule) = nested else { return Ok(RopeScaling::None) };
    match rule_type(&rule)? {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(linear(rule.need_f32("factor")?)),
        "llama3" => {
            let rule = Llama3Rule {
                factor: rule.need_f32("factor")?,
                low_freq_factor: rule.need_f32("low_freq_factor")?,
                high_freq_factor: rule.need_f32("high_freq_factor")?,
                original_context: rule.need_f32("original_max_position_embeddings")?,
            };
            Ok(RopeScaling::PerDimension(rule.divisors(n_dims, theta)))
        }
        // The name that Phi 3 was published with.
        "longrope" | "su" => longrope(config, &rule),
        other => {
            let what = rule.path("rope_type");
            Err(ModelError::unsupported(what, other, "default, linear, llama3 and longrope"))
        }
    }
}

/// How many dimensions of a head rotate.
///
/// # Errors
/// `Invalid` when the factor is no number.
pub(crate) fn n_dims(config: &HfConfig, head_dim: usize) -> Result<usize, ModelError> {
    const KEY: &str = "partial_rotary_factor";
    let nested = parameters(config, "full_attention")?;
    let factor = match (config.f32(KEY)?, nested) {
        (None, Some(parameters)) => parameters.f32(KEY)?,
        (factor, _) => factor,
    };
    Ok(factor.map_or(head_dim, |factor| (head_dim as f32 * factor) as usize))
}

/// Source: `_compute_longrope_parameters` of transformers.
fn longrope(config: &HfConfig, rule: &HfConfig) -> Result<RopeScaling, ModelError> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let stretched = config.need_size("max_position_embeddings", limits::CONTEXT)?;
    let original = match config.size(ORIGINAL, limits::CONTEXT)? {
        None => rule.size(ORIGINAL, limits::CONTEXT)?,
        original => original,
    };
    let (original_context, factor) = match original {
        Some(original) => (original, stretched as f64 / original.max(1) as f64),
        None => (stretched, f64::from(rule.need_f32("factor")?)),
    };
    let by_length = || {
        let stretched = 1.0 + factor.ln() / (original_context as f64).ln();
        if factor <= 1.0 { 1.0 } else { stretched.sqrt() as f32 }
    };
    Ok(RopeScaling::Long {
        short: rule.need_f32s("short_factor")?,
        long: rule.need_f32s("long_factor")?,
        original_context,
        magnitude: rule.f32("attention_factor")?.unwrap_or_else(by_length),
    })
}

/// The base of layers that see everything, wherever the config says it.
///
/// # Errors
/// `Invalid` when it is no number.
pub(crate) fn theta(config: &HfConfig) -> Result<Option<f32>, ModelError> {
    match config.f32("rope_theta")? {
        None => parameters(config, "full_attention")?.map_or(Ok(None), |p| p.f32("rope_theta")),
        theta => Ok(theta),
    }
}

/// The base of sliding-window layers, wherever the config says it.
///
/// # Errors
/// `Invalid` when it is no number, `Unsupported` when those layers are scaled too.
pub(crate) fn theta_sliding(config: &HfConfig) -> Result<Option<f32>, ModelError> {
    let nested = parameters(config, "sliding_attention")?;
    match (config.f32("rope_local_base_freq")?, nested) {
        (None, Some(rule)) => match rule_type(&rule)? {
            "default" => rule.f32("rope_theta"),
            other => Err(ModelError::unsupported(rule.path("rope_type"), other, "default")),
        },
        (theta, _) => Ok(theta),
    }
}

/// `rope_parameters`, or the part of it for one kind of layers when it tells them apart.
fn parameters(config: &HfConfig, layers: &str) -> Result<Option<HfConfig>, ModelError> {
    let Some(all) = config.object("rope_parameters")? else { return Ok(None) };
    let kinds = ["full_attention", "sliding_attention"];
    if kinds.iter().any(|kind| all.get(kind).is_some()) {
        all.object(layers)
    } else {
        Ok(Some(all))
    }
}

fn rule_type(rule: &HfConfig) -> Result<&str, ModelError> {
    let kind = match rule.str("rope_type")? {
        None => rule.str("type")?,
        kind => kind,
    };
    Ok(kind.unwrap_or("default"))
}

#[expect(clippy::float_cmp, reason = "a factor of exactly 1 is no scaling")]
fn linear(factor: f32) -> RopeScaling {
    if factor == 1.0 { RopeScaling::None } else { RopeScaling::Linear(factor) }
}

impl Llama3Rule {
    /// What each frequency is divided by. \[n_dims / 2\]
    /// Source: `_compute_llama3_parameters` of transformers.
    fn divisors(&self, n_dims: usize, theta: f32) -> Vec<f32> {
        let divisor = |pair_idx: usize| {
            let exponent = (2 * pair_idx) as f32 / n_dims as f32;
            let wavelength = std::f32::consts::TAU * theta.powf(exponent);
            let turns = self.original_context / wavelength;
            if turns > self.high_freq_factor {
                return 1.0;
            }
            if turns < self.low_freq_factor {
                return self.factor;
            }
            let smooth =
                (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        };
        (0..n_dims / 2).map(divisor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first eight and the last of `rope_freqs.weight` that llama.cpp's converter writes for
    /// Llama 3.2 1B are 1 and 32; between them the divisors only grow.
    #[test]
    fn llama3_leaves_high_frequencies_and_stretches_low_ones() {
        let rule = Llama3Rule {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let divisors = rule.divisors(64, 500_000.0);
        assert_eq!(divisors.len(), 32);
        assert!(divisors[..8].iter().all(|&divisor| divisor == 1.0), "{divisors:?}");
        assert_eq!(divisors[31], 32.0);
        assert!(divisors.is_sorted(), "{divisors:?}");
        assert!(divisors.iter().any(|&divisor| divisor > 1.0 && divisor < 32.0), "{divisors:?}");
    }
}
