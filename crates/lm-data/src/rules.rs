//! What makes a row bad. The names of the rules are an API.
//!
//! It must never change a row, and never do I/O.
//!
//! Start reading at [`check`].

use std::borrow::Cow;

use crate::DataError;
use crate::contract::Contract;
use crate::json::{self, JsonError};
use crate::row::Row;

pub(crate) const ROW_TOO_LONG: &str = "row_too_long";
pub(crate) const NOT_UTF8: &str = "not_utf8";
pub(crate) const NOT_JSON: &str = "not_json";
pub(crate) const DUPLICATE_KEY: &str = "duplicate_key";
/// Followed by the schema's keyword, as in `schema:required`.
pub(crate) const SCHEMA_PREFIX: &str = "schema:";
/// In place of a rule, where rules are allowed to fail: every rule.
pub(crate) const ALL: &str = "all";

const KNOWN: &str = "row_too_long, not_utf8, not_json, duplicate_key and schema:KEYWORD";
/// A detail is for people; it must not carry the row.
const MAX_DETAIL_CHARS: usize = 500;

/// The first rule that a row breaks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Cow<'static, str>,
    pub(crate) detail: String,
}

/// Holds one row against all rules, cheapest first. Columns are in bytes, from 1.
pub(crate) fn check(
    row: &Row<'_>,
    max_row_bytes: usize,
    contract: &Contract,
) -> Result<(), Violation> {
    if row.too_long {
        let detail =
            format!("the row has {} bytes, and at most {max_row_bytes} may be", row.size_bytes);
        return Err(violation(ROW_TOO_LONG, &detail));
    }
    let text = std::str::from_utf8(row.bytes).map_err(|error| {
        let at = error.valid_up_to();
        let offset = row.offset_bytes + at as u64;
        let detail = format!(
            "byte {:#04x} at column {} (offset {offset} of the file) is not UTF-8",
            row.bytes[at],
            at + 1
        );
        violation(NOT_UTF8, &detail)
    })?;
    let value = json::parse(text).map_err(|error| match error {
        JsonError::Syntax { message, column } => {
            violation(NOT_JSON, &format!("column {column}: {message}"))
        }
        JsonError::DuplicateKey { key, column } => {
            violation(DUPLICATE_KEY, &format!("column {column}: key {key:?} comes a second time"))
        }
    })?;
    contract.validate(&value).map_err(|broken| {
        let at = if broken.at.is_empty() { "the row" } else { &broken.at };
        let rule = format!("{SCHEMA_PREFIX}{}", broken.keyword);
        violation(rule, &format!("{at}: {}", broken.message))
    })
}

/// # Errors
/// [`DataError::UnknownRule`] for a name that no row can break.
pub(crate) fn must_exist(rule: &str) -> Result<(), DataError> {
    let fixed = [ROW_TOO_LONG, NOT_UTF8, NOT_JSON, DUPLICATE_KEY, ALL].contains(&rule);
    if fixed || rule.strip_prefix(SCHEMA_PREFIX).is_some_and(|keyword| !keyword.is_empty()) {
        return Ok(());
    }
    Err(DataError::UnknownRule { rule: rule.chars().take(80).collect(), known: KNOWN })
}

fn violation(rule: impl Into<Cow<'static, str>>, detail: &str) -> Violation {
    Violation { rule: rule.into(), detail: detail.chars().take(MAX_DETAIL_CHARS).collect() }
}
