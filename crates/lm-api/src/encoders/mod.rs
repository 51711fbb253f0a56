//! What encoders are asked for: vectors, ranks, scores, labels.
//!
//! It must never know a model: whether it can do what is asked is seen when it is asked.
//!
//! Start reading at [`parse_embeddings`] and [`parse_rerank`].

mod embeddings;
mod rank;

pub use embeddings::{
    EmbeddingsAsked, EmbeddingsStyle, Took, VectorFormat, embeddings_json, parse_embeddings,
    parse_ollama_embed, parse_ollama_embeddings,
};
pub use rank::{
    ClassifyAsked, RankAsked, Ranked, ScoredBy, classify_json, parse_classify, parse_rerank,
    parse_score, rerank_json, score_json,
};

use lastmile::EncoderText;
use serde_json::Value;

use crate::ApiError;
use crate::fields::{Fields, Warnings};
use crate::params::token_id;

/// Texts in one request.
const MAX_TEXTS: usize = 2048;
const INPUT: &str =
    "a string, an array of 1 to 2048 strings, an array of token ids, or an array of such arrays";

/// The field `name`: one text or several, as text or as tokens.
fn texts(fields: &mut Fields, name: &'static str) -> Result<Vec<EncoderText>, ApiError> {
    let Some(value) = fields.take(name) else {
        return Err(ApiError::Missing { param: name.to_owned(), wanted: INPUT });
    };
    let wrong = |path: String, value: &Value| ApiError::invalid(path, value, INPUT);
    let tokens = |list: &[Value]| list.iter().map(token_id).collect::<Option<Vec<u32>>>();
    let list = match &value {
        Value::String(text) => return Ok(vec![EncoderText::Text(text.clone())]),
        Value::Array(list) if (1..=MAX_TEXTS).contains(&list.len()) || is_tokens(list) => list,
        other => return Err(wrong(name.to_owned(), other)),
    };
    if is_tokens(list) {
        let tokens = tokens(list).ok_or_else(|| wrong(name.to_owned(), &value))?;
        return Ok(vec![EncoderText::Tokens(tokens)]);
    }
    let one = |(i, item): (usize, &Value)| {
        let found = match item {
            Value::String(text) => Some(EncoderText::Text(text.clone())),
            Value::Array(list) if !list.is_empty() => tokens(list).map(EncoderText::Tokens),
            _ => None,
        };
        found.ok_or_else(|| wrong(format!("{name}[{i}]"), item))
    };
    list.iter().enumerate().map(one).collect()
}

fn is_tokens(list: &[Value]) -> bool {
    list.first().is_some_and(Value::is_number)
}

/// The field `name`: strings, or objects with a field `text`.
fn documents(fields: &mut Fields, name: &'static str) -> Result<Vec<String>, ApiError> {
    let wanted = "an array of 1 to 2048 strings, or of objects with a string text";
    let Some(value) = fields.take(name) else {
        return Err(ApiError::Missing { param: name.to_owned(), wanted });
    };
    let list = value.as_array().filter(|list| (1..=MAX_TEXTS).contains(&list.len()));
    let list = list.ok_or_else(|| ApiError::invalid(name, &value, wanted))?;
    let text = |(i, item): (usize, &Value)| {
        let text = item.as_str().or_else(|| item.get("text")?.as_str());
        text.map(str::to_owned)
            .ok_or_else(|| ApiError::invalid(format!("{name}[{i}]"), item, "a string or {text}"))
    };
    list.iter().enumerate().map(text).collect()
}

/// Whether what is too long is cut: `truncate`, or vLLM's `truncate_prompt_tokens`.
fn truncate(fields: &mut Fields) -> Result<Option<bool>, ApiError> {
    let truncate = fields.boolean("truncate")?;
    match fields.take("truncate_prompt_tokens") {
        None => Ok(truncate),
        Some(value) if value.as_i64() == Some(-1) => Ok(Some(true)),
        Some(other) => {
            let wanted = "-1, which is the model's own limit";
            Err(ApiError::invalid("truncate_prompt_tokens", &other, wanted))
        }
    }
}

/// Takes what says nothing, and refuses or warns of what is left.
fn finish(
    mut fields: Fields,
    strict: bool,
    mut warnings: Warnings,
) -> Result<Vec<String>, ApiError> {
    for name in ["model", "user"] {
        fields.take(name);
    }
    fields.finish(strict, &mut warnings)?;
    Ok(warnings.into_list())
}
