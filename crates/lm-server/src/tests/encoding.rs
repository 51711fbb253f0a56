//! Vectors, ranks and labels on the wire, alone and beside a model that writes.

use lastmile::{Configure, Declared, ModelSource, RegistryOptions, RuntimeConfig};
use lm_keys::{KeyLimits, Scope};
use lm_ops::{Ops, Store, StoreOptions};
use serde_json::{Value, json};

use super::*;

const EMBED: &str = "/v1/embeddings";

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn vectors_have_length_1_and_come_as_numbers_or_base64() {
    let server = Server::start("mode=embed");
    let answer = server.ask(EMBED, r#"{"input": ["hello world", "good day"], "user": "u"}"#);
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["data"][1]["index"], 1);
    let first = vector(&answer["data"][0]["embedding"]);
    let length: f64 = first.iter().map(|x| x * x).sum();
    assert!(first.len() == 64 && (length - 1.0).abs() < 1e-5, "{length}");
    assert_eq!(answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"]);
    assert!(answer.get("warnings").is_none());
    let text = r#"{"input": "hello world", "encoding_format": "base64"}"#;
    let text = server.ask(EMBED, text)["data"][0]["embedding"].as_str().unwrap().to_owned();
    // 64 f32 are 256 bytes.
    assert_eq!(text.len(), 344);
    let cut = server.ask(EMBED, r#"{"input": "hello world", "dimensions": 16}"#);
    assert_eq!(vector(&cut["data"][0]["embedding"]).len(), 16);
    assert!(cut["warnings"][0].as_str().unwrap().contains("dimensions is 16"));
    let tokens = server.ask("/tokenize", r#"{"prompt": "hello world"}"#)["tokens"].clone();
    let same = server.ask(EMBED, &json!({ "input": tokens }).to_string());
    let same = vector(&same["data"][0]["embedding"]);
    assert!(same.iter().zip(&first).all(|(a, b)| (a - b).abs() < 1e-6));
    server.end();
}

#[test]
fn what_an_encoder_cannot_do_is_refused_by_name() {
    let server = Server::start_with("mode=embed", |_, model| model.max_model_len = Some(8));
    let refused = |path: &str, body: &str, part: &str| {
        let reply = server.post(path, body);
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(reply.body.contains(part), "{}", reply.body);
    };
    refused(EMBED, r#"{"input": "one two three four five six"}"#, "but the model reads 8");
    refused(
        EMBED,
        r#"{"input": "a", "dimensions": 65}"#,
        "dimensions is 65, but must be at most 64",
    );
    refused(EMBED, r#"{"input": [512]}"#, "token id 512 is outside of the vocabulary of 512");
    refused(CHAT, &hello(""), "an encoder");
    refused("/v1/classify", r#"{"input": "a"}"#, "one that gives labels");
    let cut = server.ask(EMBED, r#"{"input": "one two three four five six", "truncate": true}"#);
    assert!(cut["warnings"][0].as_str().unwrap().contains("it was cut"));
    assert_eq!(cut["usage"]["prompt_tokens"], 8);
    server.end();
}

#[test]
fn ranks_say_what_they_are_and_labels_add_up() {
    let server = Server::start("mode=embed");
    let body = r#"{"query": "the little house", "documents": ["of water", "the little house", {"text": "the house"}],
        "top_n": 2, "return_documents": true}"#;
    let ranked = server.ask("/v1/rerank", body);
    assert_eq!(ranked["scored_by"], "cosine");
    let found: Vec<_> = ranked["results"].as_array().unwrap().iter().map(|r| &r["index"]).collect();
    assert_eq!(found, [1, 2]);
    assert!((ranked["results"][0]["relevance_score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    assert_eq!(ranked["results"][1]["document"]["text"], "the house");
    server.end();
    let server = Server::start("mode=classify");
    let ranked = server.ask("/v2/rerank", body);
    assert_eq!(
        (&ranked["scored_by"], &ranked["results"][0]["index"]),
        (&json!("cross_encoder"), &json!(1))
    );
    let scores =
        server.ask("/v1/score", r#"{"text_1": "the house", "text_2": ["the house", "water"]}"#);
    let score = |i: usize| scores["data"][i]["score"].as_f64().unwrap();
    assert!(score(0) > 0.8 && score(0) > score(1), "{scores}");
    assert_eq!(server.post(EMBED, r#"{"input": "a"}"#).status, 400);
    server.end();
    let server = Server::start("mode=classify,labels=3");
    let found = server.ask("/v1/classify", r#"{"input": ["a", "b"]}"#);
    let probs = vector(&found["data"][0]["probs"]);
    assert!(probs.len() == 3 && (probs.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    assert!(found["labels"].as_array().unwrap().contains(&found["data"][1]["label"]));
    assert_eq!(server.post("/v1/rerank", body).status, 400);
    server.end();
}

#[test]
fn ollamas_routes_have_its_forms() {
    let server = Server::start("mode=embed");
    let many = server.ask("/api/embed", r#"{"model": "placeholder:latest", "input": ["a", "b"]}"#);
    assert_eq!(many["embeddings"].as_array().unwrap().len(), 2);
    assert!(many["prompt_eval_count"].as_u64().unwrap() > 0);
    let one = server.ask("/api/embeddings", r#"{"model": "placeholder", "prompt": "a"}"#);
    assert_eq!(vector(&one["embedding"]).len(), 64);
    let refused = server.post("/api/embed", r#"{"input": "a", "options": 5}"#);
    assert!(refused.status == 400 && refused.body.starts_with(r#"{"error":""#), "{}", refused.body);
    let body = r#"{"input": "a", "keep_alive": "5m", "options": {"num_ctx": 5, "seed": null}}"#;
    let warnings = &server.ask("/api/embed", body)["warnings"];
    assert_eq!(warnings[0], "unknown field 'options.num_ctx' was ignored");
    let kept = "keep_alive is \"5m\", but models stay as --model-idle-timeout says";
    assert_eq!((&warnings[1], warnings.as_array().unwrap().len()), (&json!(kept), 2));
    let shown = server.ask("/api/show", r#"{"model": "placeholder"}"#);
    assert_eq!(shown["capabilities"], json!(["embedding"]));
    server.end();
}

#[test]
fn an_encoder_stands_beside_a_model_that_writes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let ops = Ops::new(store);
    let declared = ["echo", "embed"].map(|mode| {
        let mut model =
            RuntimeConfig::new(ModelSource::placeholder(&format!("mode={mode}")).unwrap());
        model.observer = ops.observer();
        let configure: Configure = Arc::new(move || Ok(model.clone()));
        Declared { name: mode.to_owned(), aliases: Vec::new(), configure }
    });
    let config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..Default::default() };
    let options = RegistryOptions::default();
    let (access, declared) = (Access::default(), declared.into());
    let server = Server::start_models(folder, declared, options, config, access, ops);
    // Loaded when it is asked for; then it is also what is meant where no model is named.
    let first = server.ask(EMBED, r#"{"model": "embed", "input": "a"}"#);
    assert_eq!(server.ask(EMBED, r#"{"input": "a"}"#)["data"], first["data"]);
    assert_eq!(server.ask(CHAT, &hello(""))["choices"][0]["message"]["content"], "hello world");
    assert_eq!(server.post(EMBED, r#"{"model": "echo", "input": "a"}"#).status, 400);
    let metrics = server.get("/metrics").body;
    let line = r#"lastmile_prompt_tokens_total{model_name="embed"} "#;
    assert!(metrics.lines().any(|l| l.strip_prefix(line).is_some_and(|n| n != "0")), "{metrics}");
    // It is remembered as what it was.
    let id = first["id"].as_str().unwrap().trim_start_matches("embd-").to_owned();
    let path = format!("/v1/requests?id={id}");
    wait_until("the request is stored", || server.get(&path).body.contains(&id));
    assert!(server.post("/ops/v1/models/embed/unload", "").status == 200);
    server.end();
}

#[test]
fn keys_pay_for_vectors() {
    let limits = KeyLimits { daily_tokens: Some(20), ..KeyLimits::default() };
    let (folder, key) = folder_with_key(&[Scope::Infer], limits);
    let server = Server::start_in(folder, "mode=embed", |_, _, _| {});
    let body = r#"{"input": "one two three four five six seven eight nine ten eleven"}"#;
    assert_eq!(server.post(EMBED, body).status, 401);
    assert_eq!(server.post_with(&key, EMBED, body).status, 200);
    wait_until("the budget is used", || server.post_with(&key, EMBED, body).status == 429);
    server.end();
}
