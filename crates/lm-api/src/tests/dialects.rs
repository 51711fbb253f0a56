//! Bodies of other APIs in, what they become, and answers in their words.

use std::time::{Duration, UNIX_EPOCH};

use lastmile::{AnswerForm, AnswerPart, FinishReason, MustCall, Prompt, Role, Timings, Usage};
use serde_json::{Value, json};

use super::with_options;
use crate::{
    Dialect, DialectHead, Ending, Frame, Parsed, parse_messages, parse_ollama_chat,
    parse_ollama_generate, parse_responses,
};

fn parse(api: &str, body: Value) -> Result<(Parsed, Box<dyn Dialect>), crate::ApiError> {
    let body = body.to_string();
    with_options(true, |options| match api {
        "messages" => parse_messages(body.as_bytes(), false, options),
        "responses" => parse_responses(body.as_bytes(), options),
        "chat" => parse_ollama_chat(body.as_bytes(), options),
        _ => parse_ollama_generate(body.as_bytes(), options),
    })
}

fn roles(parsed: &Parsed) -> Vec<(Role, String)> {
    match &parsed.prompts[0] {
        Prompt::Chat(messages) => {
            messages.iter().map(|m| (m.role.clone(), m.content.clone())).collect()
        }
        other => panic!("{other:?} is no chat"),
    }
}

#[test]
fn conversations_with_calls_and_results_are_the_same_in_all_apis() {
    let expect = vec![
        (Role::System, "be brief".to_owned()),
        (Role::User, "time?".to_owned()),
        (Role::Assistant, String::new()),
        (Role::Tool, "12:00".to_owned()),
    ];
    let tool = json!({ "name": "clock", "input_schema": { "type": "object" } });
    let (messages, _) = parse(
        "messages",
        json!({
            "model": "m", "max_tokens": 9, "system": "be brief", "stop_sequences": ["x"],
            "tools": [tool], "tool_choice": { "type": "any" },
            "messages": [
                { "role": "user", "content": [{ "type": "text", "text": "time?" }] },
                { "role": "assistant", "content": [
                    { "type": "tool_use", "id": "a", "name": "clock", "input": { "z": 1 } }] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "a", "content": "12:00" }] },
            ],
        }),
    )
    .unwrap();
    let (responses, _) = parse("responses", json!({
        "model": "m", "max_output_tokens": 9, "instructions": "be brief",
        "tools": [{ "type": "function", "name": "clock", "parameters": { "type": "object" } }],
        "tool_choice": "required",
        "input": [
            { "role": "user", "content": [{ "type": "input_text", "text": "time?" }] },
            { "type": "function_call", "call_id": "a", "name": "clock", "arguments": "{\"z\":1}" },
            { "type": "function_call_output", "call_id": "a", "output": "12:00" },
        ],
    }))
    .unwrap();
    for parsed in [&messages, &responses] {
        assert_eq!(roles(parsed), expect);
        assert_eq!(parsed.stop.max_tokens, Some(9));
        assert_eq!(parsed.tools.as_ref().unwrap().must, Some(MustCall::Any));
        assert_eq!(parsed.dialog.message_fields, messages.dialog.message_fields);
        assert_eq!(parsed.warnings, Vec::<String>::new());
    }
    let (chat, _) = parse(
        "chat",
        json!({
            "model": "m:latest",
            "messages": [
                { "role": "system", "content": "be brief" }, { "role": "user", "content": "time?" },
                { "role": "assistant", "content": "",
                  "tool_calls": [{ "function": { "name": "clock", "arguments": { "z": 1 } } }] },
                { "role": "tool", "content": "12:00", "tool_name": "clock" },
            ],
            "options": { "num_predict": 9, "repeat_penalty": 1.5 }, "format": { "type": "object" },
        }),
    )
    .unwrap();
    assert_eq!(roles(&chat), expect);
    assert_eq!((chat.model.as_deref(), chat.stream), (Some("m"), true));
    assert!((chat.sampling.repetition_penalty - 1.5).abs() < 1e-6);
    let form = chat.constraint.map(|asked| asked.form);
    assert_eq!(form, Some(AnswerForm::JsonSchema(r#"{"type":"object"}"#.to_owned())));
}

#[test]
fn what_other_apis_have_and_this_server_has_not_is_refused_by_name() {
    let check = |api, body, param: &str| {
        let error = parse(api, body).err().unwrap().body();
        assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
    };
    let hi = json!([{ "role": "user", "content": "hi" }]);
    check("messages", json!({ "messages": hi }), "max_tokens");
    let thinking = json!({ "type": "enabled", "budget_tokens": 1024 });
    let body = json!({ "messages": hi, "max_tokens": 9, "thinking": thinking });
    check("messages", body, "thinking");
    let image = json!([{ "role": "user", "content": [{ "type": "image", "source": {} }] }]);
    let body = json!({ "messages": image, "max_tokens": 9 });
    check("messages", body, "messages[0].content[0].type");
    check("messages", json!({ "messages": hi, "max_tokens": 9, "mood": 1 }), "mood");
    check(
        "responses",
        json!({ "input": "hi", "previous_response_id": "x" }),
        "previous_response_id",
    );
    check(
        "responses",
        json!({ "input": "hi", "tools": [{ "type": "web_search" }] }),
        "tools[0].type",
    );
    check("chat", json!({ "messages": hi, "options": { "mirostat": 1 } }), "options.mirostat");
    check("chat", json!({ "messages": hi, "format": "yaml" }), "format");
    check("generate", json!({ "prompt": "hi", "images": ["x"] }), "images");
}

fn told(api: &str, body: Value) -> (Vec<Frame>, Value) {
    ended(api, body, FinishReason::Stop)
}

fn ended(api: &str, body: Value, reason: FinishReason) -> (Vec<Frame>, Value) {
    let (_, mut dialect) = parse(api, body).unwrap();
    let head = DialectHead {
        id: "1".to_owned(),
        model: "m".to_owned(),
        created: UNIX_EPOCH,
        load: Duration::from_millis(2),
        prompt_tokens: 7,
        warnings: Vec::new(),
    };
    let parts = [
        AnswerPart::Text("a".to_owned()),
        AnswerPart::Text("b".to_owned()),
        AnswerPart::CallBegins { index: 0, name: "f".to_owned() },
        AnswerPart::Arguments { index: 0, json: "{\"x\":".to_owned() },
        AnswerPart::Arguments { index: 0, json: "1}".to_owned() },
    ];
    let mut frames = dialect.begin(&head);
    for part in &parts {
        frames.extend(dialect.part(&head, part, "call00001"));
    }
    let ending = Ending {
        reason,
        stop_string: None,
        usage: Usage {
            prompt_tokens: 7,
            completion_tokens: 3,
            cached_tokens: 2,
            ..Usage::default()
        },
        timings: Timings::default(),
    };
    let whole = serde_json::from_str(&dialect.whole(&head, &ending)).unwrap();
    frames.extend(dialect.end(&head, &ending));
    (frames, whole)
}

fn names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.event.unwrap_or("line")).collect()
}

#[test]
fn messages_tell_blocks() {
    let hi = json!([{ "role": "user", "content": "hi" }]);
    let (frames, whole) = told("messages", json!({ "messages": hi, "max_tokens": 9 }));
    let (start, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
    let expect = [
        "message_start",
        start,
        delta,
        delta,
        stop,
        start,
        delta,
        delta,
        stop,
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names(&frames), expect);
    let call = json!({ "type": "tool_use", "id": "call00001", "name": "f", "input": { "x": 1 } });
    assert_eq!(whole["content"], json!([{ "type": "text", "text": "ab" }, call]));
    assert_eq!(whole["stop_reason"], "tool_use");
    assert_eq!(
        (&whole["usage"]["input_tokens"], &whole["usage"]["output_tokens"]),
        (&json!(5), &json!(3))
    );
}

#[test]
fn responses_tell_items() {
    let (frames, whole) = told("responses", json!({ "input": "hi" }));
    let last: Value = serde_json::from_str(&frames.last().unwrap().data).unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["output"], whole["output"]);
    assert_eq!(whole["output"][0]["content"][0]["text"], "ab");
    assert_eq!(whole["output"][1]["arguments"], "{\"x\":1}");
    let numbers: Vec<u64> = frames
        .iter()
        .map(|frame| serde_json::from_str::<Value>(&frame.data).unwrap())
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..frames.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_response_that_is_cut_is_cut_in_its_last_item() {
    for (reason, why) in [
        (FinishReason::Length, "max_output_tokens"),
        (FinishReason::Filtered, "content_filter"),
        (FinishReason::Abort, "abort"),
    ] {
        let (frames, whole) = ended("responses", json!({ "input": "hi" }), reason);
        let last: Value = serde_json::from_str(&frames.last().unwrap().data).unwrap();
        assert_eq!((&last["type"], &last["response"]), (&json!("response.incomplete"), &whole));
        assert_eq!(whole["status"], "incomplete");
        assert_eq!(whole["incomplete_details"], json!({ "reason": why }));
        let statuses: Vec<&Value> =
            whole["output"].as_array().unwrap().iter().map(|item| &item["status"]).collect();
        assert_eq!(statuses, ["completed", "incomplete"]);
    }
}

#[test]
fn responses_repeat_what_was_to_be_called() {
    let choice = |body: Value| told("responses", body).1["tool_choice"].clone();
    assert_eq!(choice(json!({ "input": "hi" })), "auto");
    let tools = json!([{ "type": "function", "name": "f", "parameters": { "type": "object" } }]);
    for asked in [json!("none"), json!("required"), json!({ "type": "function", "name": "f" })] {
        let body = json!({ "input": "hi", "tools": tools, "tool_choice": asked });
        assert_eq!(choice(body), asked);
    }
}

#[test]
fn ollama_tells_lines() {
    let hi = json!([{ "role": "user", "content": "hi" }]);
    let (frames, whole) = told("chat", json!({ "messages": hi }));
    assert_eq!(whole["message"]["content"], "ab");
    let call = json!([{ "function": { "name": "f", "arguments": { "x": 1 } } }]);
    assert_eq!(whole["message"]["tool_calls"], call);
    assert_eq!((&whole["done"], &whole["eval_count"]), (&json!(true), &json!(3)));
    assert_eq!(whole["created_at"], "1970-01-01T00:00:00.000000Z");
    assert!(frames.iter().all(|frame| frame.event.is_none()));
    assert_eq!(
        (&whole["total_duration"], &whole["load_duration"]),
        (&json!(2_000_000), &json!(2_000_000))
    );
    for (reason, told) in [
        (FinishReason::Stop, "stop"),
        (FinishReason::Budget, "length"),
        (FinishReason::Filtered, "content_filter"),
    ] {
        let (_, whole) = ended("chat", json!({ "messages": hi }), reason);
        assert_eq!(whole["done_reason"], told);
    }
}
