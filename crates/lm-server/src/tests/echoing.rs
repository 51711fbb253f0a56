//! What is told of a prompt: `echo` and `prompt_logprobs`.

use serde_json::{Value, json};

use super::{CHAT, Server, TEXT, hello};

fn numbers(value: &Value) -> Vec<Option<f64>> {
    value.as_array().unwrap().iter().map(Value::as_f64).collect()
}

/// What lm-evaluation-harness asks of a completion, and reads of it.
#[test]
fn a_prompt_is_echoed_with_its_log_probabilities() {
    let server = Server::start("mode=random");
    let ask = |fields: &str| {
        let body = format!(
            r#"{{"prompt":"hello wörld again","temperature":0,"echo":true,"seed":1234,{fields}}}"#
        );
        server.ask(TEXT, &body)
    };
    let body = ask(r#""max_tokens":1,"logprobs":1"#);
    let n_prompt = body["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    let choice = &body["choices"][0];
    let logprobs = &choice["logprobs"];
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with("hello wörld again"), "{text}");
    let drawn = numbers(&logprobs["token_logprobs"]);
    assert_eq!(drawn.len(), n_prompt + 1);
    assert!(drawn[0].is_none() && drawn[1..].iter().all(|one| one.is_some_and(|p| p <= 0.0)));
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    for (i, own) in drawn.iter().enumerate().skip(1) {
        let top = logprobs["top_logprobs"][i].as_object().unwrap();
        let best = top.values().next().unwrap().as_f64().unwrap();
        assert!(top.len() == 1 && own.unwrap() <= best);
    }
    // The token that was drawn greedily is the most likely one.
    let last = logprobs["top_logprobs"][n_prompt].as_object().unwrap();
    assert_eq!(last.values().next().unwrap().as_f64(), drawn[n_prompt]);
    let offsets = numbers(&logprobs["text_offset"]);
    assert_eq!(offsets.len(), n_prompt + 1);
    assert_eq!(offsets[n_prompt], Some("hello wörld again".chars().count() as f64));
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), n_prompt + 1);

    let alone = ask(r#""max_tokens":0,"logprobs":1"#);
    let choice = &alone["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!("hello wörld again"), &json!("length"))
    );
    assert_eq!(alone["usage"]["completion_tokens"], 0);
    assert_eq!(numbers(&choice["logprobs"]["token_logprobs"]), drawn[..n_prompt]);

    // Every answer begins with the prompt; without log-probabilities there are none of it either.
    let three = ask(r#""max_tokens":2,"n":3,"logprobs":0"#);
    for choice in three["choices"].as_array().unwrap() {
        assert!(choice["text"].as_str().unwrap().starts_with("hello wörld again"));
        let own = numbers(&choice["logprobs"]["token_logprobs"]);
        assert_eq!(own[..n_prompt], drawn[..n_prompt]);
        assert_eq!(choice["logprobs"]["top_logprobs"][1], json!({}));
    }
    let plain = ask(r#""max_tokens":0"#);
    assert_eq!(plain["choices"][0]["text"], "hello wörld again");
    assert_eq!(plain["choices"][0]["logprobs"], Value::Null);
}

#[test]
fn prompts_of_tokens_are_echoed_each_with_its_own() {
    let server = Server::start("mode=random");
    let body = r#"{"prompt":[[300,301,302],[400,401]],"max_tokens":0,"echo":true,"logprobs":2}"#;
    let body = server.ask(TEXT, body);
    for (choice, n) in body["choices"].as_array().unwrap().iter().zip([3, 2]) {
        assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), n);
        let tokens: String = choice["logprobs"]["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token.as_str().unwrap())
            .collect();
        assert_eq!(choice["text"], tokens);
    }
}

#[test]
fn prompt_logprobs_are_told_as_vllm_does() {
    let server = Server::start("mode=random");
    let chat = server.ask(CHAT, &hello(r#""max_tokens":2,"prompt_logprobs":2"#));
    let list = chat["prompt_logprobs"].as_array().unwrap();
    assert_eq!(list.len() as u64, chat["usage"]["prompt_tokens"].as_u64().unwrap());
    assert_eq!(list[0], Value::Null);
    for entry in &list[1..] {
        let entry = entry.as_object().unwrap();
        assert!((2..=3).contains(&entry.len()), "{entry:?}");
        assert!(entry.values().any(|one| one["rank"] == 1));
        assert!(entry.values().all(|one| one["decoded_token"].is_string()));
    }
    let text = r#"{"prompt":"hello again","max_tokens":0,"prompt_logprobs":0}"#;
    let text = server.ask(TEXT, text);
    assert_eq!(text["choices"][0]["text"], "");
    let list = text["choices"][0]["prompt_logprobs"].as_array().unwrap();
    assert!(list[1..].iter().all(|entry| entry.as_object().unwrap().len() == 1));
    assert_eq!(text.get("prompt_logprobs"), None);
    assert_eq!(server.ask(CHAT, &hello(r#""max_tokens":2"#)).get("prompt_logprobs"), None);
}

#[test]
fn what_cannot_be_told_is_refused() {
    let server = Server::start("mode=echo");
    let refused = |path: &str, body: &str, param: &str| {
        let reply = server.post(path, body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{body}");
    };
    refused(CHAT, &hello(r#""max_tokens":0"#), "max_tokens");
    refused(TEXT, r#"{"prompt":"a","max_tokens":0}"#, "max_tokens");
    refused(TEXT, r#"{"prompt":"a","prompt_logprobs":21}"#, "prompt_logprobs");
    refused(TEXT, r#"{"prompt":"a","prompt_logprobs":1,"stream":true}"#, "prompt_logprobs");
    let body = r#"{"prompt":"a","echo":true,"logprobs":1,"stream":true,"n":2}"#;
    refused(TEXT, body, "n");
    refused(CHAT, &hello(r#""echo":true"#), "echo");
}

#[test]
fn the_document_says_where_nothing_need_be_generated() {
    let server = Server::start("mode=echo");
    let document = server.get("/openapi.json").json();
    let least = |schema: &str, field: &str| {
        document["components"]["schemas"][schema]["properties"][field]["minimum"].clone()
    };
    for schema in ["ChatRequest", "CompletionRequest"] {
        for field in ["max_tokens", "max_completion_tokens"] {
            assert_eq!(least(schema, field), 0, "{schema} {field}");
        }
    }
    assert_eq!(least("MessagesRequest", "max_tokens"), 1);
    let nothing = |path: &str, body: &str| {
        let body = server.ask(path, body);
        assert_eq!(body["usage"]["completion_tokens"], 0, "{body}");
    };
    nothing(TEXT, r#"{"prompt":"a","echo":true,"max_tokens":0}"#);
    nothing(TEXT, r#"{"prompt":"a","prompt_logprobs":0,"max_completion_tokens":0}"#);
    nothing(CHAT, &hello(r#""prompt_logprobs":1,"max_tokens":0"#));
    let body = r#"{"prompt":"a","echo":true,"max_tokens":0,"stream":true}"#;
    let chunks = server.post(TEXT, body).chunks();
    assert_eq!(chunks[0]["choices"][0]["text"], "a");
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_stream_begins_with_the_echo() {
    let server = Server::start("mode=random");
    let body = r#"{"prompt":"one two","seed":3,"max_tokens":6,"echo":true,"logprobs":1"#;
    let whole = server.ask(TEXT, &format!("{body}}}"));
    let chunks = server.post(TEXT, &format!(r#"{body},"stream":true}}"#)).chunks();
    let choices = || chunks.iter().map(|chunk| &chunk["choices"][0]);
    assert_eq!(choices().next().unwrap()["text"], "one two");
    let text: String = choices().filter_map(|choice| choice["text"].as_str()).collect();
    assert_eq!(whole["choices"][0]["text"], text);
    for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let all = choices().filter_map(|choice| choice["logprobs"][column].as_array());
        let all: Vec<Value> = all.flatten().cloned().collect();
        assert_eq!(whole["choices"][0]["logprobs"][column], json!(all), "{column}");
    }
}
