//! Grammars and the answers that they let through.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lm_tokenizer::{Tokenizer, placeholder};
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

/// Whether an answer under a schema may be this text.
fn takes(document: Value, text: &str) -> bool {
    let tokenizer = Tokenizer::placeholder();
    let mut state = compiler().compile(&schema(document)).unwrap().start();
    let mut is_complete = false;
    for token in tokenizer.encode(text, Default::default()).unwrap() {
        state.update().unwrap();
        if is_complete || !state.mask().allows(token) {
            return false;
        }
        is_complete = state.accept(token).unwrap();
    }
    is_complete || {
        state.update().unwrap();
        tokenizer.eog_ids().iter().any(|&end| state.mask().allows(end))
    }
}

#[test]
fn what_a_schema_lets_through_is_not_narrowed_away() {
    let far = 1_000_000_000_000_000_000_i64;
    let integer = |fields: Value| json!({ "allOf": [{ "type": "integer" }, fields] });
    for document in
        [json!({ "type": "integer", "minimum": far }), integer(json!({ "minimum": far }))]
    {
        assert!(takes(document.clone(), "1000000000000000001"), "{document}");
        assert!(!takes(document.clone(), "999999999999999999"), "{document}");
    }
    assert!(takes(json!({ "type": "number", "maximum": -far }), "-1000000000000000000.5"));
    let [a, b] = ["a", "b"].map(|name| {
        json!({ "type": "object", "properties": { name: { "type": "integer" } }, "required": [name] })
    });
    let mut beside = a.clone();
    beside["anyOf"] = json!([b]);
    let by_name = json!({ "allOf": [{ "$ref": "#/$defs/a" }, { "$ref": "#/$defs/b" }],
        "$defs": { "a": a, "b": b } });
    for document in [json!({ "allOf": [a, b] }), beside, by_name] {
        assert!(takes(document.clone(), r#"{"a":1,"b":2}"#), "{document}");
        assert!(!takes(document.clone(), r#"{"a":1}"#), "{document}");
    }
    let mut more = a.clone();
    more["required"] = json!(["a", "z"]);
    assert!(takes(more, r#"{"a":1,"z":null}"#));
    assert!(!takes(a, r#"{"a":1,"z":null}"#));
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
        others: vec![],
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
fn each_call_may_have_a_beginning_of_its_own() {
    let number = json!({ "type": "integer", "minimum": 0, "maximum": 9 }).to_string();
    let form = CallForm {
        schema: json!({ "type": "boolean" }).to_string(),
        open: "".into(),
        begin: "[CALL]f[ARGS]".into(),
        end: "".into(),
        between: "".into(),
        close: "".into(),
        max_calls: 2,
        others: vec![("[CALL]g[ARGS]".to_owned(), number)],
    };
    check(&AnswerForm::Calls(form), |text| {
        let calls = text.strip_prefix("[CALL]").map(|rest| rest.split("[CALL]"));
        calls.is_some_and(|mut calls| {
            calls.all(|call| match call.split_once("[ARGS]") {
                Some(("f", text)) => ["true", "false"].contains(&text),
                Some(("g", text)) => text.len() == 1 && text.bytes().all(|b| b.is_ascii_digit()),
                _ => false,
            })
        })
    });
}

#[test]
fn a_control_token_spells_its_name_where_it_is_voiced() {
    let allows = |tokenizer: &Tokenizer| {
        let compiler = GrammarCompiler::new(tokenizer, tokenizer.vocab_size()).unwrap();
        let form = AnswerForm::Lark("start: \"<|im_start|>[\"".into());
        let mut state = compiler.compile(&form).unwrap().start();
        state.update().unwrap();
        state.mask().allows(placeholder::IM_START)
    };
    let mut tokenizer = Tokenizer::placeholder();
    assert!(!allows(&tokenizer));
    tokenizer.voice(&["<|im_start|>"]);
    assert!(allows(&tokenizer));
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

/// Forms that decide much of the text, or little.
fn forms() -> Vec<AnswerForm> {
    let person = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "kind": { "enum": ["water", "weather", "house"] },
            "tags": { "type": "array", "items": { "type": "boolean" }, "maxItems": 3 },
        },
        "required": ["name", "kind", "tags"],
        "additionalProperties": false,
    });
    vec![
        schema(person),
        AnswerForm::JsonObject,
        AnswerForm::Regex("( hello world,){3} thank you".into()),
        AnswerForm::Choice([" hello there", " hello world", "hell"].map(str::to_owned).into()),
        AnswerForm::Lark("start: (\"a\" E \"d\" | \"b\" E \"r\")~3 \".\"\nE: \"e\"".into()),
    ]
}

/// Draws along `form`, following guesses with a probability of `trust` in 100, and compares what looks ahead with what
/// does not. How many guesses there were, and how many were drawn.
fn walk(compiler: &GrammarCompiler, form: &AnswerForm, seed: u64, trust: u64) -> (usize, usize) {
    let (mut ahead, mut plain) = {
        let grammar = compiler.compile(form).unwrap();
        (grammar.start(), grammar.start())
    };
    let (mut dice, mut n_guessed, mut n_right) = (seed, 0, 0);
    for _ in 0..100 {
        ahead.look_ahead(true);
        assert!(ahead.is_ahead(true));
        ahead.update().unwrap();
        plain.update().unwrap();
        assert_eq!(ahead.mask(), plain.mask());
        let guess = ahead.guesses().next();
        assert!(guess.is_none_or(|guess| plain.mask().allows(guess)), "a guess is not allowed");
        assert!(ahead.n_certain() <= ahead.guesses().count() && plain.guesses().count() == 0);
        let allowed: Vec<TokenId> = plain.mask().tokens().collect();
        let drawn = allowed[(next(&mut dice) % allowed.len() as u64) as usize];
        let token = guess.filter(|_| next(&mut dice) % 100 < trust).unwrap_or(drawn);
        n_guessed += usize::from(guess.is_some());
        n_right += usize::from(guess == Some(token));
        if Tokenizer::placeholder().is_eog(token) {
            break;
        }
        let is_complete = plain.accept(token).unwrap();
        assert_eq!(ahead.accept(token).unwrap(), is_complete);
        if is_complete {
            break;
        }
    }
    (n_guessed, n_right)
}

#[test]
fn masks_are_the_same_with_and_without_looking_ahead() {
    let compiler = compiler();
    for form in forms() {
        let counts: Vec<_> = (0..9)
            .map(|seed| walk(&compiler, &form, seed, [0, 50, 100][seed as usize % 3]))
            .collect();
        let (n_guessed, n_right) =
            counts.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert!(n_right <= n_guessed && n_guessed > 0, "{form:?}");
    }
}

#[test]
fn a_decided_text_is_guessed_as_the_tokenizer_spells_it() {
    let tokenizer = Tokenizer::placeholder();
    let text = " hello world";
    let mut state = compiler().compile(&AnswerForm::Regex(text.into())).unwrap().start();
    state.look_ahead(false);
    assert!(state.is_ahead(false) && !state.is_ahead(true) && state.guesses().count() == 0);
    state.look_ahead(true);
    let spelled = tokenizer.encode(text, Default::default()).unwrap();
    assert_eq!(state.guesses().collect::<Vec<_>>(), spelled);
    // Several tokens begin it.
    assert_eq!(state.n_certain(), 0);
    let mut state = compiler().compile(&AnswerForm::Regex("xyz".into())).unwrap().start();
    state.look_ahead(true);
    // No word begins so: each byte is the only token.
    assert_eq!((state.guesses().count(), state.n_certain()), (3, 3));
    // The first is spelled otherwise: what was guessed is forgotten.
    let mut state = compiler().compile(&AnswerForm::Regex(text.into())).unwrap().start();
    state.look_ahead(true);
    let space = state.mask().tokens().find(|&token| tokenizer.token_bytes(token) == b" ").unwrap();
    assert!(!state.accept(space).unwrap());
    assert_eq!(state.guesses().count(), 0);
    state.look_ahead(true);
    assert!(state.mask().tokens().all(|token| tokenizer.token_bytes(token).starts_with(b"h")));
}

#[test]
fn after_four_wrong_guesses_in_a_row_there_are_none_any_more() {
    let tokenizer = Tokenizer::placeholder();
    let mut state = compiler().compile(&AnswerForm::Regex(r"\.{30}".into())).unwrap().start();
    let mut n_guessed = 0;
    for _ in 0..20 {
        state.look_ahead(true);
        n_guessed += usize::from(state.guesses().next().is_some());
        // Three dots are a token of their own.
        let is_dot = |token: &TokenId| tokenizer.token_bytes(*token) == b".";
        let token = state.mask().tokens().find(is_dot).unwrap();
        state.accept(token).unwrap();
    }
    assert_eq!(n_guessed, 4);
}

#[test]
fn where_every_third_guess_is_wrong_there_are_soon_none_any_more() {
    let tokenizer = Tokenizer::placeholder();
    let mut state = compiler().compile(&AnswerForm::Regex(r"\.{200}".into())).unwrap().start();
    let mut n_wrong = 0;
    for i in 1..=60 {
        state.look_ahead(true);
        let is_dot = |token: &TokenId| tokenizer.token_bytes(*token) == b".";
        let dot = state.mask().tokens().find(is_dot).unwrap();
        let guess = state.guesses().next();
        let token = guess.filter(|_| i % 3 > 0).unwrap_or(dot);
        n_wrong += usize::from(guess.is_some_and(|guess| guess != token));
        state.accept(token).unwrap();
    }
    assert_eq!(n_wrong, 4);
}

#[test]
fn a_long_decided_text_takes_no_more_than_there_is_for_a_token() {
    // Each byte of what they have in common takes something for each of them.
    let common = " hello world".repeat(5);
    let texts = (0..1500).map(|i| format!("{common}{i:04} and thank you")).collect();
    let (compiler, form) = (compiler(), AnswerForm::Choice(texts));
    let (n_guessed, n_right) = walk(&compiler, &form, 1, 100);
    assert!(n_right > 0 && n_right == n_guessed, "{n_right} of {n_guessed}");
    // As an answer that turned back takes them, for which nobody asked what may come.
    let mut state = compiler.compile(&form).unwrap().start();
    for token in Tokenizer::placeholder().encode(&common, Default::default()).unwrap() {
        assert!(!state.accept(token).unwrap());
    }
}

#[test]
fn what_was_taken_back_decides_nothing() {
    let (compiler, tokenizer) = (compiler(), Tokenizer::placeholder());
    let cases = forms().into_iter().flat_map(|form| (0..4).map(move |seed| (form.clone(), seed)));
    for (form, seed) in cases {
        let grammar = compiler.compile(&form).unwrap();
        let (mut state, mut dice, mut taken) = (grammar.start(), seed, Vec::<TokenId>::new());
        for _ in 0..25 {
            state.look_ahead(true);
            let mut fresh = grammar.start();
            for &token in &taken {
                fresh.accept(token).unwrap();
            }
            fresh.update().unwrap();
            assert_eq!(state.mask(), fresh.mask(), "{form:?} after {taken:?}");
            let allowed: Vec<TokenId> =
                fresh.mask().tokens().filter(|&token| !tokenizer.is_eog(token)).collect();
            let mut is_over = allowed.is_empty();
            if !is_over {
                let token = allowed[(next(&mut dice) % allowed.len() as u64) as usize];
                is_over = state.accept(token).unwrap();
                taken.push(token);
            }
            if is_over || next(&mut dice).is_multiple_of(3) {
                let n_back = (1 + next(&mut dice) as usize % 3).min(taken.len());
                state.rollback(n_back).unwrap();
                taken.truncate(taken.len() - n_back);
            }
        }
    }
}
