//! What a model thought, in bodies that come and in answers that go.

use std::time::{Duration, UNIX_EPOCH};

use lastmile::{AnswerPart, FinishReason, Prompt, Thinking, Timings, Usage};
use serde_json::{Value, json};

use super::{chat, with_options};
use crate::{
    ApiError, Dialect, DialectHead, Ending, Frame, ParseOptions, Parsed, parse_chat,
    parse_messages, parse_ollama_chat, parse_responses,
};

fn parse(api: &str, body: &Value) -> Result<(Parsed, Box<dyn Dialect>), ApiError> {
    let body = body.to_string();
    with_options(true, |options| match api {
        "messages" => parse_messages(body.as_bytes(), false, options),
        "responses" => parse_responses(body.as_bytes(), options),
        _ => parse_ollama_chat(body.as_bytes(), options),
    })
}

/// A conversation whose second message was thought about, in the words of each API.
fn conversations() -> Vec<Parsed> {
    let user = |text: &str| json!({ "role": "user", "content": text });
    let of_chat = |name: &str| {
        let answer = json!({ "role": "assistant", "content": "4", name: "hm" });
        chat(&json!({ "messages": [user("2+2?"), answer, user("sure?")] }).to_string()).unwrap()
    };
    let blocks = json!([
        { "type": "thinking", "thinking": "hm", "signature": "x" },
        { "type": "redacted_thinking", "data": "x" },
        { "type": "text", "text": "4" },
    ]);
    let answer = json!({ "role": "assistant", "content": blocks });
    let messages = json!({ "max_tokens": 9, "messages": [user("2+2?"), answer, user("sure?")] });
    let items = json!([
        user("2+2?"),
        { "type": "reasoning", "id": "rs_1", "summary": [],
          "content": [{ "type": "reasoning_text", "text": "hm" }] },
        { "role": "assistant", "content": "4" },
        user("sure?"),
    ]);
    let answer = json!({ "role": "assistant", "content": "4", "thinking": "hm" });
    let ollama = json!({ "messages": [user("2+2?"), answer, user("sure?")] });
    vec![
        of_chat("reasoning_content"),
        of_chat("reasoning"),
        parse("messages", &messages).unwrap().0,
        parse("responses", &json!({ "input": items })).unwrap().0,
        parse("ollama", &ollama).unwrap().0,
    ]
}

#[test]
fn earlier_reasoning_is_handed_to_the_template() {
    for parsed in conversations() {
        let Prompt::Chat(messages) = &parsed.prompts[0] else { panic!("it is a chat") };
        let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        assert_eq!(contents, ["2+2?", "4", "sure?"]);
        let fields = vec![(1, r#"{"reasoning_content":"hm"}"#.to_owned())];
        assert_eq!(parsed.dialog.message_fields, fields);
    }
    let numbers = json!({ "max_tokens": 9, "messages": [
        { "role": "assistant", "content": [{ "type": "thinking", "thinking": 1 }] }] });
    let error = parse("messages", &numbers).err().unwrap().body();
    assert_eq!(error.param.as_deref(), Some("messages[0].content[0].thinking"));
}

fn told(api: &str) -> (Vec<Frame>, Value) {
    let hi = json!([{ "role": "user", "content": "hi" }]);
    let body = match api {
        "messages" => json!({ "messages": hi, "max_tokens": 9 }),
        "responses" => json!({ "input": "hi" }),
        _ => json!({ "messages": hi }),
    };
    let (_, mut dialect) = parse(api, &body).unwrap();
    let (id, model) = ("1".to_owned(), "m".to_owned());
    let head = DialectHead {
        id,
        model,
        created: UNIX_EPOCH,
        load: Duration::ZERO,
        prompt_tokens: 7,
        warnings: Vec::new(),
    };
    let mut frames = dialect.begin(&head);
    for part in [
        AnswerPart::Reasoning("h".to_owned()),
        AnswerPart::Reasoning("m".to_owned()),
        AnswerPart::CallBegins { index: 0, name: "f".to_owned() },
        AnswerPart::Arguments { index: 0, json: "{}".to_owned() },
    ] {
        frames.extend(dialect.part(&head, &part, "call00001"));
    }
    let usage = Usage { prompt_tokens: 7, completion_tokens: 5, ..Usage::default() };
    let (reason, timings) = (FinishReason::Stop, Timings::default());
    let ending = Ending { reason, stop_string: None, usage, timings };
    let whole = serde_json::from_str(&dialect.whole(&head, &ending)).unwrap();
    frames.extend(dialect.end(&head, &ending));
    (frames, whole)
}

fn names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().filter_map(|frame| frame.event).collect()
}

#[test]
fn reasoning_comes_before_a_call() {
    let (frames, whole) = told("messages");
    let kinds: Vec<&Value> =
        whole["content"].as_array().unwrap().iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "tool_use"]);
    let (start, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
    let expect = ["message_start", start, delta, delta, delta, stop, start, delta, stop];
    assert_eq!(names(&frames)[..9], expect);
    assert!(frames[4].data.contains("signature_delta"), "{frames:?}");

    let (frames, whole) = told("responses");
    let kinds: Vec<&Value> =
        whole["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "function_call"]);
    let expect = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
    ];
    assert_eq!(names(&frames)[..10], expect);

    let (_, whole) = told("ollama");
    assert_eq!(whole["message"]["thinking"], "hm");
    assert_eq!(whole["message"]["content"], "");
}

const SWITCHED: Thinking = Thinking { switch: Some("enable_thinking"), reads_effort: false };

/// What a body asks for of a model that thinks: the template's switches, and the budget.
fn asked(
    api: &str,
    fields: Value,
    thinking: Option<Thinking>,
) -> Result<(Option<String>, Option<u32>), crate::ErrorBody> {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let mut body = match api {
        "responses" => json!({ "input": "hi" }),
        "messages" => json!({ "messages": messages, "max_tokens": 9 }),
        _ => json!({ "messages": messages }),
    };
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let body = body.to_string();
    let parsed = with_options(true, |options| {
        let options = &ParseOptions { thinking, ..*options };
        match api {
            "chat" => parse_chat(body.as_bytes(), options),
            "messages" => parse_messages(body.as_bytes(), false, options).map(|(parsed, _)| parsed),
            "responses" => parse_responses(body.as_bytes(), options).map(|(parsed, _)| parsed),
            _ => parse_ollama_chat(body.as_bytes(), options).map(|(parsed, _)| parsed),
        }
    });
    let parsed = parsed.map_err(|error| error.body())?;
    Ok((parsed.dialog.template_kwargs, parsed.stop.max_reasoning_tokens))
}

#[test]
fn each_api_asks_in_its_own_words() {
    let check = |api, fields, on: Option<bool>, budget: Option<u32>| {
        let switches = on.map(|on| format!("{{\"enable_thinking\":{on}}}"));
        assert_eq!(asked(api, fields, Some(SWITCHED)), Ok((switches, budget)), "{api}");
    };
    check("chat", json!({}), None, None);
    check("chat", json!({ "reasoning_effort": "none" }), Some(false), Some(0));
    check("chat", json!({ "reasoning_effort": "low" }), Some(true), Some(1024));
    check("chat", json!({ "reasoning_effort": "high" }), Some(true), None);
    check("chat", json!({ "max_reasoning_tokens": 7 }), None, Some(7));
    let both = json!({ "reasoning_effort": "low", "max_reasoning_tokens": 7 });
    check("chat", both, Some(true), Some(7));
    let switch = json!({ "chat_template_kwargs": { "enable_thinking": true } });
    check("chat", switch, Some(true), None);
    check("messages", json!({}), Some(false), Some(0));
    check("messages", json!({ "thinking": { "type": "disabled" } }), Some(false), Some(0));
    let budget = json!({ "thinking": { "type": "enabled", "budget_tokens": 2048 } });
    check("messages", budget, Some(true), Some(2048));
    check("responses", json!({ "reasoning": { "effort": "minimal" } }), Some(true), Some(512));
    check("responses", json!({ "reasoning": { "effort": null } }), None, None);
    check("ollama", json!({ "think": true }), Some(true), None);
    check("ollama", json!({ "think": "medium" }), Some(true), Some(8192));
    check("ollama", json!({ "think": false }), Some(false), Some(0));
}

#[test]
fn templates_without_a_switch_are_told_what_they_know() {
    let knows_none = Some(Thinking { switch: None, reads_effort: false });
    let none = json!({ "reasoning_effort": "none" });
    assert_eq!(asked("chat", none, knows_none), Ok((None, Some(0))));
    assert_eq!(asked("messages", json!({}), knows_none), Ok((None, None)));
    let efforts = Some(Thinking { switch: None, reads_effort: true });
    let low = json!({ "reasoning_effort": "low" });
    let told = r#"{"reasoning_effort":"low"}"#.to_owned();
    // Without a switch a budget, however large, says that it is to think.
    assert_eq!(asked("chat", low, efforts), Ok((Some(told), Some(u32::MAX))));
}

#[test]
fn what_cannot_be_asked_is_refused_by_name() {
    let check = |api, fields, thinking, code: &str, param: &str| {
        let error = asked(api, fields, thinking).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), (code, Some(param)), "{}", error.message);
    };
    let unsupported = "unsupported_field";
    let enabled = json!({ "thinking": { "type": "enabled", "budget_tokens": 9 } });
    check("messages", enabled, None, unsupported, "thinking");
    check("ollama", json!({ "think": true }), None, unsupported, "think");
    let effort = json!({ "reasoning": { "effort": "low" } });
    check("responses", effort, None, unsupported, "reasoning.effort");
    check("chat", json!({ "max_reasoning_tokens": 5 }), None, unsupported, "max_reasoning_tokens");
    let (chat, known, invalid) = ("chat", Some(SWITCHED), "invalid_value");
    let summary = json!({ "reasoning": { "summary": "auto" } });
    check("responses", summary, known, unsupported, "reasoning.summary");
    check(chat, json!({ "reasoning_effort": "huge" }), known, invalid, "reasoning_effort");
    check("ollama", json!({ "think": "huge" }), known, invalid, "think");
    check("messages", json!({ "thinking": {} }), known, invalid, "thinking.type");
    let both = json!({ "reasoning_effort": "none", "max_reasoning_tokens": 7 });
    check(chat, both, known, invalid, "max_reasoning_tokens");
    let switches = json!({ "enable_thinking": false });
    let both = json!({ "reasoning_effort": "low", "chat_template_kwargs": switches });
    check(chat, both, known, invalid, "reasoning_effort");
    for neutral in [json!({ "reasoning_effort": "none" }), json!({ "max_reasoning_tokens": 0 })] {
        assert_eq!(asked(chat, neutral, None), Ok((None, None)));
    }
}
