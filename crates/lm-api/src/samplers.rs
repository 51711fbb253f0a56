//! The rarer parameters of a draw.
//!
//! It must never know the vocabulary: words stay words, and ids are checked by the runtime.
//!
//! Start reading at [`read`].

use lastmile::{Dry, SamplerStep, SamplingParams};
use serde_json::Value;

use crate::ApiError;
use crate::error::shown;
use crate::fields::Fields;
use crate::params::token_id;

/// Tokens that one request may bias.
const MAX_BIASED: usize = 1024;
/// Words that one request may ban, or that break repetitions.
const MAX_WORDS: usize = 128;
/// What ends a repeated sequence when nobody says so.
const DRY_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Words that the vocabulary must spell before they mean anything to a sampler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Must not occur in the answer.
    pub bad: Vec<String>,
    /// No repeated sequence reaches across them.
    pub dry_breakers: Vec<String>,
}

/// Takes the fields out; ranges are checked with the other parameters.
pub(crate) fn read(
    fields: &mut Fields,
    sampling: &mut SamplingParams,
    words: &mut Words,
) -> Result<(), ApiError> {
    if let Some(typical_p) = fields.number("typical_p")? {
        sampling.typical_p = typical_p as f32;
    }
    if let Some(sigmas) = fields.number("top_n_sigma")? {
        // llama.cpp writes -1 for off.
        sampling.top_n_sigma = if sigmas == -1.0 { 0.0 } else { sigmas as f32 };
    }
    if let Some(value) = fields.take("samplers") {
        sampling.samplers = steps(&value)?;
    }
    if let Some(names) = texts(fields, "logits_processors")? {
        sampling.processors = names;
    }
    if let Some(value) = fields.take("logit_bias") {
        let wanted = format!("an object of at most {MAX_BIASED} token ids with a number for each");
        let biases = value.as_object().filter(|map| map.len() <= MAX_BIASED).and_then(|map| {
            map.iter().map(|(id, bias)| Some((id.parse().ok()?, bias.as_f64()? as f32))).collect()
        });
        sampling.logit_bias =
            biases.ok_or_else(|| ApiError::invalid("logit_bias", &value, wanted))?;
    }
    if let Some(value) = fields.take("allowed_token_ids") {
        let ids = value.as_array().filter(|list| !list.is_empty());
        let ids: Option<Vec<u32>> = ids.and_then(|list| list.iter().map(token_id).collect());
        let wanted = "an array of at least 1 token id";
        let mut ids = ids.ok_or_else(|| ApiError::invalid("allowed_token_ids", &value, wanted))?;
        ids.sort_unstable();
        sampling.allowed_token_ids = Some(ids);
    }
    words.bad = texts(fields, "bad_words")?.unwrap_or_default();
    dry(fields, sampling, words)
}

/// The steps that apply, in their order, as llama.cpp names them; the usual ones in their usual order are `None`.
fn steps(value: &Value) -> Result<Option<Vec<SamplerStep>>, ApiError> {
    let names = SamplerStep::USUAL.map(SamplerStep::as_str).join(", ");
    let Some(list) = value.as_array() else {
        return Err(ApiError::invalid(
            "samplers",
            value,
            format!("an array of names out of {names}"),
        ));
    };
    let mut steps = Vec::with_capacity(SamplerStep::USUAL.len());
    for (i, name) in list.iter().enumerate() {
        // In llama.cpp's own list, and off there, too, unless its own parameters, which are unknown here, are set.
        if name == "xtc" {
            continue;
        }
        match name.as_str().and_then(SamplerStep::named) {
            Some(step) if !steps.contains(&step) => steps.push(step),
            _ => {
                return Err(ApiError::Invalid {
                    param: format!("samplers[{i}]"),
                    found: shown(name),
                    wanted: format!("one of {names}, each at most once"),
                });
            }
        }
    }
    Ok((steps != SamplerStep::USUAL).then_some(steps))
}

fn dry(
    fields: &mut Fields,
    sampling: &mut SamplingParams,
    words: &mut Words,
) -> Result<(), ApiError> {
    let multiplier = fields.number("dry_multiplier")?.unwrap_or(0.0) as f32;
    let base = fields.number("dry_base")?.unwrap_or(1.75) as f32;
    let allowed_length = fields.count("dry_allowed_length", 1)?.unwrap_or(2);
    let breakers = texts(fields, "dry_sequence_breakers")?;
    if multiplier != 0.0 {
        sampling.dry = Some(Dry { multiplier, base, allowed_length, breakers: Vec::new() });
        words.dry_breakers = breakers.unwrap_or_else(|| DRY_BREAKERS.map(str::to_owned).to_vec());
    }
    Ok(())
}

fn texts(fields: &mut Fields, name: &'static str) -> Result<Option<Vec<String>>, ApiError> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    let wanted = format!("an array of at most {MAX_WORDS} strings, none empty");
    let list = value.as_array().filter(|list| list.len() <= MAX_WORDS);
    let word = |word: &Value| word.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let words = list.and_then(|list| list.iter().map(word).collect());
    words.map(Some).ok_or_else(|| ApiError::invalid(name, &value, wanted))
}
