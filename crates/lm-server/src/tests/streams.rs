//! Streamed answers.

use serde_json::{Value, json};

use super::{CHAT, Server, TEXT, hello};

fn content(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let own = choices.filter(|choice| choice["index"] == index);
    own.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}

#[test]
fn a_chat_streams_role_deltas_finish_and_done() {
    let server = Server::start("mode=echo");
    let reply = server.post(CHAT, &hello(r#""stream":true,"fruit":1"#));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let id = format!("chatcmpl-{}", reply.header("x-request-id").unwrap());
    let chunks = reply.chunks();
    for chunk in &chunks {
        assert_eq!((&chunk["id"], &chunk["object"]), (&json!(id), &json!("chat.completion.chunk")));
        assert_eq!(chunk.get("usage"), None);
    }
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role":"assistant","content":""}));
    assert_eq!(content(&chunks, 0), "hello world");
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert_eq!(last["warnings"], json!(["unknown field 'fruit' was ignored"]));
}

#[test]
fn the_usage_comes_last_when_asked_for() {
    let server = Server::start("mode=echo");
    let options = r#""stream":true,"stream_options":{"include_usage":true},"n":3"#;
    let chunks = server.post(CHAT, &hello(options)).chunks();
    let (last, others) = chunks.split_last().unwrap();
    assert!(others.iter().all(|chunk| chunk["usage"] == Value::Null));
    assert_eq!(last["choices"], json!([]));
    let whole = server.ask(CHAT, &hello(r#""n":3"#));
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][name], whole["usage"][name]);
    }
    for index in 0..3 {
        assert_eq!(content(&chunks, index), "hello world");
    }
    let finished = |chunk: &&Value| chunk["choices"][0]["finish_reason"] == "stop";
    assert_eq!(others.iter().filter(finished).count(), 3);
}

#[test]
fn completions_stream_text_and_logprobs() {
    let server = Server::start("mode=echo");
    let body = r#"{"prompt":["one","two"],"stream":true,"logprobs":0}"#;
    let chunks = server.post(TEXT, body).chunks();
    let text = |index: u64| -> String {
        let choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
        choices.filter(|c| c["index"] == index).map(|c| c["text"].as_str().unwrap()).collect()
    };
    assert_eq!((text(0), text(1)), ("one".to_owned(), "two".to_owned()));
    let offsets = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == 1);
    let offsets = offsets.filter_map(|c| c["choices"][0]["logprobs"]["text_offset"].as_array());
    let offsets: Vec<u64> = offsets.flatten().map(|offset| offset.as_u64().unwrap()).collect();
    assert_eq!(offsets[..3], [0, 1, 2]);
}

#[test]
fn text_offsets_point_into_the_text_after_characters_of_several_tokens() {
    let server = Server::start("mode=echo");
    let body = r#"{"prompt":"a😀b","stream":true,"logprobs":0}"#;
    let chunks = server.post(TEXT, body).chunks();
    let whole = server.ask(TEXT, r#"{"prompt":"a😀b","logprobs":0}"#);
    let column = |name: &str| -> Vec<Value> {
        let logprobs = chunks.iter().map(|chunk| &chunk["choices"][0]["logprobs"]);
        logprobs.filter_map(|l| l[name].as_array()).flatten().cloned().collect()
    };
    let (tokens, offsets) = (column("tokens"), column("text_offset"));
    assert_eq!(json!(offsets), whole["choices"][0]["logprobs"]["text_offset"]);
    let b = tokens.iter().position(|token| token == "b").unwrap();
    assert!(b > 2, "the character is one token: {tokens:?}");
    assert_eq!((&offsets[1], &offsets[b]), (&json!(1), &json!(2)));
}

#[test]
fn characters_of_several_tokens_arrive_whole() {
    let server = Server::start("mode=echo,delay_us=300");
    let body = r#"{"messages":[{"role":"user","content":"naïve 😀 漢字"}],"stream":true}"#;
    let chunks = server.post(CHAT, body).chunks();
    assert_eq!(content(&chunks, 0), "naïve 😀 漢字");
}

#[test]
fn a_failure_mid_stream_is_an_error_event_and_the_end() {
    let server = Server::start("mode=echo,fail_at_step=4");
    let reply = server.post(CHAT, &hello(r#""stream":true"#));
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains("event: error\ndata: {\"error\":"), "{}", reply.body);
    let last = reply.chunks().pop().unwrap();
    assert_eq!(last["error"]["code"], "backend_error");
    assert_eq!(server.ask(CHAT, &hello(""))["choices"][0]["finish_reason"], "stop");
}

#[test]
fn a_refused_stream_has_a_status_and_no_events() {
    let server = Server::start("mode=echo");
    let reply = server.post(CHAT, &hello(r#""stream":true,"max_tokens":1000000"#));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
}
