//! Which requests there were: newest first, by what somebody remembers of one.
//!
//! It must never look at more than a bounded number of requests: text has no index.
//!
//! Start reading at [`Reader::search`].

use lm_types::{RequestId, TenantId, TraceId};
use serde::Serialize;

use crate::sql::Value;
use crate::{Reader, StoreError};

/// Requests that one search looks through for a text or a status, newest first.
pub const MAX_SEARCHED: u32 = 100_000;
/// Most requests that one search returns.
pub const MAX_FOUND: u32 = 200;
/// Characters of a prompt that a row shows.
const PREVIEW_CHARS: u32 = 200;

/// What is looked for. Everything that is given must hold; the default finds all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Whose requests: `Some(ANONYMOUS)` are those without a key, `None` is everybody's.
    pub tenant: Option<TenantId>,
    /// How the written form of the id begins.
    pub id_prefix: Option<String>,
    /// The trace that it is part of: its sender's, or its own, whose id is the request's.
    pub trace: Option<TraceId>,
    /// `stop`, `length` or `abort`, the code of an error, or `error` for any.
    pub status: Option<String>,
    /// The model's name as served.
    pub model: Option<String>,
    /// A part of the prompt or of an answer, whatever the case of ASCII letters.
    pub text: Option<String>,
    /// Arrived then or later, in Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Arrived before then, in Unix milliseconds.
    pub before_ms: Option<i64>,
    /// At most so many, up to [`MAX_FOUND`].
    pub limit: u32,
}

/// One request as a search finds it, with its first answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundRequest {
    /// The request.
    pub id: String,
    /// Unix milliseconds.
    pub arrived_at_ms: i64,
    /// The model's name as served.
    pub model: String,
    /// On whose behalf, as 16 hexadecimal digits; `None` came without a key.
    pub tenant: Option<String>,
    /// `interactive`, `batch` or `background`.
    pub priority: String,
    /// How many answers were asked for.
    pub n: u32,
    /// The finish reason or the code of the error; `None` while no answer is stored.
    pub status: Option<String>,
    /// Whether the status is an error's code.
    pub is_error: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u32>,
    /// Tokens generated.
    pub completion_tokens: Option<u32>,
    /// From arrival until the first token.
    pub ttft_ms: Option<f64>,
    /// From arrival until the end.
    pub e2e_ms: Option<f64>,
    /// How the stored prompt begins, as JSON text; `None` when not kept or erased.
    pub preview: Option<String>,
}

impl Reader {
    /// Finds requests, newest first. A text or a status is looked for among the newest
    /// [`MAX_SEARCHED`] requests that fulfil everything else.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn search(&self, search: &Search) -> Result<Vec<FoundRequest>, StoreError> {
        let (sql, values) = query(search);
        self.read(|c| {
            c.prepare_cached(&sql)?
                .query_map(values, |row| {
                    let (reason, code): (Option<String>, Option<String>) =
                        (row.get(6)?, row.get(7)?);
                    Ok(FoundRequest {
                        id: row.get(0)?,
                        arrived_at_ms: row.get(1)?,
                        model: row.get(2)?,
                        tenant: row.get(3)?,
                        priority: row.get(4)?,
                        n: row.get(5)?,
                        is_error: code.is_some(),
                        status: code.or(reason),
                        prompt_tokens: row.get(8)?,
                        completion_tokens: row.get(9)?,
                        ttft_ms: row.get(10)?,
                        e2e_ms: row.get(11)?,
                        preview: row.get(12)?,
                    })
                })?
                .collect()
        })
    }
}

/// What must hold, and the values of its marks.
#[derive(Default)]
struct Conditions {
    /// Of a request.
    inner: Vec<String>,
    /// Of a request together with its answer.
    outer: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    /// A mark that stands for `value`.
    fn mark(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }

    fn text(&mut self, text: String) -> String {
        self.mark(Value::Text(text))
    }
}

/// The SQL and the values of its marks. Only fixed words go into the SQL.
fn query(search: &Search) -> (String, Vec<Value>) {
    let found = conditions(search);
    let all = |conditions: &[String]| match conditions {
        [] => "1 = 1".to_owned(),
        conditions => conditions.join(" AND "),
    };
    let sql = format!(
        "SELECT r.id, r.arrived_at_ms, r.model, r.tenant, r.priority, r.n, a.finish_reason, \
         a.error_code, a.prompt_tokens, a.completion_tokens, a.ttft_ms, a.e2e_ms, \
         substr(r.prompt, 1, {PREVIEW_CHARS}) FROM (SELECT id, arrived_at_ms, model, tenant, \
         priority, n, prompt FROM request WHERE {} ORDER BY arrived_at_ms DESC, id DESC \
         LIMIT {MAX_SEARCHED}) r LEFT JOIN attempt a ON a.request_id = r.id AND a.choice = \
         (SELECT min(choice) FROM attempt WHERE request_id = r.id) WHERE {} \
         ORDER BY r.arrived_at_ms DESC, r.id DESC LIMIT {}",
        all(&found.inner),
        all(&found.outer),
        search.limit.min(MAX_FOUND)
    );
    (sql, found.values)
}

fn conditions(search: &Search) -> Conditions {
    let mut found = Conditions::default();
    match search.tenant {
        Some(TenantId::ANONYMOUS) => found.inner.push("tenant IS NULL".to_owned()),
        Some(tenant) => {
            let mark = found.text(format!("{:016x}", tenant.0));
            found.inner.push(format!("tenant = {mark}"));
        }
        None => {}
    }
    if let Some(prefix) = &search.id_prefix {
        let mark = found.text(format!("{}%", escaped(prefix)));
        found.inner.push(format!("id LIKE {mark} ESCAPE '\\'"));
    }
    if let Some(trace) = search.trace {
        let (theirs, own) = (trace.to_string(), RequestId(trace.0).to_string());
        let (theirs, own) = (found.text(theirs), found.text(own));
        found.inner.push(format!("(trace_id = {theirs} OR id = {own})"));
    }
    if let Some(model) = &search.model {
        let mark = found.text(model.clone());
        found.inner.push(format!("model = {mark}"));
    }
    for (limit, comparison) in [(search.since_ms, ">="), (search.before_ms, "<")] {
        if let Some(at_ms) = limit {
            let mark = found.mark(Value::Int(at_ms));
            found.inner.push(format!("arrived_at_ms {comparison} {mark}"));
        }
    }
    match search.status.as_deref() {
        Some("error") => found.outer.push("a.error_code IS NOT NULL".to_owned()),
        Some(status) => {
            let mark = found.text(status.to_owned());
            found.outer.push(format!("(a.error_code = {mark} OR a.finish_reason = {mark})"));
        }
        None => {}
    }
    if let Some(text) = &search.text {
        // A prompt is stored as JSON, in which some characters are written otherwise.
        let json = serde_json::Value::from(text.as_str()).to_string();
        let in_json = json.strip_prefix('"').and_then(|json| json.strip_suffix('"'));
        let prompt = found.text(format!("%{}%", escaped(in_json.unwrap_or(text))));
        let answer = found.text(format!("%{}%", escaped(text)));
        found.outer.push(format!(
            "(lower(r.prompt) LIKE lower({prompt}) ESCAPE '\\' \
             OR lower(a.output_text) LIKE lower({answer}) ESCAPE '\\')"
        ));
    }
    found
}

/// For LIKE, with `\` as its escape.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
