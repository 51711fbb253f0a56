//! Everything that is refused, as a client sees it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lm_keys::KeyRing;

use super::client::{open, read_reply, read_until};
use super::{CHAT, Reply, Server, TEXT, hello, wait_until};
use crate::{ServeError, ServerConfig, bind};

#[track_caller]
fn check(reply: &Reply, status: u16, code: &str, param: Option<&str>) {
    assert_eq!(reply.status, status, "{}", reply.body);
    let error = &reply.json()["error"];
    assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some(code), param));
    assert!(!error["message"].as_str().unwrap().is_empty() && error["type"].is_string());
    assert!(reply.header("x-request-id").is_some());
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

#[test]
fn bad_bodies() {
    let server = Server::start("mode=echo,max_model_len=64");
    let chat = |fields: &str| server.post(CHAT, &hello(fields));
    check(&server.post(CHAT, ""), 400, "invalid_json", Some("body"));
    check(&server.post(CHAT, "{\"messages\""), 400, "invalid_json", Some("messages"));
    check(&server.post(CHAT, "{}"), 400, "missing_field", Some("messages"));
    check(&server.post(CHAT, r#"{"messages":[]}"#), 400, "invalid_value", Some("messages"));
    check(&chat(r#""temperature":NaN"#), 400, "invalid_json", Some("temperature"));
    check(&chat(r#""temperature":1e999"#), 400, "invalid_json", Some("temperature"));
    check(&chat(r#""temperature":3"#), 400, "invalid_value", Some("temperature"));
    check(&chat(r#""user":"\ud800""#), 400, "invalid_json", Some("user"));
    check(&chat(r#""stop":"""#), 400, "invalid_value", Some("stop"));
    check(&chat(r#""tools":[{}]"#), 400, "missing_field", Some("tools[0].type"));
    check(&chat(r#""max_tokens":64"#), 400, "context_length_exceeded", Some("max_tokens"));
    check(&chat(r#""model":"gpt-9""#), 404, "model_not_found", Some("model"));
    let long = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(100));
    check(&server.post(TEXT, &long), 400, "context_length_exceeded", Some("prompt"));
    check(&server.post(TEXT, r#"{"prompt":[9999]}"#), 400, "invalid_value", Some("prompt"));
    let gap = r#"{"prompt":"a","suffix":"b"}"#;
    check(&server.post(TEXT, gap), 400, "invalid_value", Some("suffix"));
    assert_eq!(server.post("/api/generate", gap).status, 400);
    let named = chat(r#""logits_processors":["x"]"#);
    check(&named, 400, "invalid_value", Some("logits_processors"));
    let deep = "[".repeat(100_000);
    check(&server.post(CHAT, &deep), 400, "invalid_json", Some("body"));
    // The server is as well as before.
    assert_eq!(chat("").status, 200);
}

#[test]
fn a_body_that_forbids_every_token_is_the_clients_fault() {
    let server = Server::start("mode=echo");
    let body = r#"{"prompt":"x","guided_choice":["yes"],"allowed_token_ids":[5]}"#;
    check(&server.post(TEXT, body), 422, "no_token_allowed", Some("guided_choice"));
    let body = r#"{"prompt":"x","min_tokens":2,"allowed_token_ids":[0]}"#;
    check(&server.post(TEXT, body), 422, "no_token_allowed", Some("allowed_token_ids"));
    let body = r#"{"prompt":"x","format":"json","options":{"bad_words":["{"]},"stream":false}"#;
    let reply = server.post("/api/generate", body);
    assert_eq!((reply.status, reply.json()["code"].as_str()), (422, Some("no_token_allowed")));
    // The bytes of "ye", after which nothing is left.
    let body =
        r#"{"prompt":"x","guided_choice":["yes"],"allowed_token_ids":[357,377],"stream":true}"#;
    let last = server.post(TEXT, body).chunks().pop().unwrap();
    assert_eq!(last["error"]["code"], "no_token_allowed");
    let message = last["error"]["message"].as_str().unwrap();
    assert!(message.contains("guided_choice, allowed_token_ids together forbid all"), "{message}");
}

#[test]
fn one_bad_prompt_of_several_refuses_all() {
    let server = Server::start("mode=echo,delay_us=20000");
    let reply = server.post(TEXT, r#"{"prompt":[[353],[9999]],"max_tokens":1000}"#);
    check(&reply, 400, "invalid_value", Some("prompt"));
    server.wait_for_running(0, 0);
}

#[test]
fn unknown_routes_and_methods() {
    let server = Server::start("mode=echo");
    check(&server.get("/v2/nothing"), 404, "route_not_found", None);
    check(&server.get(CHAT), 405, "method_not_allowed", None);
    check(&server.post("/health", ""), 405, "method_not_allowed", None);
    check(&server.get("/v1/models/gpt-9"), 404, "model_not_found", Some("model"));
    check(&server.get("/v1/models/%ff"), 404, "model_not_found", Some("model"));
}

#[test]
fn strict_mode_refuses_unknown_fields() {
    let server = Server::start_with("mode=echo", |config, _| config.strict = true);
    check(&server.post(CHAT, &hello(r#""fruit":1"#)), 400, "unknown_field", Some("fruit"));
}

#[test]
fn a_body_over_the_limit_is_read_on_and_answered() {
    let server = Server::start_with("mode=echo", |config, _| config.max_body_bytes = 1000);
    let body = "x".repeat(8 << 20);
    check(&server.post(CHAT, &body), 413, "body_too_large", None);
    let stream = open(server.address, "POST", CHAT, usize::MAX >> 1);
    let mut writer = stream.try_clone().unwrap();
    // Somebody who never stops to write is cut off; how is up to the system.
    let writing = std::thread::spawn(move || {
        let chunk = vec![b'x'; 1 << 20];
        (0..200).any(|_| writer.write_all(&chunk).is_err())
    });
    assert!(writing.join().unwrap(), "the server read 200 MB");
}

/// Sends a head that promises a body, and nothing of it: the whole answer, up to the end of the connection.
#[track_caller]
fn answer_to_head(server: &Server, path: &str, n_body: u64, lines: &str) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n_body}\r\n{lines}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_head_that_promises_too_much_is_answered_at_once_and_the_connection_ends() {
    let server = Server::start_with("mode=echo", |config, _| {
        config.max_body_bytes = 1000;
        // Nobody waits for so long.
        config.body_timeout = Duration::from_hours(24);
    });
    // Who expects to be told to go on is not.
    let expect = "Expect: 100-continue\r\n";
    for (path, lines) in [
        (CHAT, ""),
        (CHAT, expect),
        ("/v1/messages", expect),
        ("/v1/feedback", expect),
        ("/ops/v1/overrides", expect),
        ("/ops/v1/experiments", expect),
    ] {
        let answer = answer_to_head(&server, path, 1001, lines);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{path}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{path}: {answer}");
        assert!(answer.contains("1000 bytes"), "{path}: {answer}");
    }
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\
         Expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Server::start_with("mode=echo", |config, _| {
        config.body_timeout = Duration::from_millis(100);
    });
    let mut stream = open(server.address, "POST", CHAT, 1000);
    stream.write_all(b"{").unwrap();
    check(&read_reply(stream), 408, "body_timeout", None);
}

#[test]
fn a_full_queue_and_too_many_open_requests_say_when_to_retry() {
    let server = Server::start_with("mode=random,delay_us=5000", |config, model| {
        config.max_open_requests = 3;
        model.engine.max_num_seqs = 1;
        model.engine.max_queued_requests = 1;
    });
    let body = hello(r#""stream":true,"ignore_eos":true"#);
    let start = || {
        let mut stream = open(server.address, "POST", CHAT, body.len());
        stream.write_all(body.as_bytes()).unwrap();
        stream
    };
    let first = start();
    server.wait_for_running(1, 0);
    let second = start();
    server.wait_for_running(1, 1);
    let refused = server.post(CHAT, &body);
    check(&refused, 429, "queue_full", None);
    let number = |name| refused.header(name).and_then(|text| text.parse::<u64>().ok()).unwrap();
    // As long as the answers before it are believed to take; whole seconds are rounded up.
    let (seconds, millis) = (number("retry-after"), number("retry-after-ms"));
    assert!(millis > 100 && seconds == millis.div_ceil(1000), "{seconds} s, {millis} ms");
    assert_eq!(server.get("/health/ready").status, 200);
    let mut idle = Vec::new();
    wait_until("a request without its body takes the last place", || {
        idle.push(open(server.address, "POST", CHAT, 10));
        server.post(CHAT, "{}").json()["error"]["code"] == "too_many_requests"
    });
    drop((first, second));
    server.wait_for_running(0, 0);
}

#[test]
fn other_addresses_than_loopback_need_to_be_wanted() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let check = |address: &str, insecure, has_key: bool, expect: bool| {
        let address = address.parse().unwrap();
        let config = ServerConfig { address, insecure, ..ServerConfig::default() };
        let keys = KeyRing::default();
        if has_key {
            keys.set_fixed("a-key-of-16-chars", crate::now()).unwrap();
        }
        let found = tokio.block_on(async { bind(&config, &keys) });
        let is_refused = matches!(&found, Err(ServeError::NotLoopback { .. }));
        assert_eq!(is_refused, !expect, "{found:?}");
        if let Err(error) = found {
            let text = error.to_string();
            assert!(text.contains("--insecure") && text.contains("keys create"), "{text}");
        }
    };
    check("127.0.0.1:0", false, false, true);
    check("0.0.0.0:0", false, false, false);
    check("[::]:0", false, false, false);
    check("0.0.0.0:0", true, false, true);
    check("0.0.0.0:0", false, true, true);
}
