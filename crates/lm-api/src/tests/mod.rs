//! Bodies in, requests or error bodies out; answers in, exact JSON out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_bodies;
mod dialects;
mod good_bodies;
mod json;
mod nested;
mod reasoning;
mod urgency;

use lastmile::{SamplingParams, ToolFormat};

use crate::{ApiError, ParseOptions, Parsed, parse_chat, parse_completion};

fn with_options<T>(strict: bool, run: impl FnOnce(&ParseOptions<'_>) -> T) -> T {
    let defaults = SamplingParams { temperature: 0.7, ..SamplingParams::default() };
    run(&ParseOptions {
        defaults: &defaults,
        entropy: 1000,
        tool_format: ToolFormat::Hermes,
        thinking: None,
        strict,
    })
}

fn chat(body: &str) -> Result<Parsed, ApiError> {
    with_options(false, |options| parse_chat(body.as_bytes(), options))
}

fn completion(body: &str) -> Result<Parsed, ApiError> {
    with_options(false, |options| parse_completion(body.as_bytes(), options))
}

/// A chat with one message and these further fields.
fn chat_with(fields: &str) -> Result<Parsed, ApiError> {
    chat(&format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],{fields}}}"#))
}
