//! One record against all rules that look at one row, and the keys by which rows are compared later.
//!
//! It must never know other rows.
//!
//! Start reading at [`check`].

use serde_json::Value;

use crate::check::contract::{Contract, Terms};
use crate::check::minhash::{N_BINS, Sketch};
use crate::check::{Repair, Violation, column, rule, text};
use crate::ingest::CountTokens;
use crate::read::Format;
use crate::read::convert::{self, CsvHeader};
use crate::read::framer::Record;

/// What a good row is compared by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    /// Rule by rule as [`Terms`] lists them: the unique ones, then the dependencies.
    pub(crate) exact: Vec<Option<(u64, u64)>>,
    pub(crate) bands: Option<(Vec<u64>, Box<[u8; N_BINS]>)>,
}

/// A row that no rule of one row refuses.
pub(crate) struct Good {
    pub(crate) text: String,
    pub(crate) keys: Keys,
}

/// Holds a record against the rules, cheapest first. `null` is called for each column that is missing or null.
pub(crate) fn check(
    record: &Record,
    format: Format,
    header: Option<&CsvHeader>,
    rules: &Rules<'_>,
    null: impl FnMut(usize),
) -> Result<Good, Violation> {
    if let Some(reason) = &record.unreadable {
        return Err(Violation::new(rule::UNREADABLE, reason));
    }
    if let Some(fault) = record.fault {
        return Err(Violation::new(rule::NOT_JSON, fault));
    }
    if record.too_long {
        let (size, limit) = (record.size_bytes, rules.max_row_bytes);
        let detail = format!("the row has {size} bytes, and at most {limit} may be");
        return Err(Violation::new(rule::ROW_TOO_LONG, detail));
    }
    let (text, value) = convert::convert(format, header, record)
        .map_err(|violation| propose_decoding(violation, record, (format, header), rules))?;
    if let Err(violation) = judge(&value, format, rules, null) {
        let row = (text.as_bytes() != record.bytes).then_some(text);
        return Err(Violation { row, ..violation });
    }
    let keys = keys(&value, &rules.contract.terms);
    Ok(Good { text, keys })
}

/// What rows are held against.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) contract: &'a Contract,
    pub(crate) max_row_bytes: usize,
    pub(crate) count_tokens: Option<&'a CountTokens>,
}

/// Holds a row's value against the rules.
pub(crate) fn judge(
    value: &Value,
    format: Format,
    rules: &Rules<'_>,
    null: impl FnMut(usize),
) -> Result<(), Violation> {
    let Rules { contract, count_tokens, .. } = rules;
    contract.columns.nulls(value, null);
    contract.validate(value).map_err(|broken| {
        let at = if broken.at.is_empty() { "the row" } else { &broken.at };
        let rule = format!("{}{}", rule::SCHEMA_PREFIX, broken.keyword);
        Violation::new(rule, format!("{at}: {}", broken.message))
    })?;
    if contract.terms.chat || matches!(format, Format::Chat | Format::Sharegpt) {
        check_chat(value).map_err(|detail| Violation::new(rule::CHAT, detail))?;
    }
    contract.columns.check(value, *count_tokens)?;
    text::check(value, &contract.terms.text, &contract.columns, *count_tokens)
}

/// A row that is not UTF-8 may be windows-1252; that is proposed when the outcome breaks no rule.
fn propose_decoding(
    violation: Violation,
    record: &Record,
    (format, header): (Format, Option<&CsvHeader>),
    rules: &Rules<'_>,
) -> Violation {
    if violation.rule != rule::NOT_UTF8 {
        return violation;
    }
    let (text, _, _) = encoding_rs::WINDOWS_1252.decode(&record.bytes);
    let decoded = Record { bytes: text.into_owned().into_bytes(), ..record.clone() };
    let row = convert::convert(format, header, &decoded)
        .and_then(|(row, value)| judge(&value, format, rules, |_| ()).map(|()| row));
    match row {
        Ok(row) => violation.with_repair(Repair { kind: "decoded_as_windows_1252".into(), row }),
        Err(_) => violation,
    }
}

fn check_chat(row: &Value) -> Result<(), String> {
    const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
    let messages = row.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or("the row has no list \"messages\"")?;
    if messages.is_empty() {
        return Err("/messages is empty".to_owned());
    }
    for (i, message) in messages.iter().enumerate() {
        let role = message.get("role").and_then(Value::as_str);
        let role = role.ok_or_else(|| format!("/messages/{i} has no role"))?;
        if !ROLES.contains(&role) {
            let role: String = role.chars().take(40).collect();
            return Err(format!("/messages/{i}/role is {role:?}, and no role"));
        }
        let has = |name: &str| message.get(name).is_some_and(|value| !value.is_null());
        let is_said = match message.get("content") {
            Some(Value::String(_) | Value::Array(_)) => true,
            _ => role == "assistant" && (has("tool_calls") || has("function_call")),
        };
        if !is_said {
            return Err(format!("/messages/{i}/content is neither a text nor a list of parts"));
        }
    }
    let has_answer = messages.iter().any(|message| message["role"] == "assistant");
    if has_answer { Ok(()) } else { Err("no message is the assistant's".to_owned()) }
}

/// The keys by which the cross-row rules know a row.
pub(crate) fn keys(row: &Value, terms: &Terms) -> Keys {
    let mut exact = Vec::with_capacity(terms.unique.len() + terms.depends.len());
    for columns in &terms.unique {
        exact.push(hash_of(row, columns));
    }
    for dependency in &terms.depends {
        let on = hash_of(row, &dependency.on);
        let value = hash_of(row, std::slice::from_ref(&dependency.column));
        exact.push(on.map(|on| (on.0, value.map_or(0, |value| value.0))));
    }
    let bands = terms.near_duplicates.as_ref().and_then(|near| {
        let mut texts = Vec::new();
        text::each_text(row, &near.columns, &mut |_, text| texts.push(text));
        let sketch = Sketch::of(texts.into_iter())?;
        Some((sketch.bands.to_vec(), Box::new(sketch.signature)))
    });
    Keys { exact, bands }
}

/// 128 bits of the columns' values; `None` when one is missing or null, which is equal to nothing.
fn hash_of(row: &Value, columns: &[String]) -> Option<(u64, u64)> {
    let mut hasher = blake3::Hasher::new();
    for name in columns {
        let text = column::get(row, name)?.to_string();
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let mut halves = [0; 16];
    hasher.finalize_xof().fill(&mut halves);
    let halves = u128::from_le_bytes(halves);
    Some((halves as u64, (halves >> 64) as u64))
}
