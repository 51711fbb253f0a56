//! The response cache on the wire: what is told again, to whom, until when, and what is recorded of it.

use std::time::Duration;

use lastmile::Prices;
use lm_keys::{KeyLimits, Scope};
use lm_ops::StoreOptions;
use serde_json::{Value, json};

use super::client::{Reply, exchange_with};
use super::{CHAT, Server, TEXT, add_key, folder_with_key, hello, wait_until};
use crate::{ServeError, ServerConfig, bind};

const GREEDY: &str = r#""temperature":0,"max_tokens":12"#;

fn serve(placeholder: &str) -> Server {
    Server::start_with(placeholder, |config, _| config.response_cache.max_bytes = 1 << 20)
}

impl Server {
    /// What the cache had to do with an answer, and the answer.
    #[track_caller]
    fn cached(&self, path: &str, lines: &str, body: &str) -> (String, Reply) {
        let reply = exchange_with(self.address, "POST", path, lines, body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        (reply.header("x-lastmile-cache").unwrap_or("nothing").to_owned(), reply)
    }

    #[track_caller]
    fn check_cached(&self, lines: &str, body: &str, expect: &str) -> Value {
        let (word, reply) = self.cached(CHAT, lines, body);
        assert_eq!(word, expect, "{lines:?} {body}");
        reply.json()
    }

    fn counter(&self, name: &str) -> u64 {
        let page = self.get("/metrics");
        let line = page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

fn id_of(answer: &Value) -> String {
    answer["id"].as_str().unwrap().trim_start_matches("chatcmpl-").to_owned()
}

/// Each API with a greedy body that asks for an echo of the text, and where its answer's text is.
fn all_apis(text: &str, stream: bool) -> [(&'static str, Value, &'static str); 6] {
    let messages = json!([{ "role": "user", "content": text }]);
    let (model, options) = ("placeholder", json!({ "temperature": 0 }));
    [
        (
            CHAT,
            json!({ "messages": messages, "temperature": 0, "stream": stream }),
            "/choices/0/message/content",
        ),
        (
            TEXT,
            json!({ "prompt": text, "temperature": 0, "max_tokens": 100, "stream": stream }),
            "/choices/0/text",
        ),
        (
            "/v1/responses",
            json!({ "model": model, "input": messages, "temperature": 0, "stream": stream }),
            "/output/0/content/0/text",
        ),
        (
            "/v1/messages",
            json!({ "model": model, "max_tokens": 100, "messages": messages, "temperature": 0, "stream": stream }),
            "/content/0/text",
        ),
        (
            "/api/chat",
            json!({ "model": model, "messages": messages, "options": options, "stream": stream }),
            "/message/content",
        ),
        (
            "/api/generate",
            json!({ "model": model, "prompt": text, "options": options, "stream": stream }),
            "/response",
        ),
    ]
}

#[test]
fn every_api_tells_an_answer_again_whole_and_as_a_stream() {
    let server = serve("mode=echo");
    for i in 0..6 {
        let text = format!("alpha beta {i}{i}");
        let (path, body, place) = all_apis(&text, false)[i].clone();
        let (_, streamed, _) = all_apis(&text, true)[i].clone();
        let (word, first) = server.cached(path, "", &body.to_string());
        assert_eq!(word, "miss", "{path}");
        let expect = first.json().pointer(place).cloned();
        assert_eq!(expect, Some(json!(text)), "{path}: {}", first.body);
        let (word, again) = server.cached(path, "", &body.to_string());
        assert_eq!(
            (word.as_str(), again.json().pointer(place).cloned()),
            ("hit", expect),
            "{path}"
        );
        let (word, stream) = server.cached(path, "", &streamed.to_string());
        assert_eq!(word, "hit", "{path}");
        assert!(stream.body.contains(&text), "{path}: {}", stream.body);
    }
    assert_eq!(server.counter("lastmile_response_cache_hits_total"), 12);
    assert_eq!(server.counter("lastmile_response_cache_misses_total"), 6);
    assert!(server.counter("lastmile_response_cache_bytes") > 0);
}

#[test]
fn a_stream_that_is_told_again_says_what_the_first_said() {
    let server = serve("mode=random");
    let body = hello(&format!(r#"{GREEDY},"stream":true,"logprobs":true,"top_logprobs":2"#));
    let parts = |reply: &Reply| {
        let (mut text, mut logprobs) = (String::new(), Vec::new());
        for chunk in reply.chunks() {
            let choice = &chunk["choices"][0];
            text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            logprobs.extend(choice["logprobs"]["content"].as_array().cloned().unwrap_or_default());
        }
        (text, logprobs)
    };
    let (_, first) = server.cached(CHAT, "", &body);
    let (word, again) = server.cached(CHAT, "", &body);
    assert_eq!(word, "hit");
    assert!(!parts(&first).1.is_empty());
    assert_eq!(parts(&first), parts(&again));
}

#[test]
fn what_is_not_sure_to_come_again_is_computed() {
    let server = serve("mode=random");
    let warm = hello(r#""temperature":1,"max_tokens":12"#);
    server.check_cached("", &warm, "bypass");
    server.check_cached("", &warm, "bypass");
    let sampled = "x-lastmile-cache: sampled\r\n";
    let first = server.check_cached(sampled, &warm, "miss");
    let again = server.check_cached(sampled, &warm, "hit");
    assert_eq!(first["choices"], again["choices"]);
    let seeded = hello(r#""temperature":1,"max_tokens":12,"seed":5"#);
    server.check_cached("", &seeded, "miss");
    server.check_cached("", &seeded, "hit");
    server.check_cached("", &hello(r#""temperature":1,"max_tokens":12,"seed":6"#), "miss");
    server.check_cached("Cache-Control: no-cache\r\n", &seeded, "bypass");
    server.check_cached("Cache-Control: no-store\r\n", &hello(GREEDY), "bypass");
    server.check_cached("", &hello(GREEDY), "miss");
    server.check_cached("", &hello(&format!(r#"{GREEDY},"n":2"#)), "bypass");
    let wrong =
        exchange_with(server.address, "POST", CHAT, "x-lastmile-cache: on\r\n", &hello(GREEDY));
    assert_eq!(
        (wrong.status, wrong.json()["error"]["param"].clone()),
        (400, json!("x-lastmile-cache"))
    );
}

#[test]
fn a_server_without_a_cache_says_nothing_of_it() {
    let server = Server::start("mode=random");
    for _ in 0..2 {
        server.check_cached("", &hello(GREEDY), "nothing");
    }
    assert!(!server.get("/metrics").body.contains("response_cache"));
}

#[test]
fn a_hit_costs_nothing_and_its_row_says_whose_computation_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let prices =
        Prices { currency: "EUR".to_owned(), per_million_output_tokens: 1e6, ..Prices::default() };
    let options = StoreOptions { prices, ..StoreOptions::default() };
    let server = Server::start_by(folder, "mode=random", options, |config, _, _| {
        config.response_cache.max_bytes = 1 << 20;
    });
    let body = hello(&format!(r#"{GREEDY},"timings":true,"ignore_eos":true"#));
    let first = server.check_cached("", &body, "miss");
    let again = server.check_cached("", &body, "hit");
    assert_eq!(first["timings"]["cost"]["amount"], json!(12.0));
    assert_eq!(again["timings"]["cost"]["amount"], json!(0.0));
    assert_eq!(again["timings"]["cpu_seconds"], json!(0.0));
    assert_eq!(again["usage"]["completion_tokens"], 12);
    assert_eq!(again["usage"]["prompt_tokens"], first["usage"]["prompt_tokens"]);
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0), 0);
    let timeline = format!("/v1/requests/{}/timeline", id_of(&again));
    wait_until("the hit is stored", || server.get(&timeline).status == 200);
    let told = server.get(&timeline).json();
    assert_eq!(told["answers"][0]["computed_by"], json!(id_of(&first)));
    let replay = server.post(&format!("/ops/v1/requests/{}/replay", id_of(&again)), "");
    assert_eq!(replay.json()["verdict"], "identical", "{}", replay.body);
    let cost = server.get("/ops/v1/cost?by=day&since=1d").json();
    assert_eq!(cost["total"]["cost"]["EUR"], json!(12.0), "{cost}");
    assert_eq!(
        cost["total"]["completion_tokens"],
        json!(12),
        "a key's budgets are filled from these"
    );
    assert_eq!(cost["total"]["requests"], json!(2));
}

#[test]
fn one_keys_answers_are_not_told_to_another() {
    let (folder, one) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let two = add_key(&folder, "two", &[Scope::Infer], KeyLimits::default());
    let server = Server::start_in(folder, "mode=random", |config, _, _| {
        config.response_cache.max_bytes = 1 << 20;
    });
    let line = |key: &str| format!("Authorization: Bearer {key}\r\n");
    for key in [&one, &two] {
        server.check_cached(&line(key), &hello(GREEDY), "miss");
        server.check_cached(&line(key), &hello(GREEDY), "hit");
    }
}

#[test]
fn an_answer_that_somebody_calls_bad_is_not_told_again() {
    let server = serve("mode=random");
    let said = |answer: &Value, fields: Value| {
        let mut body = json!({ "request_id": answer["id"] });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = server.post("/v1/feedback", &body.to_string());
        assert_eq!(reply.status, 201, "{}", reply.body);
    };
    let ask = |expect| server.check_cached("", &hello(GREEDY), expect);
    let first = ask("miss");
    let hit = ask("hit");
    said(&hit, json!({ "rating": true }));
    ask("hit");
    // Of who computed it, and of who was told it.
    said(&first, json!({ "rating": false }));
    ask("miss");
    let hit = ask("hit");
    said(&hit, json!({ "score": 0.1 }));
    ask("miss");
    said(&ask("hit"), json!({ "correction": "better" }));
    ask("miss");
    let evicted = r#"lastmile_response_cache_evictions_total{reason="feedback"}"#;
    assert_eq!(server.counter(evicted), 3);
}

#[test]
fn rules_and_switches_hold_for_what_was_cached_before() {
    let server = serve("mode=echo");
    let text = |body: &Value| body["choices"][0]["message"]["content"].clone();
    server.check_cached("", &hello(GREEDY), "miss");
    let rule = json!({
        "id": "stop", "owner": "ana", "reason": "a test",
        "then": { "action": "ban", "phrases": ["world"], "on_hit": "stop" },
    });
    let added = server.post("/ops/v1/overrides?publish=true", &rule.to_string());
    assert_eq!(added.status, 201, "{}", added.body);
    // What a rule ended is told to nobody else, and counts each time.
    for _ in 0..2 {
        let answer = server.check_cached("", &hello(GREEDY), "miss");
        assert_eq!(text(&answer), json!("hello "));
    }
    let evicted = r#"lastmile_response_cache_evictions_total{reason="override"}"#;
    wait_until("what was cached before the rule is gone", || server.counter(evicted) == 1);
    let killed = server
        .post("/ops/v1/overrides/kill", &json!({ "route": CHAT, "reason": "a test" }).to_string());
    assert_eq!(killed.status, 200, "{}", killed.body);
    assert_eq!(server.post(CHAT, &hello(GREEDY)).status, 503);
}

#[test]
fn clients_that_come_together_wait_for_one_computation() {
    let server = serve("mode=random,delay_us=5000");
    let body = hello(r#""temperature":0,"max_tokens":60,"ignore_eos":true"#);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let ask = || scope.spawn(|| server.ask(CHAT, &body));
        let asked: Vec<_> = (0..8).map(|_| ask()).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer["choices"] == answers[0]["choices"]));
    assert_eq!(server.runtime.stats().generation_tokens, 60);
    let n_told = server.counter("lastmile_response_cache_shared_total")
        + server.counter("lastmile_response_cache_hits_total");
    assert_eq!(n_told, 7);
}

#[test]
fn an_age_is_an_end() {
    let server = Server::start_with("mode=random", |config, _| {
        config.response_cache.max_bytes = 1 << 20;
        config.response_cache.max_age = Duration::ZERO;
    });
    server.check_cached("", &hello(GREEDY), "miss");
    server.check_cached("", &hello(GREEDY), "miss");
}

#[test]
fn a_route_that_answers_nothing_cannot_be_named() {
    let mut config =
        ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    config.response_cache.sampled_routes = vec!["/v1/chat".to_owned()];
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = tokio.block_on(async { bind(&config, &lm_keys::KeyRing::default()) });
    let named = matches!(
        refused,
        Err(ServeError::InvalidOption { option: "--response-cache-sampled", .. })
    );
    assert!(named, "{refused:?}");
}
