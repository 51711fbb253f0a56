//! Fields within messages, blocks, items, tools and calls: none is passed over.

use lastmile::Prompt;
use serde_json::{Value, json};

use super::with_options;
use crate::{ApiError, Parsed, parse_chat, parse_messages, parse_ollama_chat, parse_responses};

fn parse(api: &str, body: &Value, strict: bool) -> Result<Parsed, ApiError> {
    let body = body.to_string();
    with_options(strict, |options| match api {
        "chat" => parse_chat(body.as_bytes(), options),
        "messages" => parse_messages(body.as_bytes(), false, options).map(|(parsed, _)| parsed),
        "responses" => parse_responses(body.as_bytes(), options).map(|(parsed, _)| parsed),
        _ => parse_ollama_chat(body.as_bytes(), options).map(|(parsed, _)| parsed),
    })
}

/// The field is refused in strict mode and warned of otherwise.
#[track_caller]
fn check_unknown(api: &str, body: &Value, param: &str) {
    let error = parse(api, body, true).unwrap_err().body();
    assert_eq!((error.code, error.param.as_deref()), ("unknown_field", Some(param)), "{api}");
    let warnings = parse(api, body, false).unwrap().warnings;
    assert_eq!(warnings, [format!("unknown field '{param}' was ignored")], "{api}");
}

#[test]
fn unknown_fields_are_told_at_every_level() {
    let hi = json!([{ "role": "user", "content": "hi" }]);
    let messages = |messages: Value| json!({ "max_tokens": 9, "messages": messages });
    let odd = json!([{ "role": "user", "content": "x", "bogus": 1 }]);
    check_unknown("messages", &messages(odd), "messages[0].bogus");
    let block = json!({ "type": "text", "text": "x", "bogus": 1 });
    let odd = json!([{ "role": "user", "content": [block] }]);
    check_unknown("messages", &messages(odd), "messages[0].content[0].bogus");
    let part = json!({ "type": "text", "text": "x", "bogus": 1 });
    let result = json!({ "type": "tool_result", "tool_use_id": "a", "content": [part] });
    let odd = json!([{ "role": "user", "content": [result] }]);
    check_unknown("messages", &messages(odd), "messages[0].content[0].content[0].bogus");
    let mut body = messages(hi.clone());
    body["tools"] = json!([{ "name": "f", "input_schema": {}, "bogus": 1 }]);
    check_unknown("messages", &body, "tools[0].bogus");
    let mut body = messages(hi.clone());
    body["metadata"] = json!({ "user_id": "u", "bogus": 1 });
    check_unknown("messages", &body, "metadata.bogus");

    let odd = json!({ "input": [{ "role": "user", "content": "x", "bogus": 1 }] });
    check_unknown("responses", &odd, "input[0].bogus");
    let part = json!({ "type": "input_text", "text": "x", "bogus": 1 });
    let odd = json!({ "input": [{ "role": "user", "content": [part] }] });
    check_unknown("responses", &odd, "input[0].content[0].bogus");
    let output =
        json!({ "type": "function_call_output", "call_id": "a", "output": "", "bogus": 1 });
    check_unknown("responses", &json!({ "input": [output] }), "input[0].bogus");
    let tool = json!({ "type": "function", "name": "f", "bogus": 1 });
    check_unknown("responses", &json!({ "input": "hi", "tools": [tool] }), "tools[0].bogus");
    let choice = json!({ "type": "function", "name": "f", "bogus": 1 });
    let tool = json!({ "type": "function", "name": "f" });
    let odd = json!({ "input": "hi", "tools": [tool], "tool_choice": choice });
    check_unknown("responses", &odd, "tool_choice.bogus");

    let tool = json!({ "type": "function", "function": { "name": "f" } });
    let choice = json!({ "type": "function", "function": { "name": "f", "bogus": 1 } });
    let odd = json!({ "messages": hi, "tools": [tool], "tool_choice": choice });
    check_unknown("chat", &odd, "tool_choice.function.bogus");
    let call = json!({ "function": { "name": "f", "arguments": "{}", "bogus": 1 } });
    let calls = json!([{ "role": "assistant", "tool_calls": [call] }]);
    let param = "messages[0].tool_calls[0].function.bogus";
    check_unknown("chat", &json!({ "messages": calls }), param);
}

#[test]
fn what_clients_are_known_to_send_is_taken() {
    #[track_caller]
    fn check(api: &str, body: &Value) {
        let parsed = parse(api, body, true).unwrap();
        assert_eq!(parsed.warnings, Vec::<String>::new(), "{api}");
    }
    let cached = json!({ "type": "ephemeral" });
    check(
        "messages",
        &json!({
            "max_tokens": 9, "service_tier": "auto", "metadata": { "user_id": null },
            "system": [{ "type": "text", "text": "s", "cache_control": cached }],
            "tools": [{ "type": "custom", "name": "f", "input_schema": {}, "strict": true,
                        "cache_control": cached }],
            "messages": [
                { "role": "user", "content": [{ "type": "text", "text": "q", "cache_control": cached }] },
                { "role": "assistant", "content": [
                    { "type": "text", "text": "t", "citations": null },
                    { "type": "tool_use", "id": "a", "name": "f", "input": {}, "cache_control": cached }] },
                { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "a",
                    "content": "r", "is_error": false, "cache_control": cached }] },
            ],
        }),
    );
    check(
        "responses",
        &json!({
            "service_tier": "auto", "metadata": { "a": "b" },
            "tools": [{ "type": "function", "name": "f", "description": null, "parameters": {},
                        "strict": true }],
            "input": [
                { "type": "message", "role": "user", "content": "q" },
                { "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                  "content": [{ "type": "output_text", "text": "a", "annotations": [],
                                "logprobs": [] }] },
                { "type": "function_call", "id": "fc_1", "status": "completed", "call_id": "a",
                  "name": "f", "arguments": "{}" },
                { "type": "function_call_output", "id": null, "status": "completed", "call_id": "a",
                  "output": [{ "type": "input_text", "text": "r" }] },
            ],
        }),
    );
    let call = json!({ "index": 0, "id": "a", "type": "function",
        "function": { "name": "f", "arguments": "{}" } });
    check("chat", &json!({ "messages": [{ "role": "assistant", "tool_calls": [call] }] }));
}

#[test]
fn a_result_that_failed_says_so_to_the_model() {
    let result = json!({ "type": "tool_result", "tool_use_id": "a", "is_error": true,
        "content": [{ "type": "text", "text": "no such file" }] });
    let messages = json!([{ "role": "user", "content": [result] }]);
    let body = json!({ "max_tokens": 9, "messages": messages });
    let parsed = parse("messages", &body, true).unwrap();
    let Prompt::Chat(messages) = &parsed.prompts[0] else { panic!("no chat") };
    assert_eq!(messages[0].content, "Error: no such file");
}

#[test]
fn ollamas_results_have_the_ids_of_their_calls() {
    let call = |name: &str| json!({ "function": { "index": 0, "name": name, "arguments": {} } });
    let result = |more: Value| {
        let mut result = json!({ "role": "tool", "content": "r" });
        result.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        result
    };
    let messages = json!([
        { "role": "assistant", "tool_calls": [call("f"), call("g")] },
        result(json!({ "tool_name": "g" })),
        result(json!({})),
        { "role": "assistant", "tool_calls": [call("f")] },
        result(json!({ "tool_name": "other" })),
        result(json!({})),
    ]);
    let parsed = parse("ollama", &json!({ "messages": messages }), true).unwrap();
    let ids: Vec<Value> = parsed
        .dialog
        .message_fields
        .iter()
        .map(|(_, fields)| {
            let fields: Value = serde_json::from_str(fields).unwrap();
            match fields.get("tool_calls") {
                Some(calls) => {
                    calls.as_array().unwrap().iter().map(|call| call["id"].clone()).collect()
                }
                None => fields["tool_call_id"].clone(),
            }
        })
        .collect();
    let expect = [
        json!(["call00000", "call00001"]),
        json!("call00001"),
        json!("call00000"),
        json!(["call00002"]),
        json!("call00002"),
    ];
    assert_eq!(ids, expect);
}

#[test]
fn a_tier_that_there_is_not_is_refused_everywhere() {
    let hi = json!([{ "role": "user", "content": "hi" }]);
    let body = json!({ "max_tokens": 9, "messages": hi, "input": "hi", "service_tier": "flex" });
    for api in ["chat", "messages", "responses"] {
        let error = parse(api, &body, false).unwrap_err().body();
        let expect = ("unsupported_field", Some("service_tier"));
        assert_eq!((error.code, error.param.as_deref()), expect, "{api}");
    }
}
