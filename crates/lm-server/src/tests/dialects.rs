//! What other APIs' clients are told that has nothing to do with an answer's text: ends from outside, and refusals.

use std::io::{Read, Write};

use lm_keys::{KeyLimits, Scope};
use serde_json::{Value, json};

use super::client::{exchange_with, open, read_until};
use super::{Server, folder_with_key};

/// An answer that goes on for minutes.
const ENDLESS: &str = "mode=random,delay_us=10000,mean_tokens=100000";

/// The end of a stream that is aborted in its midst.
fn aborted(server: &Server, path: &str, body: &Value, first: &str) -> String {
    let body = body.to_string();
    let mut stream = open(server.address, "POST", path, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    let begun = read_until(&mut stream, first);
    let id = begun.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    server.ask("/abort", &json!({ "request_id": id }).to_string());
    let mut rest = begun.clone();
    stream.read_to_string(&mut rest).unwrap();
    rest
}

#[test]
fn an_answer_that_was_aborted_is_not_told_as_complete() {
    let server = Server::start(ENDLESS);
    let hi = json!([{ "role": "user", "content": "hi" }]);
    let body = json!({ "messages": hi, "max_tokens": 3000, "stream": true });
    let told = aborted(&server, "/v1/messages", &body, "text_delta");
    assert!(told.contains("event: error\n") && told.contains("\"code\":\"aborted\""), "{told}");
    assert!(!told.contains("message_stop") && !told.contains("end_turn"), "{told}");
    let body = json!({ "input": "hi", "max_output_tokens": 3000, "stream": true });
    let told = aborted(&server, "/v1/responses", &body, "output_text.delta");
    assert!(told.contains("event: response.incomplete\n"), "{told}");
    assert!(told.contains("\"incomplete_details\":{\"reason\":\"abort\"}"), "{told}");
    let body = json!({ "messages": hi, "options": { "num_predict": 3000 } });
    let told = aborted(&server, "/api/chat", &body, "\"done\":false");
    assert!(told.contains("\"code\":\"aborted\""), "{told}");
    assert!(!told.contains("\"done\":true"), "{told}");
}

#[test]
fn messages_say_what_stopped_them_and_how_long_the_prompt_is() {
    let server = Server::start("mode=echo");
    let hello = json!([{ "role": "user", "content": "hello world" }]);
    let body = |stops: Value, stream: bool| {
        let body = json!({ "messages": hello, "max_tokens": 99, "stop_sequences": stops,
            "stream": stream });
        body.to_string()
    };
    for (stops, reason, sequence) in [
        (json!(["zzz", "wor"]), "stop_sequence", json!("wor")),
        (json!(["zzz", "xxx"]), "end_turn", json!(null)),
    ] {
        let whole = server.ask("/v1/messages", &body(stops.clone(), false));
        assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!(reason), &sequence));
        let reply = server.post("/v1/messages", &body(stops, true));
        let events: Vec<Value> =
            reply.events().iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let usage = &whole["usage"];
        let n_prompt = ["input_tokens", "cache_read_input_tokens"].map(|name| usage[name].as_u64());
        let n_prompt: u64 = n_prompt.into_iter().flatten().sum();
        assert_eq!(events[0]["message"]["usage"]["input_tokens"], n_prompt);
        let delta = &events[events.len() - 2]["delta"];
        assert_eq!((&delta["stop_reason"], &delta["stop_sequence"]), (&json!(reason), &sequence));
    }
}

#[test]
fn ollamas_clients_load_a_model_by_asking_nothing() {
    let server = Server::start("mode=echo");
    let chat = server.ask("/api/chat", r#"{"model": "placeholder", "messages": []}"#);
    assert_eq!(chat["message"], json!({ "role": "assistant", "content": "" }));
    let body = r#"{"model": "placeholder:latest", "prompt": "", "keep_alive": "5m"}"#;
    let generate = server.ask("/api/generate", body);
    assert_eq!(generate["response"], "");
    assert!(generate["warnings"][0].as_str().unwrap().starts_with("keep_alive is "));
    for told in [&chat, &generate] {
        let done = (&told["done"], &told["done_reason"], &told["model"]);
        assert_eq!(done, (&json!(true), &json!("load"), &json!("placeholder")));
    }
    assert_eq!(server.post("/api/chat", r#"{"model": "nobody"}"#).status, 404);
    assert_eq!(server.post("/api/chat", r#"{"messages": "x"}"#).status, 400);
    let raw = json!({ "prompt": "x", "raw": true, "system": "y" }).to_string();
    let refused = server.post("/api/generate", &raw);
    assert!(refused.status == 400 && refused.body.contains("raw is true"), "{}", refused.body);
}

#[test]
fn whoever_refuses_speaks_the_words_of_the_paths_api() {
    let (folder, key) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let server = Server::start_in(folder, "mode=echo", |config, _, _| config.max_body_bytes = 50);
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(60));
    let key = format!("x-api-key: {key}\r\n");
    let strange = format!("{key}Origin: http://evil.com\r\n");
    for (method, lines, body, status, code, kind) in [
        ("POST", "", "", 401, "missing_api_key", "authentication_error"),
        ("POST", strange.as_str(), "", 403, "origin_not_allowed", "permission_error"),
        ("GET", key.as_str(), "", 405, "method_not_allowed", "invalid_request_error"),
        ("POST", key.as_str(), large.as_str(), 413, "body_too_large", "request_too_large"),
        ("POST", key.as_str(), "{", 400, "invalid_json", "invalid_request_error"),
    ] {
        let ask = |path: &str| {
            let reply = exchange_with(server.address, method, path, lines, body);
            assert_eq!(reply.status, status, "{path}: {}", reply.body);
            reply.json()
        };
        for path in ["/v1/messages", "/v1/messages/count_tokens"] {
            let told = ask(path);
            assert_eq!((&told["type"], &told["error"]["type"]), (&json!("error"), &json!(kind)));
            assert_eq!(told["error"]["code"], code);
        }
        for path in ["/api/chat", "/api/generate", "/api/embed"] {
            let told = ask(path);
            assert!(told["error"].is_string(), "{path}: {told}");
            assert_eq!(told["code"], code);
        }
        let told = ask("/v1/chat/completions");
        assert_eq!((told.get("type"), &told["error"]["code"]), (None, &json!(code)));
    }
    let nowhere = |path: &str| exchange_with(server.address, "GET", path, &key, "").json();
    assert_eq!(nowhere("/v1/messages/x")["type"], "error");
    assert!(nowhere("/api/x")["error"].is_string());
    assert!(nowhere("/apis")["error"]["code"].is_string());
}
