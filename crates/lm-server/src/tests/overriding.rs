//! Overrides on the wire: phrases that never leave, answers of others, switches, and dry runs that come true.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lastmile::{Configure, Declared, ModelSource, RegistryOptions, RuntimeConfig};
use lm_keys::{KeyLimits, Scope};
use lm_ops::{Ops, Overrides, Store, StoreOptions};
use serde_json::{Value, json};

use super::client::{Reply, exchange_with, open, read_reply, read_until};
use super::{CHAT, Server, TEXT, folder_with_key, hello, wait_until};
use crate::{Access, ServerConfig};

pub(super) const RULES: &str = "/ops/v1/overrides";

impl Server {
    /// Publishes a rule.
    #[track_caller]
    pub(super) fn rule(&self, id: &str, more: Value) {
        let mut rule = json!({ "id": id, "owner": "ana", "reason": "a test" });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = self.post(&format!("{RULES}?publish=true"), &rule.to_string());
        assert_eq!(reply.status, 201, "{}", reply.body);
    }

    pub(super) fn asking(&self, path: &str, header: &str, body: &str) -> Reply {
        let line = format!("x-lastmile-override: {header}\r\n");
        exchange_with(self.address, "POST", path, &line, body)
    }

    pub(super) fn hits(&self, rule: &str) -> u64 {
        let all = self.get(RULES).json();
        let all = all["rules"].as_array().unwrap();
        let found = all.iter().find(|one| one["id"] == rule);
        found.map_or(0, |rule| rule["hits"].as_u64().unwrap())
    }
}

pub(super) fn ban(phrases: &[&str], on_hit: &str) -> Value {
    json!({ "then": { "action": "ban", "phrases": phrases, "on_hit": on_hit } })
}

pub(super) fn text_of(body: &Value) -> &str {
    body["choices"][0]["message"]["content"].as_str().unwrap()
}

/// Each API with a body that asks for an echo of the text.
fn all_apis(text: &str, stream: bool) -> Vec<(&'static str, String)> {
    let messages = json!([{ "role": "user", "content": text }]);
    let model = "placeholder";
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    vec![
        (
            CHAT,
            json!({ "messages": messages, "stream": stream, "logprobs": true, "top_logprobs": 5 }),
        ),
        (CHAT, json!({ "messages": messages, "stream": stream, "n": 2, "temperature": 0 })),
        (CHAT, json!({ "messages": messages, "stream": stream, "tools": tools })),
        (TEXT, json!({ "prompt": text, "stream": stream, "logprobs": 5, "max_tokens": 400 })),
        ("/v1/responses", json!({ "model": model, "input": messages, "stream": stream })),
        (
            "/v1/messages",
            json!({ "model": model, "max_tokens": 400, "messages": messages, "stream": stream }),
        ),
        ("/api/chat", json!({ "model": model, "messages": messages, "stream": stream })),
        ("/api/generate", json!({ "model": model, "prompt": text, "stream": stream })),
    ]
    .into_iter()
    .map(|(path, body)| (path, body.to_string()))
    .collect()
}

#[test]
fn a_banned_phrase_is_never_on_the_wire_of_any_api() {
    let server = Server::start("mode=echo");
    server.rule("stop", ban(&["sécret pLan"], "stop"));
    for stream in [false, true] {
        for (path, body) in all_apis("tell me the sécret pLan zzz", stream) {
            let reply = server.post(path, &body);
            assert_eq!(reply.status, 200, "{path}: {}", reply.body);
            let wire = reply.body.replace("\\u00e9", "é");
            // Letters that the phrase alone has, byte tokens each, and what comes after it.
            for never in ["pL", "sé", "Lan", "\"L\"", "zz", "\\u00c3", "Ã"] {
                assert!(!wire.contains(never), "{path} says {never:?}: {}", reply.body);
            }
        }
    }
    let body = server.ask(CHAT, &hello(""));
    assert_eq!(text_of(&body), "hello world");
    let cut = server.ask(CHAT, &all_apis("so sécret pLan", false)[1].1);
    assert_eq!(cut["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(text_of(&cut), "so ");
    wait_until("every answer is counted", || server.hits("stop") == 20);
}

#[test]
fn calls_of_tools_hide_no_phrase() {
    let server = Server::start("mode=echo");
    server.rule("stop", ban(&["secret"], "stop"));
    for argument in ["secret", r"s\u0065cret", r"\u0073ecret"] {
        let call = format!(
            r#"<tool_call>{{"name": "f", "arguments": {{"x": "{argument}"}}}}</tool_call>"#
        );
        for stream in [false, true] {
            let body = json!({
                "messages": [{ "role": "user", "content": call }], "stream": stream,
                "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }],
            });
            let reply = server.post(CHAT, &body.to_string());
            assert_eq!(reply.status, 200, "{}", reply.body);
            assert!(!reply.body.contains("cret"), "{}", reply.body);
        }
    }
}

#[test]
fn a_phrase_is_replaced_or_left_out() {
    let server = Server::start("mode=echo");
    let mut replace = ban(&["world"], "replace");
    replace["then"]["text"] = "[removed]".into();
    replace["when"] = json!({ "prompt": "^hello" });
    server.rule("replace", replace);
    assert_eq!(text_of(&server.ask(CHAT, &hello(""))), "hello [removed]");
    let random = Server::start("mode=random,mean_tokens=100000");
    let body = hello(r#""max_tokens":200,"seed":5"#);
    let before = text_of(&random.ask(CHAT, &body)).to_owned();
    let words: Vec<&str> = before.split(' ').collect();
    let phrase = format!("{} {}", words[40], words[41]);
    random.rule("resubmit", ban(&[&phrase], "resubmit"));
    let after = random.ask(CHAT, &body);
    let (text, at) = (text_of(&after), before.find(&phrase).unwrap());
    assert!(!text.contains(&phrase), "{phrase:?} is in {text:?}");
    assert_eq!(text[..at], before[..at]);
    assert_eq!(after["choices"][0]["finish_reason"], "length");
    assert_eq!(after["usage"]["completion_tokens"], 200);
}

#[test]
fn rules_answer_begin_and_form_answers() {
    let server = Server::start("mode=echo");
    server.rule(
        "canned",
        json!({
            "when": { "json": [{ "path": "$.temperature", "equals": 0.5 }] },
            "then": { "action": "canned", "text": "Closed today." },
        }),
    );
    server.rule(
        "prefix",
        json!({
            "when": { "routes": [CHAT], "prompt": "letter" },
            "then": { "action": "prefix", "text": "Dear all, " },
        }),
    );
    server.rule("refuse", json!({
        "when": { "prompt": "(?i)FORBIDDEN" }, "then": { "action": "stop", "text": "Not here." },
    }));
    for stream in [false, true] {
        let reply = server.post(CHAT, &hello(&format!(r#""temperature":0.5,"stream":{stream}"#)));
        assert!(reply.body.contains("Closed today."), "{}", reply.body);
        assert_eq!(reply.header("x-lastmile-override"), Some("canned"));
    }
    let ask = |text: &str| {
        let body = json!({ "messages": [{ "role": "user", "content": text }] });
        server.post(CHAT, &body.to_string())
    };
    assert!(text_of(&ask("a letter").json()).starts_with("Dear all, "));
    let refused = ask("a forbidden thing");
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str().unwrap()),
        (403, "stopped_by_override")
    );
    assert_eq!(refused.json()["error"]["message"], "Not here.");
    let random = Server::start("mode=random");
    random.rule(
        "form",
        json!({ "then": { "action": "schema", "schema": {
        "type": "object", "properties": { "n": { "type": "integer", "minimum": 0, "maximum": 9 } },
        "required": ["n"], "additionalProperties": false,
    } } }),
    );
    let body = random.ask(CHAT, &hello(r#""max_tokens":200"#));
    let answer: Value = serde_json::from_str(text_of(&body)).unwrap();
    assert!(answer["n"].is_u64(), "{answer}");
    let own = random.ask(CHAT, &hello(r#""guided_choice":["yes"]"#));
    assert_eq!(text_of(&own), "yes");
    assert!(own["warnings"][0].as_str().unwrap().contains("form"), "{own}");
}

#[test]
fn a_person_answers_or_a_canned_text_does() {
    let server = Server::start("mode=echo");
    let handed = server.asking(CHAT, "human", &hello(""));
    assert_eq!(handed.status, 202, "{}", handed.body);
    let item = handed.json();
    let url = item["url"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&url).json()["state"], "waiting");
    let waiting = server.get(&format!("{RULES}/queue")).json();
    assert_eq!(waiting[0]["prompt"]["messages"][0]["content"], "hello world");
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| server.get(&format!("{url}?wait_ms=20000")));
        let answer = format!("{RULES}/queue/{}", item["id"].as_str().unwrap());
        let done = server.post(&answer, r#"{"text": "A person says hello."}"#);
        assert_eq!(done.status, 200, "{}", done.body);
        let told = poll.join().unwrap().json();
        assert_eq!((&told["text"], &told["by"]), (&json!("A person says hello."), &json!("human")));
        assert_eq!(server.post(&answer, r#"{"text": "again"}"#).status, 409);
    });
    server.rule(
        "people",
        json!({
            "when": { "prompt": "quickly" },
            "then": { "action": "human", "deadline": "1s", "text": "Nobody was there." },
        }),
    );
    let body = json!({ "messages": [{ "role": "user", "content": "quickly" }] }).to_string();
    let late = server.post(CHAT, &body);
    let url = late.json()["url"].as_str().unwrap().to_owned();
    let began = Instant::now();
    let told = server.get(&format!("{url}?wait_ms=20000")).json();
    assert_eq!((&told["state"], &told["text"]), (&json!("late"), &json!("Nobody was there.")));
    assert!(began.elapsed() < Duration::from_secs(10), "the deadline ends a poll");
}

#[test]
fn users_override_rules_but_not_mandatory_ones() {
    let (folder, key) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let ops_key = super::add_key(&folder, "two", &[Scope::Infer, Scope::Ops], KeyLimits::default());
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    let publish = |id: &str, more: Value| {
        let mut rule = json!({ "id": id, "owner": "ana", "reason": "a test" });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = server.post_with(&ops_key, &format!("{RULES}?publish=true"), &rule.to_string());
        assert_eq!(reply.status, 201, "{}", reply.body);
    };
    publish("soft", ban(&["world"], "stop"));
    publish(
        "text",
        json!({ "when": { "asked": true }, "then": { "action": "canned", "text": "Hi." } }),
    );
    let ask = |key: &str, asked: &str| {
        let lines = format!("x-api-key: {key}\r\nx-lastmile-override: {asked}\r\n");
        exchange_with(server.address, "POST", CHAT, &lines, &hello(""))
    };
    assert_eq!(text_of(&server.post_with(&key, CHAT, &hello("")).json()), "hello ");
    let denied = ask(&key, "bypass");
    assert_eq!(
        (denied.status, denied.json()["error"]["code"].as_str().unwrap()),
        (403, "insufficient_scope")
    );
    assert_eq!(text_of(&ask(&ops_key, "bypass").json()), "hello world");
    assert_eq!(text_of(&ask(&key, "canned:text").json()), "Hi.");
    assert_eq!(ask(&key, "canned:nothing").status, 404);
    assert_eq!(ask(&key, "fallback").status, 404);
    assert_eq!(ask(&key, "nonsense").status, 400);
    let mut hard = ban(&["hello"], "stop");
    hard["mandatory"] = true.into();
    publish("hard", hard);
    assert_eq!(text_of(&ask(&ops_key, "bypass").json()), "");
    // Who asked for a person sees the own item only.
    let item = ask(&key, "human").json();
    let url = item["url"].as_str().unwrap();
    assert_eq!(server.get_with(&key, url).status, 200);
    let other = super::add_key(&server.folder, "three", &[Scope::Infer], KeyLimits::default());
    wait_until("the new key is known", || server.get_with(&other, "/v1/models").status == 200);
    assert_eq!(server.get_with(&other, url).status, 404);
}

#[test]
fn kill_ends_its_route_alone_and_rollback_opens_it_again() {
    let server = Server::start("mode=random,delay_us=5000");
    let endless = hello(r#""stream":true,"ignore_eos":true"#);
    let mut killed = open(server.address, "POST", CHAT, endless.len());
    killed.write_all(endless.as_bytes()).unwrap();
    let other = r#"{"prompt":"a","stream":true,"ignore_eos":true,"max_tokens":1000}"#;
    let mut stays = open(server.address, "POST", TEXT, other.len());
    stays.write_all(other.as_bytes()).unwrap();
    server.wait_for_running(2, 0);
    let kill = json!({ "route": CHAT, "reason": "it leaks" }).to_string();
    let reply = server.post(&format!("{RULES}/kill"), &kill);
    assert_eq!(reply.json()["killed"], json!([CHAT]));
    server.wait_for_running(1, 0);
    assert!(read_reply(killed).body.contains("[DONE]"));
    let refused = server.post(CHAT, &hello(""));
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str().unwrap()),
        (503, "route_killed")
    );
    let rest = read_until(&mut stays, "[DONE]");
    assert!(rest.contains("\"finish_reason\":\"length\""), "the other route's stream goes on");
    let back = server.post(&format!("{RULES}/rollback"), r#"{"reason": "mended"}"#).json();
    assert_eq!(back["undone"], format!("kill {CHAT}"));
    assert_eq!(server.post(CHAT, &hello(r#""max_tokens":2"#)).status, 200);
    assert_eq!(server.post(&format!("{RULES}/rollback"), "").status, 409);
    let audit = server.get(&format!("{RULES}/audit")).json();
    let said: Vec<_> =
        audit.as_array().unwrap().iter().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(said, ["rollback", "kill"]);
    assert_eq!(audit[0]["detail"], format!("kill {CHAT}: mended"));
    assert!(audit[1]["detail"].as_str().unwrap().contains(r#""reason":"it leaks""#), "{audit}");
}

/// Two models with overrides.
pub(super) fn two(a: &str, b: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let overrides = Overrides::open(&folder.path().join("overrides.db"), &store).unwrap();
    let ops = Ops::new(store).with_overrides(overrides);
    let observer = ops.observer();
    let model = |name: &str, options: &str| {
        let mut config = RuntimeConfig::new(ModelSource::placeholder(options).unwrap());
        config.served_name = Some(name.to_owned());
        config.observer = Arc::clone(&observer);
        let configure: Configure = Arc::new(move || Ok(config.clone()));
        Declared { name: name.to_owned(), aliases: Vec::new(), configure }
    };
    let models = vec![model("a", a), model("b", b)];
    let config =
        ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    Server::start_models(folder, models, RegistryOptions::default(), config, Access::default(), ops)
}

#[test]
fn a_pin_sends_everything_to_one_model_and_no_stream_is_dropped() {
    let server = two("mode=random,delay_us=5000", "mode=echo");
    let body = hello(r#""model":"a","stream":true,"ignore_eos":true,"max_tokens":200"#);
    let mut runs = open(server.address, "POST", CHAT, body.len());
    runs.write_all(body.as_bytes()).unwrap();
    server.wait_for_running(1, 0);
    let pinned = server.post(&format!("{RULES}/pin"), r#"{"target": "b"}"#);
    assert_eq!(pinned.json()["pin"], "b");
    let answer = server.ask(CHAT, &hello(r#""model":"a""#));
    assert_eq!((&answer["model"], text_of(&answer)), (&json!("b"), "hello world"));
    let rest = read_until(&mut runs, "[DONE]");
    assert!(rest.contains("\"finish_reason\":\"length\""));
    let release = server.get("/v1/models/a").json()["release"].as_str().unwrap().to_owned();
    server.post(&format!("{RULES}/pin"), &json!({ "target": &release[..12] }).to_string());
    assert_eq!(server.ask(CHAT, &hello(r#""model":"b","max_tokens":1"#))["model"], "a");
    server.post(&format!("{RULES}/pin"), r#"{"target": "nothing"}"#);
    let refused = server.post(CHAT, &hello(""));
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str().unwrap()),
        (503, "pin_missing")
    );
    for _ in 0..3 {
        assert_eq!(server.post(&format!("{RULES}/rollback"), "").status, 200);
    }
    assert_eq!(server.ask(CHAT, &hello(r#""max_tokens":1"#))["model"], "a");
}

#[test]
fn another_model_answers_while_one_fails() {
    let server = two("mode=echo,fail_every=1", "mode=echo");
    server.rule(
        "chain",
        json!({
            "when": { "models": ["a"] },
            "then": { "action": "fallback", "models": ["b"], "only": "errors" },
        }),
    );
    let ask = || server.post(CHAT, &hello(r#""model":"a""#));
    for _ in 0..5 {
        assert_eq!(ask().status, 500);
    }
    let answer = ask();
    assert_eq!((answer.status, &answer.json()["model"]), (200, &json!("b")), "{}", answer.body);
    assert_eq!(answer.header("x-lastmile-override"), Some("chain"));
    assert_eq!(server.get(RULES).json()["breakers"]["a"], "open");
    assert_eq!(server.asking(CHAT, "fallback", &hello("")).json()["model"], "b");
}

#[test]
fn a_dry_run_predicts_the_real_hits() {
    let server = Server::start("mode=random,mean_tokens=40,seed=9");
    let rules: BTreeMap<&str, Value> = [
        ("by-phrase", ban(&["government", " said the", "she was", "ing o"], "stop")),
        ("by-prompt", json!({ "when": { "prompt": "item 1[0-4]" }, "then": { "action": "prefix", "text": "Well, " } })),
        ("by-path", json!({
            "when": { "json": [{ "path": "$.max_tokens", "equals": 31 }, { "path": "$.messages[*].content", "matches": "7" }] },
            "then": { "action": "canned", "text": "Seven." },
        })),
        ("by-route", json!({ "when": { "routes": [TEXT] }, "then": { "action": "stop", "text": "No." } })),
    ]
    .into();
    let replay = || {
        for i in 0..200 {
            let fields = format!(r#""seed":{i},"max_tokens":{},"n":{}"#, 30 + i % 3, 1 + i % 2);
            match i % 5 {
                0 => server.post(TEXT, &format!(r#"{{"prompt":"item {i}",{fields}}}"#)),
                _ => server.post(
                    CHAT,
                    &format!(r#"{{"messages":[{{"role":"user","content":"item {i}"}}],{fields}}}"#),
                ),
            };
        }
    };
    server.rule(
        "last",
        json!({
            "priority": 100,
            "when": { "prompt": "the very last" }, "then": { "action": "canned", "text": "Yes." },
        }),
    );
    for (n, (id, more)) in rules.iter().enumerate() {
        let since = lm_ops::now_ms();
        replay();
        let mut rule = json!({ "id": id, "owner": "ana", "reason": "a test" });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(server.post(RULES, &rule.to_string()).status, 201);
        let path = format!("{RULES}/{id}");
        let dry = || server.post(&format!("{path}/dry-run?since_ms={since}"), "").json();
        wait_until("all is stored", || dry()["answers"] == 300);
        let dry = dry();
        assert!(dry["hits"].as_u64().unwrap() > 3, "{dry}");
        assert_eq!(dry["unknown"], 0);
        assert_eq!(server.post(&format!("{path}/publish"), "").status, 200);
        replay();
        // Hits are counted in order, so that this one comes after all.
        server.post(TEXT, r#"{"prompt":"the very last"}"#);
        wait_until("all hits are counted", || server.hits("last") == n as u64 + 1);
        assert_eq!(json!(server.hits(id)), dry["hits"], "{id}");
        assert_eq!(server.post(&format!("{path}/remove"), "").json()["id"], **id);
    }
}

#[test]
fn bad_rules_are_refused_by_field_value_and_limit() {
    let server = Server::start("mode=echo");
    let refused = |rule: Value, message: &str| {
        let reply = server.post(RULES, &rule.to_string());
        assert_eq!(reply.status, 400, "{}", reply.body);
        let found = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(found.contains(message), "{found}");
    };
    let rule = |more: Value| {
        let mut rule = json!({ "id": "r", "owner": "ana", "reason": "a test", "then": { "action": "stop", "text": "No." } });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    refused(rule(json!({ "id": "a b" })), "id is \"a b\"");
    refused(rule(json!({ "owner": " " })), "owner is");
    refused(rule(json!({ "expires": "soon" })), "expires is \"soon\"");
    refused(rule(json!({ "fruit": 1 })), "fruit");
    refused(rule(json!({ "when": { "prompt": "(" } })), "when.prompt is \"(\"");
    refused(rule(json!({ "when": { "json": [{ "path": "a", "equals": 1 }] } })), "when.json.path");
    refused(rule(json!({ "then": { "action": "ban", "phrases": [] } })), "then.phrases is 0");
    refused(
        rule(json!({ "then": { "action": "ban", "phrases": ["x".repeat(257)] } })),
        "257 bytes",
    );
    refused(
        rule(json!({ "then": { "action": "human", "deadline": "8d", "text": "x" } })),
        "then.deadline",
    );
    assert_eq!(server.get(&format!("{RULES}/nothing")).status, 404);
    assert_eq!(server.post(&format!("{RULES}/kill"), "{}").status, 400);
    let unsaid = json!({ "route": CHAT, "reason": 7 }).to_string();
    let refused = server.post(&format!("{RULES}/kill"), &unsaid);
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("reason")));
    assert_eq!(server.post(&format!("{RULES}/r/fly"), "").status, 404);
    let unknown = [
        ("kill", json!({ "route": CHAT, "force": true }), "force"),
        ("pin", json!({ "target": "placeholder", "until": "noon" }), "until"),
        ("rollback", json!({ "reasons": "mended" }), "reasons"),
        ("r/publish", json!({ "now": true }), "now"),
    ];
    for (verb, body, field) in unknown {
        let refused = server.post(&format!("{RULES}/{verb}"), &body.to_string());
        let error = &refused.json()["error"];
        assert_eq!((refused.status, &error["param"]), (400, &json!(field)), "{verb}");
        let said = error["message"].as_str().unwrap();
        assert!(said.starts_with(&format!("{field} is given, but must be left out")), "{said}");
    }
    assert_eq!(server.get(RULES).json()["operator"], json!({ "killed": [], "pin": null }));
    assert_eq!(server.post(&format!("{RULES}?publish=yes"), "{}").status, 400);
}

#[test]
fn every_override_is_something_to_learn_from() {
    let server = Server::start("mode=echo");
    server.rule("stop", ban(&["world"], "stop"));
    let id = server.ask(CHAT, &hello(""))["id"]
        .as_str()
        .unwrap()
        .trim_start_matches("chatcmpl-")
        .to_owned();
    wait_until("the hit is feedback", || {
        let said = server.ops.reader().feedback_for(id.parse().unwrap()).unwrap();
        said.iter().any(|one| one.comment.as_deref() == Some("override stop: ban_stop"))
    });
}
