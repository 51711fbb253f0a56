//! Whole answers.

use serde_json::{Value, json};

use super::{CHAT, Server, TEXT, hello};

#[test]
fn a_chat_is_answered_with_its_usage_and_id() {
    let server = Server::start("mode=echo");
    let reply = server.post(CHAT, &hello(r#""model":"placeholder","max_tokens":20"#));
    let body = reply.json();
    assert_eq!((reply.status, &body["object"]), (200, &json!("chat.completion")));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let id = reply.header("x-request-id").unwrap();
    assert_eq!(body["id"], format!("chatcmpl-{id}"));
    let choice = &body["choices"][0];
    assert_eq!(
        choice["message"],
        json!({"role":"assistant","content":"hello world","refusal":null})
    );
    assert_eq!(choice["finish_reason"], "stop");
    let usage = &body["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert!(count("prompt_tokens") > 0 && count("completion_tokens") > 0);
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert!(usage["prompt_tokens_details"]["cached_tokens"].is_u64());
    assert_eq!(body.get("warnings"), None);
}

#[test]
fn limits_stop_strings_and_warnings_show() {
    let server = Server::start("mode=echo");
    let body = server.ask(CHAT, &hello(r#""max_tokens":1,"fruit":3"#));
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 1);
    assert_eq!(body["warnings"], json!(["unknown field 'fruit' was ignored"]));
    let body = server.ask(CHAT, &hello(r#""stop":"o w""#));
    assert_eq!(body["choices"][0]["message"]["content"], "hell");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}

#[test]
fn several_choices_count_the_prompt_once() {
    let server = Server::start("mode=random,mean_tokens=1000");
    let one = server.ask(CHAT, &hello(r#""max_tokens":30,"seed":5"#));
    let two = server.ask(CHAT, &hello(r#""max_tokens":30,"seed":5,"n":2"#));
    let texts = |body: &Value| -> Vec<String> {
        let choices = body["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["message"]["content"].to_string()).collect()
    };
    assert_eq!((texts(&two).len(), &texts(&two)[0]), (2, &texts(&one)[0]));
    assert_ne!(texts(&two)[0], texts(&two)[1]);
    assert_eq!(two["choices"][1]["index"], 1);
    assert_eq!(two["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);
}

#[test]
fn without_a_seed_answers_differ() {
    let server = Server::start("mode=random");
    // Answers of a word or two may be the same by chance.
    let ask =
        || server.ask(CHAT, &hello(r#""max_tokens":30,"ignore_eos":true"#))["choices"].clone();
    assert_ne!(ask(), ask());
}

#[test]
fn log_probabilities_come_for_each_token() {
    let server = Server::start("mode=echo");
    let body = server.ask(CHAT, &hello(r#""logprobs":true,"top_logprobs":2"#));
    let content = body["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len() as u64, body["usage"]["completion_tokens"].as_u64().unwrap());
    let first = &content[0];
    assert_eq!(first["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!((&first["token"], &first["bytes"]), (&json!("h"), &json!([104])));
    assert!(first["logprob"].as_f64().unwrap() <= 0.0);
    let body = server.ask(TEXT, r#"{"prompt":"ab","logprobs":1,"temperature":0}"#);
    let logprobs = &body["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"][0], "a");
    assert_eq!(logprobs["text_offset"][1], 1);
}

#[test]
fn completions_answer_each_prompt_n_times() {
    let server = Server::start("mode=echo");
    let body = server.ask(TEXT, r#"{"prompt":["one","two"],"n":2}"#);
    assert_eq!(body["object"], "text_completion");
    let choices = body["choices"].as_array().unwrap();
    let texts: Vec<_> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["one", "one", "two", "two"]);
    let ids: Vec<_> = choices.iter().map(|choice| choice["request_id"].as_str().unwrap()).collect();
    assert_eq!(body["id"], format!("cmpl-{}", ids[0]));
    assert_eq!((ids[0], ids[2]), (ids[1], ids[3]));
    assert_ne!(ids[0], ids[2]);
    let body = server.ask(TEXT, r#"{"prompt":[353,354],"max_tokens":3}"#);
    assert_eq!(body["usage"]["prompt_tokens"], 2);
    assert_eq!(body["choices"][0].get("request_id"), None);
}

#[test]
fn sixty_four_clients_at_once_get_their_own_answers() {
    let server = Server::start("mode=echo,delay_us=500");
    std::thread::scope(|scope| {
        for i in 0..64 {
            let server = &server;
            scope.spawn(move || {
                let stream = i % 2 == 0;
                let text = format!("client {i}");
                let body = format!(
                    r#"{{"messages":[{{"role":"user","content":"{text}"}}],"stream":{stream}}}"#
                );
                let reply = server.post(CHAT, &body);
                let content = if stream {
                    let chunks = reply.chunks();
                    let parts = chunks.iter().map(|c| &c["choices"][0]["delta"]["content"]);
                    parts.filter_map(Value::as_str).collect::<String>()
                } else {
                    let body = reply.json();
                    body["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
                };
                assert_eq!(content, text);
            });
        }
    });
    server.wait_for_running(0, 0);
}
