//! `POST /v1/embeddings`, `/api/embed` and `/api/embeddings`: what was asked, and the vectors as JSON.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lastmile::EncoderText;
use serde::Serialize;

use super::{finish, texts, truncate};
use crate::dialects::keep_alive;
use crate::fields::{Fields, Warnings};
use crate::{ApiError, Urgency};

/// Texts whose vectors are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingsAsked {
    /// The texts.
    pub texts: Vec<EncoderText>,
    /// Whether a text that is too long is cut.
    pub truncate: bool,
    /// How vectors are written.
    pub format: VectorFormat,
    /// How many of a vector's first numbers are wanted.
    pub dimensions: Option<usize>,
    /// Whether vectors get the length 1.
    pub normalize: bool,
    /// How urgent it is.
    pub urgency: Urgency,
    /// Whose API it is.
    pub style: EmbeddingsStyle,
    /// What was ignored.
    pub warnings: Vec<String>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorFormat {
    /// As an array of numbers.
    Float,
    /// As base64 of little-endian f32.
    Base64,
}

/// Whose API it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingsStyle {
    /// OpenAI's.
    OpenAi,
    /// Ollama's `/api/embed`.
    Ollama,
    /// Ollama's older `/api/embeddings`: one text.
    OllamaOne,
}

/// What an answer took, as Ollama tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// All of it.
    pub total: Duration,
    /// Loading the model; zero when it was there.
    pub load: Duration,
}

/// Reads the body of `POST /v1/embeddings`.
///
/// # Errors
/// The first field that is malformed, outside its range or, in strict mode, unknown.
pub fn parse_embeddings(body: &[u8], strict: bool) -> Result<EmbeddingsAsked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let texts = texts(&mut fields, "input")?;
    let format = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => VectorFormat::Float,
        Some("base64") => VectorFormat::Base64,
        Some(other) => {
            let wanted = "\"float\" or \"base64\"";
            return Err(ApiError::invalid("encoding_format", &other.into(), wanted));
        }
    };
    let truncate = truncate(&mut fields)?.unwrap_or(false);
    let (style, warnings) = (EmbeddingsStyle::OpenAi, Warnings::default());
    asked(fields, texts, format, truncate, style, strict, warnings)
}

/// Reads the body of Ollama's `POST /api/embed`, which cuts what is too long unless told otherwise.
///
/// # Errors
/// As [`parse_embeddings`].
pub fn parse_ollama_embed(body: &[u8], strict: bool) -> Result<EmbeddingsAsked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let texts = texts(&mut fields, "input")?;
    let truncate = truncate(&mut fields)?.unwrap_or(true);
    ollama(fields, texts, truncate, EmbeddingsStyle::Ollama, strict)
}

/// Reads the body of Ollama's older `POST /api/embeddings`.
///
/// # Errors
/// As [`parse_embeddings`].
pub fn parse_ollama_embeddings(body: &[u8], strict: bool) -> Result<EmbeddingsAsked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let param = "prompt".to_owned();
    let text = fields.string("prompt")?.ok_or(ApiError::Missing { param, wanted: "a string" })?;
    ollama(fields, vec![EncoderText::Text(text)], true, EmbeddingsStyle::OllamaOne, strict)
}

fn ollama(
    mut fields: Fields,
    texts: Vec<EncoderText>,
    truncate: bool,
    style: EmbeddingsStyle,
    strict: bool,
) -> Result<EmbeddingsAsked, ApiError> {
    let mut warnings = Warnings::default();
    if let Some(options) = fields.take("options") {
        // None of them is of vectors.
        Fields::nested("options", options)?.finish(strict, &mut warnings)?;
    }
    keep_alive(&mut fields, &mut warnings);
    asked(fields, texts, VectorFormat::Float, truncate, style, strict, warnings)
}

fn asked(
    mut fields: Fields,
    texts: Vec<EncoderText>,
    format: VectorFormat,
    truncate: bool,
    style: EmbeddingsStyle,
    strict: bool,
    warnings: Warnings,
) -> Result<EmbeddingsAsked, ApiError> {
    let dimensions = fields.integer("dimensions", 1..=1 << 20)?;
    let normalize = fields.boolean("normalize")?.unwrap_or(style != EmbeddingsStyle::OllamaOne);
    let urgency = Urgency::read(&mut fields)?;
    Ok(EmbeddingsAsked {
        texts,
        truncate,
        format,
        dimensions: dimensions.map(|n| n.unsigned_abs() as usize),
        normalize,
        urgency,
        style,
        warnings: finish(fields, strict, warnings)?,
    })
}

/// Vectors as the body of an answer.
///
/// # Panics
/// When a number is none, which engines do not hand out.
#[must_use]
pub fn embeddings_json(
    asked: &EmbeddingsAsked,
    id: &str,
    model: &str,
    vectors: &[Vec<f32>],
    n_tokens: u32,
    took: Took,
    warnings: &[String],
) -> String {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let text = match asked.style {
        EmbeddingsStyle::OllamaOne => serde_json::to_string(&OllamaOne {
            embedding: vectors.first().map(Vec::as_slice).unwrap_or_default(),
            warnings,
        }),
        EmbeddingsStyle::Ollama => serde_json::to_string(&Ollama {
            model,
            embeddings: vectors,
            total_duration: nanos(took.total),
            load_duration: nanos(took.load),
            prompt_eval_count: n_tokens,
            warnings,
        }),
        EmbeddingsStyle::OpenAi => {
            let item = |(index, vector): (usize, &Vec<f32>)| Item {
                object: "embedding",
                index,
                embedding: match asked.format {
                    VectorFormat::Float => Written::Float(vector.clone()),
                    VectorFormat::Base64 => {
                        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                        Written::Base64(STANDARD.encode(bytes))
                    }
                },
            };
            serde_json::to_string(&OpenAi {
                object: "list",
                id,
                model,
                data: vectors.iter().enumerate().map(item).collect(),
                usage: Usage { prompt_tokens: n_tokens, total_tokens: n_tokens },
                warnings,
            })
        }
    };
    text.expect("vectors are plain data: this is a bug")
}

#[derive(Serialize)]
struct OpenAi<'a> {
    object: &'a str,
    id: &'a str,
    model: &'a str,
    data: Vec<Item>,
    usage: Usage,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Written,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

#[derive(Serialize)]
struct Ollama<'a> {
    model: &'a str,
    embeddings: &'a [Vec<f32>],
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u32,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct OllamaOne<'a> {
    embedding: &'a [f32],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expect: Result<&[EncoderText], &str>) {
        match (parse_embeddings(body.as_bytes(), true), expect) {
            (Ok(asked), Ok(expect)) => assert_eq!(asked.texts, expect),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{body} gave: {error}");
            }
            (found, expect) => panic!("{body} gave {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn texts_come_in_four_forms_and_what_is_wrong_is_named() {
        let text = |text: &str| EncoderText::Text(text.to_owned());
        check(r#"{"input": "a"}"#, Ok(&[text("a")]));
        check(r#"{"input": ["a", "b"], "model": "m", "user": "u"}"#, Ok(&[text("a"), text("b")]));
        check(r#"{"input": [1, 2]}"#, Ok(&[EncoderText::Tokens(vec![1, 2])]));
        let two = [EncoderText::Tokens(vec![1]), EncoderText::Tokens(vec![2, 3])];
        check(r#"{"input": [[1], [2, 3]]}"#, Ok(&two));
        check("{}", Err("input is missing"));
        check(r#"{"input": []}"#, Err("input is []"));
        check(r#"{"input": [1, "a"]}"#, Err("input is [1,\"a\"]"));
        check(r#"{"input": ["a", {}]}"#, Err("input[1] is {}"));
        check(r#"{"input": [[]]}"#, Err("input[0] is []"));
        check(r#"{"input": [-1]}"#, Err("input is [-1]"));
        check(r#"{"input": "a", "encoding_format": "int8"}"#, Err("\"float\" or \"base64\""));
        check(r#"{"input": "a", "dimensions": 0}"#, Err("dimensions is 0"));
        check(r#"{"input": "a", "dimension": 2}"#, Err("unknown field 'dimension'"));
        check(r#"{"input": "a", "truncate_prompt_tokens": 5}"#, Err("must be -1"));
    }

    #[test]
    fn vectors_are_written_as_they_are_asked_for() {
        let write = |body: &str| {
            let asked = parse_embeddings(body.as_bytes(), true).unwrap();
            let vectors = [vec![0.1, -1.0]];
            embeddings_json(&asked, "embd-1", "m", &vectors, 3, Took::default(), &[])
        };
        insta::assert_snapshot!(write(r#"{"input": "a"}"#), @r#"{"object":"list","id":"embd-1","model":"m","data":[{"object":"embedding","index":0,"embedding":[0.1,-1.0]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#);
        let text = write(r#"{"input": "a", "encoding_format": "base64"}"#);
        assert!(text.contains(r#""embedding":"zczMPQAAgL8=""#), "{text}");
    }
}
