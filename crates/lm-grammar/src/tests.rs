//! Grammars and the answers that they let through.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lm_tokenizer::Tokenizer;
use lm_types::{AnswerForm, CallForm, TokenId};
use serde_json::{Value, json};

use crate::{GrammarCompiler, GrammarError};

fn compiler() -> GrammarCompiler {
    let tokenizer = Tokenizer::placeholder();
    GrammarCompiler::new(&tokenizer, tokenizer.vocab_size()).unwrap()
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// An answer of allowed tokens drawn at random. `None` when it did not end within 600 tokens.
fn answer(compiler: &GrammarCompiler, form: &AnswerForm, seed: u64) -> Option<String> {
    let tokenizer = Tokenizer::placeholder();
    let mut state = compiler.compile(form).unwrap().start();
    let (mut bytes, mut dice) = (Vec::new(), seed);
    for _ in 0..600 {
        state.update().unwrap();
        let allowed: Vec<TokenId> = (0..512).filter(|&t| state.mask().allows(t)).collect();
        assert!(
            !allowed.is_empty(),
            "nothing is allowed after {}",
            String::from_utf8_lossy(&bytes)
        );
        let end = allowed.iter().copied().find(|&t| tokenizer.is_eog(t));
        let token = match end {
            Some(end) if next(&mut dice).is_multiple_of(2) => end,
            _ => allowed[(next(&mut dice) % allowed.len() as u64) as usize],
        };
        if tokenizer.is_eog(token) {
            return Some(String::from_utf8(bytes).unwrap());
        }
        bytes.extend_from_slice(tokenizer.token_bytes(token));
        if state.accept(token).unwrap() {
            return Some(String::from_utf8(bytes).unwrap());
        }
    }
    None
}

#[track_caller]
fn check(form: &AnswerForm, is_right: impl Fn(&str) -> bool) {
    let compiler = compiler();
    let answers: Vec<String> = (0..60).filter_map(|seed| answer(&compiler, form, seed)).collect();
    assert!(answers.len() > 5, "only {} answers ended", answers.len());
    let wrong = answers.iter().find(|text| !is_right(text));
    assert_eq!(wrong, None, "of {form:?}");
}

#[track_caller]
fn refuses(form: &AnswerForm, expect: &str) {
    match compiler().compile(form) {
        Err(error) => assert!(error.to_string().contains(expect), "{error}"),
        Ok(_) => panic!("{form:?} was not refused"),
    }
}

fn schema(schema: Value) -> AnswerForm {
    AnswerForm::JsonSchema(schema.to_string())
}

#[test]
fn random_tokens_under_a_schema_validate() {
    let person = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "tags": { "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 3 },
            "next": { "$ref": "#/$defs/link" },
        },
        "required": ["name", "age", "next"],
        "additionalProperties": false,
        "$defs": { "link": { "anyOf": [{ "type": "null" }, { "type": "boolean" }] } },
    });
    let validator = jsonschema::validator_for(&person).unwrap();
    check(&schema(person), |text| {
        serde_json::from_str(text).is_ok_and(|value: Value| validator.is_valid(&value))
    });
}

#[test]
fn an_object_is_an_object() {
    check(&AnswerForm::JsonObject, |text| {
        serde_json::from_str(text).is_ok_and(|value: Value| value.is_object())
    });
}

#[test]
fn expressions_and_choices_are_matched_as_a_whole() {
    let digits = |text: &str| text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit());
    check(&AnswerForm::Regex("[0-9]{4}".into()), digits);
    check(&AnswerForm::Regex(r"^\d{4}$".into()), |text| text.chars().all(char::is_numeric));
    let texts = ["yes", "no", "a \"quoted\" \\x41 ä\n"];
    let choice = AnswerForm::Choice(texts.map(str::to_owned).into());
    check(&choice, |text| texts.contains(&text));
    let lark = AnswerForm::Lark("start: \"<\" (\"x\" | \"y\")~2 \">\"".into());
    check(&lark, |text| ["<xx>", "<xy>", "<yx>", "<yy>"].contains(&text));
}

#[test]
fn calls_are_documents_between_marks() {
    let call = json!({ "type": "object", "properties": { "name": { "const": "f" } },
        "required": ["name"], "additionalProperties": false });
    let form = CallForm {
        schema: call.to_string(),
        open: "".into(),
        begin: "<call>\n".into(),
        end: "\n</call>".into(),
        between: "\n".into(),
        close: "".into(),
        max_calls: 2,
    };
    check(&AnswerForm::Calls(form), |text| {
        let one = |text: &str| {
            let inner = text.strip_prefix("<call>\n").and_then(|t| t.strip_suffix("\n</call>"));
            let value = inner.and_then(|text| serde_json::from_str::<Value>(text).ok());
            value == Some(json!({ "name": "f" }))
        };
        one(text)
            || text
                .split_once("</call>\n")
                .is_some_and(|(first, second)| one(&format!("{first}</call>")) && one(second))
    });
}

#[test]
fn white_space_is_bounded() {
    let compiler = compiler();
    let tokenizer = Tokenizer::placeholder();
    let mut state = compiler.compile(&AnswerForm::JsonObject).unwrap().start();
    let space = tokenizer.encode("\u{20}", Default::default()).unwrap()[0];
    let brace = tokenizer.encode("{", Default::default()).unwrap()[0];
    state.update().unwrap();
    assert!(!state.mask().allows(space), "no blanks before the value");
    state.accept(brace).unwrap();
    state.update().unwrap();
    assert!(state.mask().allows(space));
    state.accept(space).unwrap();
    state.update().unwrap();
    assert!(!state.mask().allows(space), "one space is enough");
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    refuses(&schema(json!({ "type": "array", "uniqueItems": true })), "uniqueItems");
    refuses(&schema(json!({ "not": { "type": "string" } })), "not");
    refuses(&schema(json!({ "type": "object", "x-guidance": { "lenient": true } })), "x-guidance");
    refuses(&schema(json!({ "type": "string", "format": "telegram" })), "telegram");
    refuses(&schema(json!({ "type": "any" })), "any");
    refuses(&schema(json!(3)), "must be an object");
    refuses(&schema(json!({ "type": "integer", "minimum": 3, "maximum": 2 })), "minimum");
    refuses(&AnswerForm::Regex("(".into()), "(");
    refuses(&AnswerForm::Lark("start: missing".into()), "missing");
    refuses(&AnswerForm::Choice(vec![]), "0 texts");
}

#[test]
fn budgets_hold() {
    let long = AnswerForm::Regex("a".repeat(300_000));
    assert!(matches!(compiler().compile(&long), Err(GrammarError::TooLong { .. })));
    let deep = AnswerForm::Lark(format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000)));
    assert!(matches!(compiler().compile(&deep), Err(GrammarError::TooDeep { .. })));
}
