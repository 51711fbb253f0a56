//! Answers that say how sure the model was of them.

use lm_ops::{Calibration, Scored};
use serde_json::{Value, json};

use super::client::Reply;
use super::{CHAT, Server, TEXT, calibrations, hello};

const ASKED: &str = r#""confidence":true,"seed":1,"max_tokens":20,"ignore_eos":true"#;

/// What was learned of a release whose judged answers were all about as likely: three of four were good.
fn teach(server: &Server, release: &str) {
    let one = |i: u32| Scored { score: -0.5, is_good: !i.is_multiple_of(4) };
    let judged: Vec<Scored> = (0..200).map(one).collect();
    let fit = Calibration::fit(release, "placeholder", &judged, 0).unwrap();
    calibrations(&server.folder).write(&fit).unwrap();
}

/// The confidences of a stream's last chunks, by choice; all other chunks have none.
#[track_caller]
fn streamed(reply: &Reply, n: usize) -> Vec<Value> {
    let mut found = vec![Value::Null; n];
    for chunk in reply.chunks() {
        for choice in chunk["choices"].as_array().unwrap() {
            let is_last = !choice["finish_reason"].is_null();
            assert_eq!(choice.get("confidence").is_some(), is_last, "{choice}");
            if is_last {
                found[choice["index"].as_u64().unwrap() as usize] = choice["confidence"].clone();
            }
        }
    }
    found
}

#[track_caller]
fn is_probability(value: &Value) {
    assert!(value.as_f64().is_some_and(|p| (0.0..=1.0).contains(&p)), "{value}");
}

#[test]
fn an_answer_says_how_sure_the_model_was_only_when_asked_and_at_its_end() {
    let server = Server::start("mean_tokens=20");
    let text = format!(r#"{{"prompt":"hello world",{ASKED}}}"#);
    assert!(server.ask(CHAT, &hello(""))["choices"][0].get("confidence").is_none());
    let unasked = server.ask(CHAT, &hello(r#""confidence":false,"logprobs":true"#));
    assert!(unasked["choices"][0].get("confidence").is_none(), "{unasked}");

    for (path, body) in [(CHAT, hello(ASKED)), (TEXT, text)] {
        let answer = server.ask(path, &body);
        let choice = &answer["choices"][0];
        assert!(choice["logprobs"].is_null(), "nobody asked for them: {choice}");
        let confidence = &choice["confidence"];
        assert_eq!(confidence["calibrated"], false, "{confidence}");
        assert!(confidence.get("probability").is_none(), "nothing is made up: {confidence}");
        is_probability(&confidence["token_probability"]);
        let least = &confidence["least_sure"];
        is_probability(&least["token_probability"]);
        let (first, n) = (least["first_token"].as_u64().unwrap(), least["n_tokens"].as_u64());
        let n_tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
        assert_eq!(n, Some(n_tokens.min(8)));
        assert!(first + n_tokens.min(8) <= n_tokens, "{least} of {n_tokens} tokens");
        // A stream says the same of the same answer.
        let stream = body.replace(r#""confidence""#, r#""stream":true,"confidence""#);
        let reply = server.post(path, &stream);
        assert_eq!(streamed(&reply, 1), std::slice::from_ref(confidence));
        assert!(!reply.body.contains("\"logprob\""), "{}", reply.body);
    }
}

#[test]
fn it_is_of_the_tokens_that_were_drawn() {
    let server = Server::start("mean_tokens=20");
    let both = hello(&format!(r#"{ASKED},"logprobs":true,"temperature":1.5"#));
    let answer = server.ask(CHAT, &both);
    let choice = &answer["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let logprobs: Vec<f64> =
        tokens.iter().map(|token| token["logprob"].as_f64().unwrap()).collect();
    let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
    let told = choice["confidence"]["token_probability"].as_f64().unwrap();
    assert!((told - mean.exp()).abs() < 1e-4, "{told} and {}", mean.exp());
    let least = logprobs.windows(logprobs.len().min(8)).map(|stretch| stretch.iter().sum::<f64>());
    let least = least.fold(f64::INFINITY, f64::min) / logprobs.len().min(8) as f64;
    let told = choice["confidence"]["least_sure"]["token_probability"].as_f64().unwrap();
    assert!((told - least.exp()).abs() < 1e-4, "{told} and {}", least.exp());
}

#[test]
fn each_of_several_answers_has_its_own() {
    let server = Server::start("mean_tokens=20");
    let fields = format!(r#"{ASKED},"n":2,"temperature":1"#);
    let whole = server.ask(CHAT, &hello(&fields));
    let choices = whole["choices"].as_array().unwrap();
    let whole: Vec<Value> = choices.iter().map(|choice| choice["confidence"].clone()).collect();
    assert!(whole.iter().all(Value::is_object), "{whole:?}");
    assert_ne!(whole[0], whole[1], "two answers are not equally likely");
    let usage = r#""stream_options":{"include_usage":true}"#;
    let reply = server.post(CHAT, &hello(&format!(r#"{fields},"stream":true,{usage}"#)));
    assert_eq!(streamed(&reply, 2), whole);
}

#[test]
fn it_is_calibrated_by_what_was_learned_of_its_own_release() {
    let server = Server::start("mode=echo");
    let before = server.ask(CHAT, &hello(ASKED));
    let release = before["system_fingerprint"].as_str().unwrap();
    teach(&server, "0123");
    assert_eq!(server.ask(CHAT, &hello(ASKED))["choices"][0]["confidence"]["calibrated"], false);

    teach(&server, release);
    let confidence = &server.ask(CHAT, &hello(ASKED))["choices"][0]["confidence"];
    assert_eq!(confidence["calibrated"], true);
    let probability = confidence["probability"].as_f64().unwrap();
    assert!((0.7..0.8).contains(&probability), "{confidence}");
    assert_eq!(
        (&confidence["n_alike"], &confidence["n_judged"]),
        (&json!(200), &json!(200)),
        "{confidence}"
    );
    is_probability(&confidence["calibration_error"]);
    let was = &before["choices"][0]["confidence"];
    assert_eq!(confidence["token_probability"], was["token_probability"]);
    let reply = server.post(CHAT, &hello(&format!(r#"{ASKED},"stream":true"#)));
    assert_eq!(streamed(&reply, 1), std::slice::from_ref(confidence));

    // A file that somebody touched is not believed.
    let path = server.folder.path().join(format!("confidence/{release}.json"));
    std::fs::write(path, "{}").unwrap();
    assert_eq!(server.ask(CHAT, &hello(ASKED))["choices"][0]["confidence"], *was);
}

#[test]
fn other_values_and_other_apis_are_refused_by_name() {
    let server = Server::start_with("mode=echo", |config, _| config.strict = true);
    for value in [r#""yes""#, "0.9", "{}"] {
        let reply = server.post(CHAT, &hello(&format!(r#""confidence":{value}"#)));
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["param"]), (400, &json!("confidence")), "{error}");
    }
    let reply = server.post("/v1/responses", r#"{"input":"hello","confidence":true}"#);
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(reply.body.contains("confidence"), "{}", reply.body);
}
