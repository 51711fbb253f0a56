//! What a model thinks, apart from what it says, in the words of each API.

use serde_json::{Value, json};

use super::client::Reply;
use super::{CHAT, Server, hello};

/// `ChatML` of a model that thinks, with a switch; an answer repeats what was said.
const THINKS: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}\
    {{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}";

const ANSWER: &str = "<think>\nhm, so\n</think>\n\nyes <think> no";

fn thinking_server(template: &str) -> Server {
    let template = template.to_owned();
    Server::start_with("mode=echo", |_, model| model.chat_template = Some(template))
}

fn asks(fields: &Value) -> String {
    let messages = json!([{ "role": "user", "content": ANSWER }]);
    let mut body = json!({ "model": "placeholder", "messages": messages });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body.to_string()
}

fn events(reply: &Reply) -> Vec<Value> {
    reply.events().iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn lines(reply: &Reply) -> Vec<Value> {
    reply.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The texts at a path of several documents, joined.
fn joined(all: &[Value], path: &str) -> String {
    all.iter().filter_map(|one| one.pointer(path)?.as_str()).collect()
}

#[test]
fn chats_tell_reasoning_apart() {
    let server = thinking_server(THINKS);
    for more in [json!({}), json!({ "n": 2 }), json!({ "logprobs": true })] {
        let body = server.ask(CHAT, &asks(&more));
        let message = &body["choices"][0]["message"];
        assert_eq!(message["reasoning_content"], "hm, so", "{body}");
        assert_eq!(message["content"], "yes <think> no", "{body}");
    }
    let chunks = server.post(CHAT, &asks(&json!({ "stream": true }))).chunks();
    assert_eq!(joined(&chunks, "/choices/0/delta/reasoning_content"), "hm, so");
    assert_eq!(joined(&chunks, "/choices/0/delta/content"), "yes <think> no");
}

#[test]
fn a_model_that_does_not_think_is_told_as_it_is() {
    let server = Server::start("mode=echo");
    let message = server.ask(CHAT, &asks(&json!({})))["choices"][0]["message"].clone();
    assert_eq!((&message["content"], message.get("reasoning_content")), (&json!(ANSWER), None));
    let thinks = thinking_server(THINKS);
    let message = thinks.ask(CHAT, &hello(""))["choices"][0]["message"].clone();
    assert_eq!(
        (&message["content"], message.get("reasoning_content")),
        (&json!("hello world"), None)
    );
}

#[test]
fn a_prompt_may_have_opened_the_tag() {
    // The placeholder takes what the prompt opened for the beginning of its answer.
    let server = thinking_server(&THINKS.replace("assistant\n", "assistant\n<think>\n"));
    let message = server.ask(CHAT, &asks(&json!({})))["choices"][0]["message"].clone();
    assert_eq!(message["reasoning_content"], "hm, so", "{message}");
    assert_eq!(message["content"], "yes <think> no", "{message}");
}

#[test]
fn messages_tell_a_block_of_thinking() {
    let server = thinking_server(THINKS);
    let body = asks(&json!({ "max_tokens": 400 }));
    let content = server.ask("/v1/messages", &body)["content"].clone();
    assert_eq!(
        (&content[0]["type"], &content[0]["thinking"]),
        (&json!("thinking"), &json!("hm, so"))
    );
    assert!(content[0]["signature"].is_string(), "{content}");
    assert_eq!(content[1], json!({ "type": "text", "text": "yes <think> no" }));
    let body = asks(&json!({ "max_tokens": 400, "stream": true }));
    let events = events(&server.post("/v1/messages", &body));
    assert_eq!(joined(&events, "/delta/thinking"), "hm, so");
    assert_eq!(joined(&events, "/delta/text"), "yes <think> no");
    let kinds: Vec<&str> =
        events.iter().filter_map(|event| event.pointer("/delta/type")?.as_str()).collect();
    let signed = kinds.iter().position(|kind| *kind == "signature_delta").unwrap();
    assert!(kinds[..signed].iter().all(|kind| *kind == "thinking_delta"), "{kinds:?}");
    assert!(kinds[signed + 1..].iter().all(|kind| *kind == "text_delta"), "{kinds:?}");
}

#[test]
fn responses_tell_an_item_of_reasoning() {
    let server = thinking_server(THINKS);
    let whole = server.ask("/v1/responses", &json!({ "input": ANSWER }).to_string());
    assert_eq!(whole["output"][0]["type"], "reasoning");
    let thought = json!([{ "type": "reasoning_text", "text": "hm, so" }]);
    assert_eq!(whole["output"][0]["content"], thought);
    assert_eq!(whole["output"][1]["content"][0]["text"], "yes <think> no");
    let body = json!({ "input": ANSWER, "stream": true }).to_string();
    let events = events(&server.post("/v1/responses", &body));
    let of = |kind: &str| -> Vec<Value> {
        events.iter().filter(|event| event["type"] == kind).cloned().collect()
    };
    assert_eq!(joined(&of("response.reasoning_text.delta"), "/delta"), "hm, so");
    assert_eq!(joined(&of("response.reasoning_text.done"), "/text"), "hm, so");
    assert_eq!(joined(&of("response.output_text.delta"), "/delta"), "yes <think> no");
    assert_eq!(of("response.output_item.done").len(), 2);
}

#[test]
fn ollama_tells_thinking() {
    let server = thinking_server(THINKS);
    let message = server.ask("/api/chat", &asks(&json!({ "stream": false })))["message"].clone();
    assert_eq!(message["thinking"], "hm, so", "{message}");
    assert_eq!(message["content"], "yes <think> no", "{message}");
    let all = lines(&server.post("/api/chat", &asks(&json!({}))));
    assert_eq!(joined(&all, "/message/thinking"), "hm, so");
    assert_eq!(joined(&all, "/message/content"), "yes <think> no");
    let body = json!({ "model": "placeholder", "prompt": ANSWER, "stream": false }).to_string();
    let answer = server.ask("/api/generate", &body);
    assert_eq!(
        (&answer["thinking"], &answer["response"]),
        (&json!("hm, so"), &json!("yes <think> no"))
    );
}
