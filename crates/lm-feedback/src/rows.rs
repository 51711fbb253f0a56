//! Traffic as rows of a dataset: filtered, without doubles, masked, each with the request that it came from.
//!
//! It must never hand out a row without where it came from, and never one unmasked.
//!
//! Start reading at [`Rows::of_traffic`].

use std::collections::HashSet;

use lm_store::sql::params;
use lm_store::{Answered, Place, Reader};
use serde_json::{Value, json};

use crate::called::{masked, put_back};
use crate::collect::answers_of;
use crate::fix::QUESTION;
use crate::{Answer, Book, FailureRow, FeedbackError, Fix, Kind};

/// Which answers become rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// By what was said of them.
    pub rating: Option<Rating>,
    /// Only failures of this cluster.
    pub cluster: Option<String>,
    /// Only answers of this model.
    pub model: Option<String>,
    /// Only answers of this route, such as `/v1/chat/completions`.
    pub route: Option<String>,
    /// Only answers of which the mean log-probability of the tokens is at most this. It is known where the request
    /// asked for log-probabilities.
    pub max_mean_logprob: Option<f64>,
    /// Only those that arrived from then on, in Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Only those that arrived before then, in Unix milliseconds.
    pub until_ms: Option<i64>,
}

/// What was said of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rating {
    /// Last, that it is good.
    Liked,
    /// Last, that it is bad.
    Disliked,
    /// What it should have been.
    Corrected,
}

/// What became rows, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rows {
    /// Answers that the filter let through.
    pub n_answers: u64,
    /// Rows.
    pub n_rows: u64,
    /// Answers with the same text as an earlier one.
    pub n_duplicates: u64,
    /// Answers whose texts were not kept, or that have none.
    pub n_without_text: u64,
    /// Secrets and personal data that were replaced.
    pub n_masked: u64,
    /// Answers that would fit, but whose log-probabilities are not known.
    pub n_without_logprob: u64,
}

/// The contract of rows of traffic, as a JSON Schema.
pub const TRAFFIC_SCHEMA: &str = r#"{
  "type": "object",
  "required": ["messages", "lineage"],
  "properties": {
    "messages": { "type": "array", "minItems": 2 },
    "lineage": { "type": "object", "required": ["request_id", "choice", "release_hash"] }
  }
}
"#;

/// The contract of the rows that guard a fix, as a JSON Schema.
pub const GATE_SCHEMA: &str = r#"{
  "type": "object",
  "required": ["messages", "scorer", "lineage"],
  "properties": {
    "messages": { "type": "array", "minItems": 1 },
    "scorer": { "type": "string" },
    "lineage": { "type": "object", "required": ["request_id", "choice", "fix"] }
  }
}
"#;

const PAGE: u32 = 1000;
/// Failures that guard a fix, the newest.
const MAX_GATE_ROWS: u32 = 50;

impl Rows {
    /// Hands each answer that the filter lets through to `take`, in the order of arrival: a conversation that ends with
    /// the answer, or with what it should have been where somebody said so.
    ///
    /// # Errors
    /// [`FeedbackError::Store`], [`FeedbackError::Database`], and what `take` returns.
    pub fn of_traffic<E: From<FeedbackError>>(
        book: &Book,
        reader: &Reader,
        filter: &Filter,
        now_ms: i64,
        mut take: impl FnMut(&Value) -> Result<(), E>,
    ) -> Result<Rows, E> {
        let mut rows = Rows::default();
        let mut seen: HashSet<blake3::Hash> = HashSet::new();
        let members = filter.cluster.as_deref().map(|cluster| book.members(cluster)).transpose()?;
        let mut place = Place::before(filter.since_ms.unwrap_or(0));
        let end_ms = filter.until_ms.unwrap_or(now_ms);
        loop {
            let page = reader.answers(&place, end_ms, PAGE).map_err(FeedbackError::from)?;
            let Some(last) = page.last() else { return Ok(rows) };
            place = last.place();
            for row in &page {
                let key = (row.request_id.to_string(), row.attempt.choice);
                let is_member = members.as_ref().is_none_or(|members| members.contains(&key));
                if !is_member || !filter.fits(row) {
                    continue;
                }
                let said = reader.feedback_for(row.request_id).map_err(FeedbackError::from)?;
                let mut answer = Answer::new(row, &said);
                if !filter.rating.is_none_or(|rating| rating.is_of(&answer)) {
                    continue;
                }
                if let Some(most) = filter.max_mean_logprob {
                    rows.n_without_logprob += u64::from(row.mean_logprob.is_none());
                    if row.mean_logprob.is_none_or(|mean| mean > most) {
                        continue;
                    }
                }
                rows.n_answers += 1;
                put_back(reader, row, &mut answer)?;
                let correction = book.correction(&answer)?;
                let Some(row) = traffic_row(&answer, correction.as_deref(), &mut rows) else {
                    rows.n_without_text += 1;
                    continue;
                };
                if seen.insert(blake3::hash(row["messages"].to_string().as_bytes())) {
                    rows.n_rows += 1;
                    take(&row)?;
                } else {
                    rows.n_duplicates += 1;
                }
            }
        }
    }

    /// The rows that guard a fix: the newest failures of its problem from before it, asked as the fix asks, each with
    /// the check that tells a good answer.
    ///
    /// # Errors
    /// [`FeedbackError::NoCheck`] when the problem cannot be told from a text and nothing is expected.
    pub fn of_fix(book: &Book, reader: &Reader, fix: &Fix) -> Result<Vec<Value>, FeedbackError> {
        let failures = book.failures_before(&fix.cluster, fix.created_at_ms, MAX_GATE_ROWS)?;
        let mut rows = Vec::new();
        let mut seen: HashSet<blake3::Hash> = HashSet::new();
        for failure in failures {
            let scorer = scorer_of(fix, &failure)?;
            let Ok(id) = failure.request_id.parse() else { continue };
            let Some(request) = reader.request(id)? else { continue };
            let answers = answers_of(request, &[]);
            let Some(row) = answers.iter().find(|row| row.attempt.choice == failure.choice) else {
                continue;
            };
            let mut answer = Answer::new(row, &[]);
            put_back(reader, row, &mut answer)?;
            let messages = masked(&fixed(&answer.messages, fix)).0;
            let is_new =
                seen.insert(blake3::hash(Value::from(messages.clone()).to_string().as_bytes()));
            if messages.is_empty() || !is_new {
                continue;
            }
            rows.push(json!({
                "messages": messages,
                "scorer": scorer,
                "lineage": {
                    "request_id": failure.request_id,
                    "choice": failure.choice,
                    "cluster": fix.cluster,
                    "fix": fix.id,
                },
            }));
        }
        Ok(rows)
    }
}

impl Filter {
    /// Whether an answer fits by what is stored with it.
    fn fits(&self, row: &Answered) -> bool {
        let route = row.params.get("route").and_then(Value::as_str);
        self.model.as_ref().is_none_or(|model| *model == row.model)
            && self.route.as_deref().is_none_or(|wanted| route == Some(wanted))
    }
}

impl Rating {
    fn is_of(self, answer: &Answer) -> bool {
        let last = answer.opinions.iter().rev().find_map(|opinion| opinion.rating);
        match self {
            Rating::Liked => last.is_some_and(|rating| rating > 0.6),
            Rating::Disliked => last.is_some_and(|rating| rating < 0.4),
            Rating::Corrected => answer.correction().is_some(),
        }
    }
}

impl Book {
    fn members(&self, cluster: &str) -> Result<HashSet<(String, u32)>, FeedbackError> {
        let sql = "SELECT request_id, choice FROM failure WHERE cluster_id = ?1 \
                   AND coalesce(verdict, '') <> 'rejected'";
        let rows = self.query(sql, [cluster], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.into_iter().collect())
    }

    /// What the answer should have been: by a reviewer, or else by who asked.
    fn correction(&self, answer: &Answer) -> Result<Option<String>, FeedbackError> {
        let sql = "SELECT correction FROM failure WHERE request_id = ?1 AND choice = ?2 \
                   AND correction IS NOT NULL";
        let key = params![answer.request_id, answer.choice];
        let reviewed = self.query(sql, key, |row| row.get(0))?.pop();
        Ok(reviewed.or_else(|| answer.correction().map(str::to_owned)))
    }

    fn failures_before(
        &self,
        cluster: &str,
        end_ms: i64,
        limit: u32,
    ) -> Result<Vec<FailureRow>, FeedbackError> {
        let sql = format!(
            "SELECT {} FROM failure WHERE cluster_id = ?1 AND occurred_at_ms < ?2 \
             AND coalesce(verdict, '') <> 'rejected' ORDER BY occurred_at_ms DESC LIMIT ?3",
            crate::book::FAILURE_COLUMNS
        );
        self.query(&sql, params![cluster, end_ms, limit], crate::book::failure_row)
    }
}

fn traffic_row(answer: &Answer, correction: Option<&str>, rows: &mut Rows) -> Option<Value> {
    let text = correction.or(answer.output.as_deref()).filter(|text| !text.is_empty())?;
    if answer.messages.is_empty() {
        return None;
    }
    let mut messages = answer.messages.clone();
    messages.push(json!({ "role": "assistant", "content": text }));
    let (messages, n_masked) = masked(&messages);
    rows.n_masked += n_masked;
    Some(json!({
        "messages": messages,
        "lineage": {
            "request_id": answer.request_id,
            "choice": answer.choice,
            "release_hash": answer.release_hash,
            "model": answer.model,
            "arrived_at_ms": answer.arrived_at_ms,
            "answer": if correction.is_some() { "corrected" } else { "given" },
        },
    }))
}

/// The conversation as the fix has it asked.
fn fixed(messages: &[Value], fix: &Fix) -> Vec<Value> {
    let mut changed = messages.to_vec();
    let last = changed.iter_mut().rev().find(|message| message["role"] == "user");
    if let (Some(template), Some(last)) = (&fix.template, last)
        && let Some(question) = last["content"].as_str()
    {
        last["content"] = template.replace(QUESTION, question).into();
    }
    if let Some(system) = fix.system.as_ref().filter(|_| !changed.is_empty()) {
        changed.retain(|message| message["role"] != "system");
        changed.insert(0, json!({ "role": "system", "content": system }));
    }
    changed
}

/// How a good answer is told, in the terms of [`crate::Scorer::parse`].
fn scorer_of(fix: &Fix, failure: &FailureRow) -> Result<String, FeedbackError> {
    if let Some(expect) = &fix.expect {
        return Ok(expect.clone());
    }
    match Kind::of(&failure.kind)? {
        Kind::Repetition | Kind::Truncated | Kind::NotJson | Kind::Refusal => {
            Ok(format!("not:{}", failure.kind))
        }
        Kind::Error | Kind::Timeout => Ok("answered".to_owned()),
        _ => Err(FeedbackError::NoCheck { fix: fix.id.clone(), kind: failure.kind.clone() }),
    }
}
