//! Everything that is refused: the status, the code, the field and what the sentence says.

use super::{chat, chat_with, completion, with_options};
use crate::{ApiError, parse_chat, parse_feedback};

#[track_caller]
fn check<T: std::fmt::Debug>(
    found: Result<T, ApiError>,
    code: &str,
    param: &str,
    part_of_message: &str,
) {
    let error = found.unwrap_err();
    let body = error.body();
    assert_eq!((error.status(), body.code, body.param.as_deref()), (400, code, Some(param)));
    assert_eq!(body.kind, "invalid_request_error");
    assert!(body.message.contains(part_of_message), "{:?}", body.message);
    assert!(body.message.len() < 400, "too long: {:?}", body.message);
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    check(chat(""), "invalid_json", "body", "line 1 column 0");
    check(chat("{"), "invalid_json", "body", "line 1 column 1");
    check(chat("[]"), "invalid_json", "body", "expected a JSON object");
    check(chat("null"), "invalid_json", "body", "expected a JSON object");
    check(chat("{} {}"), "invalid_json", "body", "trailing characters");
    check(chat_with(r#""temperature":NaN"#), "invalid_json", "temperature", "column");
    check(chat_with(r#""temperature":1e999"#), "invalid_json", "temperature", "out of range");
    check(chat_with(r#""stop":"\ud800""#), "invalid_json", "stop", "column");
    check(chat_with(r#""n":1,"n":2"#), "invalid_json", "n", "given twice");
    let twice = r#"{"messages":[{"role":"user","content":"a","role":"system"}]}"#;
    check(chat(twice), "invalid_json", "messages", "field 'role' is given twice at line 1 column");
    let part = r#"{"type":"text","text":"a","text":"b"}"#;
    let twice = format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#);
    check(chat(&twice), "invalid_json", "messages", "field 'text' is given twice");
    let bytes = b"{\"messages\":\"\xff\"}";
    let found = with_options(false, |options| parse_chat(bytes, options));
    check(found, "invalid_json", "messages", "unicode");
}

#[test]
fn depth_and_size_cannot_hurt() {
    let deep = "[".repeat(100_000);
    check(chat(&format!(r#"{{"messages":{deep}"#)), "invalid_json", "messages", "recursion limit");
    let long = "x".repeat(500_000);
    check(chat_with(&format!(r#""temperature":"{long}""#)), "invalid_value", "temperature", "…");
    check(chat_with(&format!(r#""{long}":1e999"#)), "invalid_json", &param(&long), "range");
    let many: Vec<String> = (0..50_000).map(|i| format!(r#""f{i}":1"#)).collect();
    let warnings = chat_with(&many.join(",")).unwrap().warnings;
    assert_eq!(warnings.len(), 17);
    assert_eq!(warnings[16], "and 49984 more warnings like these");
}

fn param(long: &str) -> String {
    format!("{}…", &long[..80])
}

#[test]
fn messages_are_checked() {
    let one = |message: &str| chat(&format!(r#"{{"messages":[{message}]}}"#));
    check(chat("{}"), "missing_field", "messages", "at least 1 message");
    check(chat(r#"{"messages":null}"#), "missing_field", "messages", "missing");
    check(chat(r#"{"messages":[]}"#), "invalid_value", "messages", "messages is []");
    check(chat(r#"{"messages":"hi"}"#), "invalid_value", "messages", "\"hi\"");
    check(one("1"), "invalid_value", "messages[0]", "an object");
    check(one(r#"{"content":"x"}"#), "missing_field", "messages[0].role", "developer");
    check(one(r#"{"role":"robot","content":""}"#), "invalid_value", "messages[0].role", "robot");
    check(one(r#"{"role":"user"}"#), "missing_field", "messages[0].content", "string");
    check(one(r#"{"role":"user","content":7}"#), "invalid_value", "messages[0].content", "7");
    check(
        one(r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}"#),
        "unsupported_field",
        "messages[0].content[0].type",
        "image_url",
    );
    check(
        one(r#"{"role":"assistant","tool_calls":[{"id":"1"}]}"#),
        "invalid_value",
        "messages[0].tool_calls[0]",
        "function",
    );
    let call = |arguments: &str| {
        let call = format!(r#"{{"id":"1","function":{{"name":"f","arguments":{arguments}}}}}"#);
        one(&format!(r#"{{"role":"assistant","tool_calls":[{call}]}}"#))
    };
    assert!(call(r#""{\"x\": 1}""#).is_ok());
    let param = "messages[0].tool_calls[0].function.arguments";
    check(call(r#""{""#), "invalid_value", param, "JSON object");
    check(call("[1]"), "invalid_value", param, "JSON object");
}

#[test]
fn wrong_types_and_ranges_are_refused_by_name_value_and_limit() {
    let invalid = |fields: &str, param: &str, part: &str| {
        check(chat_with(fields), "invalid_value", param, part);
    };
    invalid(r#""temperature":2.5"#, "temperature", "temperature is 2.5, but must be between 0");
    invalid(r#""temperature":"hot""#, "temperature", "\"hot\", but must be a number");
    invalid(r#""temperature":1e300"#, "temperature", "between 0 and 2");
    invalid(r#""top_p":0"#, "top_p", "above 0 and at most 1");
    invalid(r#""top_k":-2"#, "top_k", "from -1 to");
    invalid(r#""min_p":[]"#, "min_p", "a number");
    invalid(r#""max_tokens":0"#, "max_tokens", "from 1 to 4294967295");
    invalid(r#""max_tokens":-1"#, "max_tokens", "-1");
    invalid(r#""max_tokens":1.5"#, "max_tokens", "integer");
    invalid(r#""max_tokens":99999999999999999999"#, "max_tokens", "integer");
    invalid(r#""max_tokens":5,"max_completion_tokens":6"#, "max_tokens", "max_completion_tokens");
    invalid(r#""n":0"#, "n", "from 1 to 64");
    invalid(r#""n":65"#, "n", "from 1 to 64");
    invalid(r#""n":true"#, "n", "true");
    invalid(r#""seed":1.5"#, "seed", "64-bit integer");
    invalid(r#""stop":7"#, "stop", "at most 16 strings");
    invalid(r#""stop":[1]"#, "stop", "strings");
    let seventeen = vec![r#""a""#; 17].join(",");
    invalid(&format!(r#""stop":[{seventeen}]"#), "stop", "16");
    invalid(r#""stop_token_ids":["a"]"#, "stop_token_ids", "token ids");
    invalid(r#""logprobs":3"#, "logprobs", "true or false");
    invalid(r#""logprobs":true,"top_logprobs":21"#, "top_logprobs", "from 0 to 20");
    invalid(r#""top_logprobs":2"#, "top_logprobs", "logprobs must be true");
    invalid(r#""confidence":"yes""#, "confidence", "\"yes\", but must be true or false");
    invalid(r#""confidence":0.9"#, "confidence", "true or false");
    invalid(r#""stream":"yes""#, "stream", "true or false");
    invalid(r#""stream_options":{"include_usage":true}"#, "stream_options", "stream must be true");
    invalid(r#""stream":true,"stream_options":3"#, "stream_options", "an object");
    invalid(r#""model":7"#, "model", "a string");
    invalid(r#""ignore_eos":1"#, "ignore_eos", "true or false");
}

#[test]
fn known_fields_that_would_change_the_answer_are_never_ignored() {
    for (fields, param) in [
        (r#""functions":[{}]"#, "functions"),
        (r#""response_format":{"type":"yaml"}"#, "response_format.type"),
        (r#""tools":[{"type":"web_search"}]"#, "tools[0].type"),
        (r#""suffix":"x""#, "suffix"),
        (r#""best_of":2"#, "best_of"),
        (r#""echo":true"#, "echo"),
        (r#""audio":{}"#, "audio"),
        (r#""modalities":["text","audio"]"#, "modalities"),
        (r#""prediction":{}"#, "prediction"),
        (r#""web_search_options":{}"#, "web_search_options"),
        (r#""reasoning_effort":"high""#, "reasoning_effort"),
    ] {
        check(chat_with(fields), "unsupported_field", param, "does not support");
    }
    let found = completion(r#"{"prompt":"a","best_of":2}"#);
    check(found, "unsupported_field", "best_of", "does not support");
    let found = completion(r#"{"prompt":"a","tools":[{}]}"#);
    check(found, "unsupported_field", "tools", "does not support");
}

#[test]
fn forms_and_tools_are_checked() {
    let invalid = |fields: &str, param: &str, part: &str| {
        check(chat_with(fields), "invalid_value", param, part);
    };
    let missing = |fields: &str, param: &str| {
        check(chat_with(fields), "missing_field", param, "missing");
    };
    missing(r#""tool_choice":"required""#, "tools");
    missing(r#""tools":[{}]"#, "tools[0].type");
    missing(r#""tools":[{"type":"function"}]"#, "tools[0].function");
    missing(r#""response_format":{"type":"json_schema"}"#, "response_format.json_schema");
    missing(r#""structured_outputs":{}"#, "structured_outputs");
    invalid(r#""guided_choice":[]"#, "guided_choice", "at least 1 string");
    invalid(r#""guided_json":3"#, "guided_json", "JSON schema");
    invalid(r#""guided_regex":"a","guided_json":{}"#, "guided_regex", "one form");
    invalid(r#""logit_bias":{"x":1}"#, "logit_bias", "token ids");
    invalid(r#""logit_bias":{"1":101}"#, "logit_bias", "between -100 and 100");
    invalid(r#""allowed_token_ids":[]"#, "allowed_token_ids", "at least 1");
    invalid(r#""typical_p":0"#, "typical_p", "above 0");
    invalid(r#""bad_words":[""]"#, "bad_words", "none empty");
    let known = "dry, penalties, top_n_sigma, temperature, top_k, typ_p, top_p, min_p";
    invalid(r#""samplers":"top_k""#, "samplers", known);
    invalid(r#""samplers":["top_k","mirostat"]"#, "samplers[1]", known);
    invalid(r#""samplers":["top_k",1]"#, "samplers[1]", known);
    invalid(r#""logits_processors":[{}]"#, "logits_processors", "at most 128 strings");
    invalid(r#""samplers":["typ_p","typical_p"]"#, "samplers[1]", "each at most once");
    invalid(r#""continue_final_message":true"#, "continue_final_message", "assistant");
    let tools = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
    invalid(&format!(r#"{tools},"tool_choice":"maybe""#), "tool_choice", "required");
    let both = r#""tool_choice":"required","response_format":{"type":"json_object"}"#;
    invalid(&format!("{tools},{both}"), "tool_choice", "one form");
}

#[test]
fn strict_mode_refuses_what_else_is_a_warning() {
    let strict = |body: &str| with_options(true, |options| parse_chat(body.as_bytes(), options));
    let message = r#"{"role":"user","content":"hi","mood":"good"}"#;
    let body = format!(r#"{{"messages":[{message}]}}"#);
    check(strict(&body), "unknown_field", "messages[0].mood", "strict");
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"fruit":1,"vegetable":null}"#;
    check(strict(body), "unknown_field", "fruit", "'fruit'");
}

#[test]
fn prompts_are_checked() {
    let prompt = |value: &str| completion(&format!(r#"{{"prompt":{value}}}"#));
    check(completion("{}"), "missing_field", "prompt", "missing");
    for bad in ["7", "{}", "[]", "true", r#"["a",1]"#, "[1,-1]", "[1,1.5]", r#"[[1],["a"]]"#] {
        check(prompt(bad), "invalid_value", "prompt", "array of token ids");
    }
    let many = format!("[{}]", vec![r#""a""#; 65].join(","));
    check(prompt(&many), "invalid_value", "prompt", "1 to 64 strings");
    let found = completion(r#"{"prompt":"a","logprobs":true}"#);
    check(found, "invalid_value", "logprobs", "from 0 to 20");
    let suffix = |fields: &str| completion(&format!(r#"{{"suffix":"z",{fields}}}"#));
    check(
        suffix(r#""prompt":[1]"#),
        "invalid_value",
        "suffix",
        "\"z\", but prompt is given as token",
    );
    let echo = suffix(r#""prompt":"a","echo":true,"logprobs":0"#);
    check(echo, "invalid_value", "suffix", "echo is true with logprobs");
    let found = completion(r#"{"prompt":"a","suffix":7}"#);
    check(found, "invalid_value", "suffix", "a string");
}

#[test]
fn feedback_is_checked() {
    let id = r#""request_id":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b""#;
    let with = |fields: &str| parse_feedback(format!("{{{id},{fields}}}").as_bytes(), false);
    check(parse_feedback(b"{}", false), "missing_field", "request_id", "x-request-id");
    let short = parse_feedback(br#"{"request_id":"abc"}"#, false);
    check(short, "invalid_value", "request_id", "abc");
    check(with(r#""rating":0.5"#), "invalid_value", "rating", "score");
    check(with(r#""rating":"great""#), "invalid_value", "rating", "\"up\"");
    check(with(r#""score":1.5"#), "invalid_value", "score", "between 0 and 1");
    check(with(r#""score":1,"rating":true"#), "invalid_value", "score", "one of them");
    check(with(r#""choice":-1"#), "invalid_value", "choice", "from 0");
    check(with(r#""comment":5"#), "invalid_value", "comment", "a string");
}
