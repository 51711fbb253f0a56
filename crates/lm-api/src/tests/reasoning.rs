//! What a model thought, in bodies that come and in answers that go.

use std::time::UNIX_EPOCH;

use lastmile::{AnswerPart, FinishReason, Prompt, Timings, Usage};
use serde_json::{Value, json};

use super::{chat, with_options};
use crate::{
    ApiError, Dialect, DialectHead, Ending, Frame, Parsed, parse_messages, parse_ollama_chat,
    parse_responses,
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
    let head = DialectHead { id, model, created: UNIX_EPOCH, warnings: Vec::new() };
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
    let ending = Ending { reason, by_stop_string: false, usage, timings };
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
