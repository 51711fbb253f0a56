//! What this home's store recorded, as load and as a placeholder's answers.

use anyhow::Context;
use lm_bench::{PromptBody, Sample};
use lm_ops::{Reader, Traffic, shown_place};
use serde_json::Value;

use crate::doctor::store_path;
use crate::model::home;
use crate::outcome::WrongUse;

/// The newest `n` requests that were recorded with their prompts, oldest first.
pub(crate) fn recorded(n: usize) -> anyhow::Result<Vec<Traffic>> {
    let path = store_path(home()?.path());
    let limit = u32::try_from(n).unwrap_or(u32::MAX);
    let found = Reader::open(&path).and_then(|reader| reader.traffic(limit));
    let place = shown_place(&path);
    let place = place.display();
    let found = found.with_context(|| format!("cannot read what was recorded in {place}"))?;
    if found.is_empty() {
        let what = format!("{place} holds no complete answer with its prompt");
        return Err(WrongUse(what).into());
    }
    Ok(found)
}

/// Recorded requests as load, at their times and with as many tokens as their answers had.
pub(crate) fn recorded_samples(n: usize) -> anyhow::Result<Vec<Sample>> {
    recorded(n)?.iter().map(sample).collect()
}

fn sample(traffic: &Traffic) -> anyhow::Result<Sample> {
    Ok(Sample {
        prompt: body(&traffic.prompt)?,
        prompt_tokens: traffic.prompt_tokens as usize,
        output_tokens: (traffic.completion_tokens as usize).max(1),
        recorded_s: Some(traffic.arrived_at_ms as f64 / 1e3),
    })
}

/// A prompt as the store keeps it: `{"text" | "tokens" | "messages": …}`. One with a gap is as much text.
fn body(prompt: &Value) -> anyhow::Result<PromptBody> {
    if let Some(text) = prompt["text"].as_str() {
        let suffix = prompt["suffix"].as_str().unwrap_or_default();
        return Ok(PromptBody::Text([text, suffix].concat()));
    }
    if prompt["messages"].is_array() {
        return Ok(PromptBody::Messages(prompt["messages"].clone()));
    }
    let tokens = serde_json::from_value(prompt["tokens"].clone());
    Ok(PromptBody::Tokens(
        tokens.context("a recorded prompt is neither text, tokens nor messages")?,
    ))
}
