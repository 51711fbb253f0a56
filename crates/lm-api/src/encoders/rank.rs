//! `POST /v1/rerank`, `/v1/score` and `/v1/classify`: what was asked, and the answers as JSON.

use lastmile::EncoderText;
use serde_json::{Value, json};

use super::{documents, finish, texts, truncate};
use crate::error::shown;
use crate::fields::{Fields, Warnings};
use crate::{ApiError, Urgency};

/// Pairs of texts whose nearness is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct RankAsked {
    /// The first texts: one for all of `documents`, or as many.
    pub queries: Vec<String>,
    /// The second texts.
    pub documents: Vec<String>,
    /// How many of the best are wanted; all by default.
    pub top_n: Option<usize>,
    /// Whether the documents are told again.
    pub return_documents: bool,
    /// Whether what is too long is cut.
    pub truncate: bool,
    /// How urgent it is.
    pub urgency: Urgency,
    /// What was ignored.
    pub warnings: Vec<String>,
}

/// Texts whose labels are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifyAsked {
    /// The texts.
    pub texts: Vec<EncoderText>,
    /// Whether what is too long is cut.
    pub truncate: bool,
    /// How urgent it is.
    pub urgency: Urgency,
    /// What was ignored.
    pub warnings: Vec<String>,
}

/// What a score is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoredBy {
    /// A model that read both texts at once: from 0 to 1.
    CrossEncoder,
    /// The cosine between the texts' vectors: from -1 to 1.
    Cosine,
}

/// What came of pairs of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked<'a> {
    /// The request's id.
    pub id: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// What the scores are.
    pub by: ScoredBy,
    /// A score for each document.
    pub scores: &'a [f32],
    /// Tokens of all texts.
    pub n_tokens: u32,
    /// What was ignored or changed.
    pub warnings: &'a [String],
}

/// Reads the body of `POST /v1/rerank`, as Jina and Cohere have it.
///
/// # Errors
/// The first field that is malformed, outside its range, unsupported or, in strict mode, unknown.
pub fn parse_rerank(body: &[u8], strict: bool) -> Result<RankAsked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let param = "query".to_owned();
    let query = fields.string("query")?.ok_or(ApiError::Missing { param, wanted: "a string" })?;
    let documents = documents(&mut fields, "documents")?;
    let top_n = fields.integer("top_n", 1..=i64::from(u32::MAX))?;
    let return_documents = fields.boolean("return_documents")?.unwrap_or(false);
    for name in ["max_chunks_per_doc", "max_tokens_per_doc", "rank_fields"] {
        if let Some(found) = fields.take(name) {
            return Err(ApiError::Unsupported { param: name.to_owned(), found: shown(&found) });
        }
    }
    let truncate = truncate(&mut fields)?.unwrap_or(false);
    let urgency = Urgency::read(&mut fields)?;
    Ok(RankAsked {
        queries: vec![query],
        documents,
        top_n: top_n.map(|n| n.unsigned_abs() as usize),
        return_documents,
        truncate,
        urgency,
        warnings: finish(fields, strict, Warnings::default())?,
    })
}

/// Reads the body of `POST /v1/score`: `text_1`, one or as many as `text_2`.
///
/// # Errors
/// As [`parse_rerank`].
pub fn parse_score(body: &[u8], strict: bool) -> Result<RankAsked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let mut side = |name: &'static str| match fields.take(name) {
        Some(Value::String(text)) => Ok(vec![text]),
        Some(list) => {
            let mut one = Fields::of([(name.to_owned(), list)].into_iter().collect());
            documents(&mut one, name)
        }
        None => {
            let wanted = "a string or an array of 1 to 2048 strings";
            Err(ApiError::Missing { param: name.to_owned(), wanted })
        }
    };
    let (queries, documents) = (side("text_1")?, side("text_2")?);
    if queries.len() != 1 && queries.len() != documents.len() {
        return Err(ApiError::Conflict {
            param: "text_1",
            found: format!("{} texts", queries.len()),
            other: "text_2",
            other_found: format!("{} texts", documents.len()),
            wanted: "give one, or as many as text_2 has",
        });
    }
    let truncate = truncate(&mut fields)?.unwrap_or(false);
    let urgency = Urgency::read(&mut fields)?;
    let warnings = finish(fields, strict, Warnings::default())?;
    let (top_n, return_documents) = (None, false);
    Ok(RankAsked { queries, documents, top_n, return_documents, truncate, urgency, warnings })
}

/// Reads the body of `POST /v1/classify`: `input`.
///
/// # Errors
/// As [`parse_rerank`].
pub fn parse_classify(body: &[u8], strict: bool) -> Result<ClassifyAsked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let texts = texts(&mut fields, "input")?;
    let truncate = truncate(&mut fields)?.unwrap_or(false);
    let urgency = Urgency::read(&mut fields)?;
    let warnings = finish(fields, strict, Warnings::default())?;
    Ok(ClassifyAsked { texts, truncate, urgency, warnings })
}

impl ScoredBy {
    /// Its stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ScoredBy::CrossEncoder => "cross_encoder",
            ScoredBy::Cosine => "cosine",
        }
    }
}

/// The best documents first; equal ones in their order.
#[must_use]
pub fn rerank_json(asked: &RankAsked, ranked: &Ranked<'_>) -> String {
    let mut order: Vec<usize> = (0..ranked.scores.len()).collect();
    order.sort_by(|a, b| ranked.scores[*b].total_cmp(&ranked.scores[*a]));
    order.truncate(asked.top_n.unwrap_or(usize::MAX));
    let result = |i: &usize| {
        let mut result = json!({ "index": i, "relevance_score": ranked.scores[*i] });
        if asked.return_documents {
            result["document"] = json!({ "text": asked.documents[*i] });
        }
        result
    };
    let results: Vec<Value> = order.iter().map(result).collect();
    let mut body = head(ranked);
    body["results"] = results.into();
    body["meta"] = json!({ "tokens": { "input_tokens": ranked.n_tokens } });
    body.to_string()
}

/// A score for each pair.
#[must_use]
pub fn score_json(ranked: &Ranked<'_>) -> String {
    let score = |(index, score)| json!({ "object": "score", "index": index, "score": score });
    let mut body = head(ranked);
    body["object"] = "list".into();
    body["data"] = ranked.scores.iter().enumerate().map(score).collect::<Vec<Value>>().into();
    body.to_string()
}

fn head(ranked: &Ranked<'_>) -> Value {
    let mut body = json!({
        "id": ranked.id,
        "model": ranked.model,
        "scored_by": ranked.by.as_str(),
        "usage": { "prompt_tokens": ranked.n_tokens, "total_tokens": ranked.n_tokens },
    });
    if !ranked.warnings.is_empty() {
        body["warnings"] = json!(ranked.warnings);
    }
    body
}

/// The labels' probabilities of each text.
#[must_use]
pub fn classify_json(
    id: &str,
    model: &str,
    labels: &[String],
    probabilities: &[Vec<f32>],
    n_tokens: u32,
    warnings: &[String],
) -> String {
    let one = |(index, probabilities): (usize, &Vec<f32>)| {
        let best = (0..probabilities.len()).max_by(|a, b| {
            // Of equals the first one, as argmax does.
            probabilities[*a].total_cmp(&probabilities[*b]).then(b.cmp(a))
        });
        json!({
            "index": index,
            "label": best.and_then(|best| labels.get(best)),
            "probs": probabilities,
            "num_classes": probabilities.len(),
        })
    };
    let mut body = json!({
        "id": id,
        "object": "list",
        "model": model,
        "labels": labels,
        "data": probabilities.iter().enumerate().map(one).collect::<Vec<Value>>(),
        "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
    });
    if !warnings.is_empty() {
        body["warnings"] = json!(warnings);
    }
    body.to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_only_as_many_as_wanted() {
        let body = br#"{"query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2, "return_documents": true}"#;
        let asked = parse_rerank(body, true).unwrap();
        let ranked = Ranked {
            id: "r",
            model: "m",
            by: ScoredBy::Cosine,
            scores: &[0.5, 0.75, 0.5],
            n_tokens: 9,
            warnings: &[],
        };
        insta::assert_snapshot!(rerank_json(&asked, &ranked), @r#"{"id":"r","model":"m","scored_by":"cosine","usage":{"prompt_tokens":9,"total_tokens":9},"results":[{"index":1,"relevance_score":0.75,"document":{"text":"b"}},{"index":0,"relevance_score":0.5,"document":{"text":"a"}}],"meta":{"tokens":{"input_tokens":9}}}"#);
    }

    #[test]
    fn what_cannot_be_ranked_is_named() {
        let refuse = |body: &str| parse_rerank(body.as_bytes(), true).unwrap_err().to_string();
        assert!(refuse(r#"{"documents": ["a"]}"#).contains("query is missing"));
        assert!(refuse(r#"{"query": "q", "documents": []}"#).contains("documents is []"));
        assert!(refuse(r#"{"query": "q", "documents": ["a", 1]}"#).contains("documents[1] is 1"));
        let chunks = r#"{"query": "q", "documents": ["a"], "max_tokens_per_doc": 5}"#;
        assert!(refuse(chunks).contains("max_tokens_per_doc is 5"));
        let score = br#"{"text_1": ["a", "b"], "text_2": ["c"]}"#;
        assert!(parse_score(score, true).unwrap_err().to_string().contains("text_1 is 2 texts"));
    }
}
