//! From the form that was asked for to llguidance's own grammar.
//!
//! It must never know the vocabulary, but for the ids of control tokens, which it is told.
//!
//! Start reading at [`grammar`].

use llguidance::api::TopLevelGrammar;
use lm_types::{AnswerForm, CallForm, TokenId};
use serde_json::{Map, Value, json};

use crate::narrow::narrow;
use crate::{GrammarError, may_call};

/// The longest source, in bytes.
pub(crate) const MAX_BYTES: usize = 256 << 10;
/// The deepest nesting of brackets in a regular expression or grammar.
const MAX_DEPTH: usize = 100;
/// Alternatives of a choice.
const MAX_CHOICES: usize = 4096;
/// Between two tokens of JSON: one space, or a new line with its indentation. Nothing else, so that a
/// small model cannot lose itself in blanks.
const WHITE_SPACE: &str = r"( |\n {0,24})";
/// llguidance's own switches within a schema: they would change what a schema means.
const OWN_KEYWORD: &str = "x-guidance";

/// The grammar of `form`. `control` gives the id of a control token.
pub(crate) fn grammar(
    form: &AnswerForm,
    control: impl Fn(&str) -> Option<TokenId>,
) -> Result<TopLevelGrammar, GrammarError> {
    let bytes = form.size_bytes();
    if bytes > MAX_BYTES {
        return Err(GrammarError::TooLong { bytes, limit: MAX_BYTES });
    }
    match form {
        AnswerForm::JsonObject => {
            Ok(TopLevelGrammar::from_json_schema(schema(r#"{"type": "object"}"#)?))
        }
        AnswerForm::JsonSchema(text) => Ok(TopLevelGrammar::from_json_schema(schema(text)?)),
        AnswerForm::Calls(calls) => Ok(TopLevelGrammar::from_lark(lark_of_calls(calls)?)),
        AnswerForm::MayCall(form) => {
            let marker = Some(&*form.marker).filter(|marker| !marker.is_empty()).and_then(control);
            Ok(TopLevelGrammar::from_lark(may_call::lark(form, marker)?))
        }
        AnswerForm::Regex(pattern) => {
            check_depth(pattern)?;
            Ok(TopLevelGrammar::from_regex(unanchored(pattern)))
        }
        AnswerForm::Choice(texts) => choice(texts),
        AnswerForm::Lark(text) => {
            check_depth(text)?;
            Ok(TopLevelGrammar::from_lark(text.clone()))
        }
    }
}

pub(crate) fn schema(text: &str) -> Result<Value, GrammarError> {
    let schema = serde_json::from_str(text)
        .map_err(|error| refused(format!("the schema is no JSON: {error}")))?;
    let mut schema = match schema {
        Value::Object(fields) => fields,
        Value::Bool(true) => Map::new(),
        other => return Err(refused(format!("the schema is {other}, but must be an object"))),
    };
    if schema.contains_key(OWN_KEYWORD) {
        return Err(refused(format!("the keyword '{OWN_KEYWORD}' is not supported")));
    }
    narrow(&mut schema);
    schema.insert(OWN_KEYWORD.to_owned(), json!({ "whitespace_pattern": WHITE_SPACE }));
    Ok(Value::Object(schema))
}

/// A text in a grammar. An empty one would be an empty token, which Lark does not take.
pub(crate) fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { Value::from(text).to_string() }
}

fn lark_of_calls(calls: &CallForm) -> Result<String, GrammarError> {
    let (all, rules) = rules_of_calls(calls)?;
    Ok(format!("start: {all}\n{rules}"))
}

/// All calls, and the rules of one.
pub(crate) fn rules_of_calls(calls: &CallForm) -> Result<(String, String), GrammarError> {
    let [open, end, between, close] =
        [&calls.open, &calls.end, &calls.between, &calls.close].map(|mark| quoted(mark));
    let rest = match calls.max_calls {
        0 | 1 => String::new(),
        n => format!("({between} call)~0..{}", n - 1),
    };
    let others = calls.others.iter().map(|(begin, schema)| (begin.as_str(), schema));
    let (mut ways, mut bodies) = (Vec::new(), String::new());
    for (i, (begin, text)) in others.chain([(&*calls.begin, &calls.schema)]).enumerate() {
        ways.push(format!("{} body{i} {end}", quoted(begin)));
        bodies.push_str(&format!("body{i}: %json {}\n", schema(text)?));
    }
    Ok((format!("{open} call {rest} {close}"), format!("call: {}\n{bodies}", ways.join(" | "))))
}

fn choice(texts: &[String]) -> Result<TopLevelGrammar, GrammarError> {
    Ok(TopLevelGrammar::from_lark(format!("start: {}", alternatives(texts)?)))
}

/// One of `texts`, in a grammar.
pub(crate) fn alternatives(texts: &[String]) -> Result<String, GrammarError> {
    if texts.is_empty() || texts.len() > MAX_CHOICES || texts.iter().any(String::is_empty) {
        let n = texts.len();
        return Err(refused(format!(
            "it has {n} texts, but must have 1 to {MAX_CHOICES}, none empty"
        )));
    }
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    Ok(quoted.join(" | "))
}

/// The answer is matched as a whole, so anchors at the ends say nothing.
fn unanchored(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        Some(body) if body.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 0 => body,
        _ => pattern,
    }
}

fn check_depth(text: &str) -> Result<(), GrammarError> {
    let (mut depth, mut deepest, mut is_escaped) = (0_usize, 0, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > MAX_DEPTH {
        return Err(GrammarError::TooDeep { depth: deepest, limit: MAX_DEPTH });
    }
    Ok(())
}

pub(crate) fn refused(message: String) -> GrammarError {
    GrammarError::Refused { message: message.chars().take(300).collect() }
}
