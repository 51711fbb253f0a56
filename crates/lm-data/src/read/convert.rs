//! A record of any format as the text of a JSON row.
//!
//! It must never mend what it reads: what cannot be read as it is breaks a rule.
//!
//! Start reading at [`convert`].

use serde_json::{Value, json};

use crate::check::json::{self, JsonError};
use crate::check::{Violation, rule};
use crate::read::csv_record::Header;
use crate::read::framer::Record;
use crate::read::{Format, mail};

pub(crate) use crate::read::csv_record::{Header as CsvHeader, Kind as CsvKind};

/// The row's text and its value, or the rule that it breaks.
pub(crate) fn convert(
    format: Format,
    header: Option<&Header>,
    record: &Record,
) -> Result<(String, Value), Violation> {
    match format {
        Format::Mail | Format::Mbox => made(mail::row(&record.bytes)?),
        Format::Csv => {
            // A file without a header has no records either.
            let header = header.expect("a CSV record comes after its header: this is a bug");
            made(
                header
                    .row(text_of(record)?.as_bytes())
                    .map_err(|detail| Violation::new(rule::NOT_CSV, detail))?,
            )
        }
        Format::Sharegpt => {
            let value = parse(text_of(record)?, Some(record.offset_bytes))?;
            made(messages_of(&value).map_err(|detail| Violation::new(rule::CHAT, detail))?)
        }
        Format::Jsonl | Format::Chat | Format::Json | Format::Parquet => {
            let text = text_of(record)?;
            let value = parse(text, Some(record.offset_bytes))?;
            // In a file of lines a row is one line.
            if text.contains('\n') { made(value) } else { Ok((text.to_owned(), value)) }
        }
    }
}

fn made(value: Value) -> Result<(String, Value), Violation> {
    Ok((value.to_string(), value))
}

fn text_of(record: &Record) -> Result<&str, Violation> {
    std::str::from_utf8(&record.bytes).map_err(|error| {
        let at = error.valid_up_to();
        let offset = record.offset_bytes + at as u64;
        let byte = record.bytes[at];
        let column = at + 1;
        let detail = format!(
            "byte {byte:#04x} at column {column} (offset {offset} of the file) is not UTF-8"
        );
        Violation::new(rule::NOT_UTF8, detail)
    })
}

/// Columns are in bytes, from 1. `begin` is where the text begins in its file, when it has one.
pub(crate) fn parse(text: &str, begin: Option<u64>) -> Result<Value, Violation> {
    let place = |at: usize| {
        let offset = begin.map(|begin| begin + at as u64);
        offset.map_or(String::new(), |offset| format!(" (offset {offset} of the file)"))
    };
    json::parse(text).map_err(|error| match error {
        JsonError::Syntax { message, column, at } => {
            Violation::new(rule::NOT_JSON, format!("column {column}: {message}{}", place(at)))
        }
        JsonError::DuplicateKey { key, column, at } => Violation::new(
            rule::DUPLICATE_KEY,
            format!("column {column}: key {key:?} comes a second time{}", place(at)),
        ),
        JsonError::LargeInteger { column, at } => {
            let detail = "an integer that 64 bits do not hold would be rounded: write it as text";
            let detail = format!("column {column}: {detail}{}", place(at));
            Violation::new(rule::INTEGER_TOO_LARGE, detail)
        }
    })
}

/// ShareGPT's conversation in OpenAI's words; other keys of the row stay.
fn messages_of(value: &Value) -> Result<Value, String> {
    let turns = value.get("conversations").and_then(Value::as_array);
    let turns = turns.ok_or("the row has no list \"conversations\"")?;
    let mut messages = Vec::with_capacity(turns.len());
    for (i, turn) in turns.iter().enumerate() {
        let field = |name: &str| {
            let text = turn.get(name).and_then(Value::as_str);
            text.ok_or_else(|| format!("/conversations/{i} has no text {name:?}"))
        };
        let role = match field("from")? {
            "human" | "user" => "user",
            "gpt" | "assistant" | "chatgpt" | "bard" => "assistant",
            "system" => "system",
            "tool" | "function" | "observation" => "tool",
            other => {
                return Err(format!("/conversations/{i}/from is {other:?}, and no known role"));
            }
        };
        messages.push(json!({ "role": role, "content": field("value")? }));
    }
    let mut row = value.as_object().cloned().unwrap_or_default();
    row.remove("conversations");
    row.insert("messages".to_owned(), Value::Array(messages));
    Ok(Value::Object(row))
}
