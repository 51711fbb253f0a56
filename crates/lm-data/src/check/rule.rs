//! The names of the rules, which are an API, and what is said when one is broken.
//!
//! It must never know how a rule is checked.
//!
//! Start reading at [`Violation`].

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::DataError;

pub(crate) const UNREADABLE: &str = "unreadable";
pub(crate) const ROW_TOO_LONG: &str = "row_too_long";
pub(crate) const NOT_UTF8: &str = "not_utf8";
pub(crate) const NOT_JSON: &str = "not_json";
pub(crate) const NOT_CSV: &str = "not_csv";
pub(crate) const DUPLICATE_KEY: &str = "duplicate_key";
pub(crate) const INTEGER_TOO_LARGE: &str = "integer_too_large";
pub(crate) const MAIL_HEADERS: &str = "mail_headers";
pub(crate) const MAIL_CHARSET: &str = "mail_charset";
pub(crate) const MAIL_ENCODING: &str = "mail_encoding";
pub(crate) const MAIL_EMPTY: &str = "mail_empty";
pub(crate) const CHAT: &str = "chat";
pub(crate) const MOJIBAKE: &str = "mojibake";
pub(crate) const CONTROL_CHARS: &str = "control_chars";
pub(crate) const EMPTY_TEXT: &str = "empty_text";
pub(crate) const LANGUAGE: &str = "language";
pub(crate) const SECRET: &str = "secret";
pub(crate) const PERSONAL_DATA: &str = "personal_data";
pub(crate) const CONTEXT_TOKENS: &str = "context_tokens";
pub(crate) const NEAR_DUPLICATE: &str = "near_duplicate";
/// Followed by the schema's keyword, as in `schema:required`.
pub(crate) const SCHEMA_PREFIX: &str = "schema:";
/// In place of a rule, where rules are allowed to fail: every rule.
pub(crate) const ALL: &str = "all";

const WHOLE: [&str; 21] = [
    UNREADABLE,
    ROW_TOO_LONG,
    NOT_UTF8,
    NOT_JSON,
    NOT_CSV,
    DUPLICATE_KEY,
    INTEGER_TOO_LARGE,
    MAIL_HEADERS,
    MAIL_CHARSET,
    MAIL_ENCODING,
    MAIL_EMPTY,
    CHAT,
    MOJIBAKE,
    CONTROL_CHARS,
    EMPTY_TEXT,
    LANGUAGE,
    SECRET,
    PERSONAL_DATA,
    CONTEXT_TOKENS,
    NEAR_DUPLICATE,
    ALL,
];
const PREFIXES: [&str; 9] = [
    SCHEMA_PREFIX,
    "range:",
    "length:",
    "tokens:",
    "pattern:",
    "one_of:",
    "nulls:",
    "unique:",
    "depends:",
];
const KNOWN: &str = "unreadable, row_too_long, not_utf8, not_json, not_csv, duplicate_key, \
    integer_too_large, mail_headers, mail_charset, mail_encoding, mail_empty, chat, mojibake, control_chars, empty_text, language, \
    secret, personal_data, context_tokens, near_duplicate, schema:KEYWORD, and range:, length:, \
    tokens:, pattern:, one_of:, nulls:, unique: or depends: with a COLUMN";
/// A detail is for people; it must not carry the row.
const MAX_DETAIL_CHARS: usize = 500;

/// The first rule that a row breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Cow<'static, str>,
    pub(crate) detail: String,
    pub(crate) repair: Option<Repair>,
    /// The row as it would have been published, where that is not its record.
    pub(crate) row: Option<String>,
}

/// A row that would not break the rule, made from one that does. Nothing is published until somebody says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// What was done: `decoded_as_windows_1252`, `mojibake_undone`, `control_chars_removed`.
    pub kind: Cow<'static, str>,
    /// The whole row, as JSON text.
    pub row: String,
}

impl Violation {
    pub(crate) fn new(rule: impl Into<Cow<'static, str>>, detail: impl AsRef<str>) -> Violation {
        let detail = detail.as_ref().chars().take(MAX_DETAIL_CHARS).collect();
        Violation { rule: rule.into(), detail, repair: None, row: None }
    }

    pub(crate) fn with_repair(self, repair: Repair) -> Violation {
        Violation { repair: Some(repair), ..self }
    }
}

/// # Errors
/// [`DataError::UnknownRule`] for a name that no row can break.
pub(crate) fn must_exist(rule: &str) -> Result<(), DataError> {
    let is_prefixed = |prefix: &&str| rule.len() > prefix.len() && rule.starts_with(*prefix);
    if WHOLE.contains(&rule) || PREFIXES.iter().any(is_prefixed) {
        return Ok(());
    }
    Err(DataError::UnknownRule { rule: rule.chars().take(80).collect(), known: KNOWN })
}
