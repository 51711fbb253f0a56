//! What other APIs' clients are told that has nothing to do with an answer's text: ends from outside, and refusals.

use std::io::{Read, Write};

use serde_json::{Value, json};

use super::Server;
use super::client::{open, read_until};

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
