//! Dry runs come true: traffic is recorded, each rule of a set is tried on it, and the same traffic comes again with the rules.
//! The numbers of hits must be the same, rule by rule.
//!
//! `LASTMILE_DRY_RUN_REQUESTS=100000` makes it the proof of the release; by default it is small. It prints a table.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lastmile::{Configure, Declared, ModelSource, RegistryOptions, RuntimeConfig};
use lm_keys::{KeyLimits, Scope};
use lm_ops::{Ops, Overrides, Store, StoreOptions, dry_run};
use serde_json::{Value, json};

use super::overriding::RULES;
use super::{CHAT, Server, TEXT, add_key, key_file, wait_until};
use crate::{Access, ServerConfig};

const REQUESTS: &str = "LASTMILE_DRY_RUN_REQUESTS";
const N_REQUESTS: usize = 2000;
/// Connections that ask at once.
const N_CLIENTS: usize = 32;
/// Answers that may wait for the store, half of what it takes: one that it dropped could not be tried.
const MOST_QUEUED: u64 = 2048;

/// A client that keeps its connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client(BufReader::new(stream))
    }

    /// The status; the body is read to its end.
    fn ask(&mut self, request: &[u8]) -> u16 {
        self.0.get_mut().write_all(request).unwrap();
        let (mut line, mut status, mut length) = (String::new(), 0, None);
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            let text = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(n) = text.strip_prefix("content-length: ") {
                length = Some(n.parse::<u64>().unwrap());
            } else if text.is_empty() {
                break;
            }
        }
        match length {
            Some(n) => self.skip(n),
            None => self.skip_chunks(),
        }
        status
    }

    fn skip(&mut self, n: u64) {
        let read = std::io::copy(&mut (&mut self.0).take(n), &mut std::io::sink()).unwrap();
        assert_eq!(read, n, "the connection ended within a body");
    }

    fn skip_chunks(&mut self) {
        loop {
            let mut size = String::new();
            self.0.read_line(&mut size).unwrap();
            let n = u64::from_str_radix(size.trim_end(), 16).unwrap();
            self.skip(n + 2);
            if n == 0 {
                return;
            }
        }
    }
}

/// What the request number `i` is about; rules are about one of these each, so that none changes what another one sees of an
/// answer. Which of several rules wins is tried where they leave the model's answer alone.
const TOPICS: [&str; 14] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
    "lambda", "mu", "german", "plain",
];

/// The number of a request that asks for `by-user`.
const MARKER: usize = 2 * TOPICS.len() + 11;

/// The request number `i`, as it is sent, and how many answers it has.
fn request(i: usize, keys: &[String; 2]) -> (Vec<u8>, usize) {
    let topic = TOPICS[i % TOPICS.len()];
    let turn = i / TOPICS.len();
    let text = match topic {
        "german" => format!(
            "Ich weiß nicht, ob das Paket {turn} noch kommt, aber es ist wie immer zu spät und die Lieferung war nicht für uns"
        ),
        _ => format!("{topic} item {turn}"),
    };
    let n = if ["alpha", "beta"].contains(&topic) { 1 + turn % 2 } else { 1 };
    let mut body = json!({
        "model": "a", "max_tokens": 4 + turn % 5, "temperature": 0, "n": n, "stream": turn.is_multiple_of(4),
    });
    let path = match topic {
        "zeta" => {
            body["prompt"] = text.into();
            TEXT
        }
        _ => {
            body["messages"] = json!([{ "role": "user", "content": text }]);
            CHAT
        }
    };
    // The second key is an operator's.
    let asked = match (topic, turn % 4) {
        ("iota", 1 | 3) => "x-lastmile-override: bypass\r\n",
        ("mu", 2) => "x-lastmile-override: canned:by-user\r\n",
        _ => "",
    };
    let (key, body) = (&keys[turn % 2], body.to_string());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n{asked}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    (head.into_bytes(), n)
}

/// What is asked of rules, by id; `by-user` holds from the beginning, as it answers who asks for it.
fn rules(tenant: &str) -> BTreeMap<&'static str, Value> {
    let about = |topic: &str| json!({ "prompt": format!("^{topic} ") });
    let ban = |phrases: &[&str], on_hit: &str| json!({ "action": "ban", "phrases": phrases, "on_hit": on_hit });
    let canned = json!({ "action": "canned", "text": "Closed today." });
    let mut replace = ban(&["S A", "E O", "n the"], "replace");
    (replace["ignore_case"], replace["text"]) = (true.into(), "[removed]".into());
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } },
        "required": ["n"], "additionalProperties": false });
    let json_tests = json!([
        { "path": "$.max_tokens", "equals": 7 },
        { "path": "$.messages[*].content", "matches": "^eta .*[13579]$" },
    ]);
    [
        ("ban-stop", json!({ "when": about("alpha"), "then": ban(&[" the", "ing "], "stop") })),
        ("ban-replace", json!({ "when": about("beta"), "then": replace })),
        ("ban-resubmit", json!({ "when": about("gamma"), "then": ban(&["ed ", "er "], "resubmit") })),
        ("prefix", json!({
            "when": { "prompt": "^delta .*[02468]$" }, "then": { "action": "prefix", "text": "Well, " },
        })),
        ("schema", json!({
            "when": { "models": ["a"], "prompt": "^epsilon " }, "then": { "action": "schema", "schema": schema },
        })),
        ("stop-by-route", json!({
            "when": { "routes": [TEXT], "prompt": "[0-4]$" }, "then": { "action": "stop", "text": "No." },
        })),
        ("canned-by-json", json!({ "when": { "json": json_tests }, "then": canned })),
        ("canned-by-key", json!({ "when": { "tenants": [tenant], "prompt": "^theta " }, "then": canned })),
        ("bypassed", json!({ "when": about("iota"), "then": canned })),
        ("mandatory", json!({ "mandatory": true, "when": { "prompt": "^iota .*7$" }, "then": canned })),
        ("first", json!({ "priority": 5, "when": { "prompt": "^kappa .*[0-6]$" }, "then": canned })),
        ("second", json!({ "priority": 1, "when": about("kappa"), "then": { "action": "stop", "text": "No." } })),
        ("human", json!({
            "when": { "prompt": "^lambda .*[05]0$" }, "then": { "action": "human", "deadline": "5s", "text": "Nobody." },
        })),
        ("fallback", json!({
            "when": { "prompt": "^mu ", "json": [{ "path": "$.max_tokens", "equals": 4 }] },
            "then": { "action": "fallback", "models": ["b"] },
        })),
        ("by-language", json!({ "when": { "language": "de" }, "then": canned })),
        ("by-user", json!({ "when": { "asked": true, "prompt": "^mu " }, "then": canned })),
    ]
    .into()
}

/// Models `a` and `b`, and the keys of a user and an operator.
fn start() -> (Server, [String; 2], String) {
    let folder = tempfile::tempdir().unwrap();
    let user = add_key(&folder, "user", &[Scope::Infer], KeyLimits::default());
    let operator = add_key(&folder, "ops", &[Scope::Infer, Scope::Ops], KeyLimits::default());
    let records = key_file(&folder).read().unwrap().unwrap();
    let tenant = records.iter().find(|record| record.name == "user").unwrap().id.to_string();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let overrides = Overrides::open(&folder.path().join("overrides.db"), &store).unwrap();
    let ops = Ops::new(store).with_overrides(overrides);
    let observer = ops.observer();
    let model = |name: &str| {
        let source = ModelSource::placeholder("mode=random,mean_tokens=400").unwrap();
        let mut config = RuntimeConfig::new(source);
        config.served_name = Some(name.to_owned());
        config.observer = Arc::clone(&observer);
        let configure: Configure = Arc::new(move || Ok(config.clone()));
        Declared { name: name.to_owned(), aliases: Vec::new(), configure }
    };
    let models = vec![model("a"), model("b")];
    let address = "127.0.0.1:0".parse().unwrap();
    let config = ServerConfig { address, ..ServerConfig::default() };
    let access = Access { key_file: Some(key_file(&folder)), ..Access::default() };
    access.load_keys(&ops).unwrap();
    let options = RegistryOptions::default();
    let server = Server::start_models(folder, models, options, config, access, ops);
    (server, [user, operator], tenant)
}

/// Sends all requests once, and waits until their answers are stored. How many answers there were.
fn send(server: &Server, n_requests: usize, keys: &[String; 2], statuses: &[u16]) -> u64 {
    let (next, n_answers) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let before = server.ops.counters().recorded;
    let client = || {
        let mut client = Client::connect(server.address);
        loop {
            let i = next.fetch_add(1, Relaxed);
            if i >= n_requests {
                return;
            }
            let (bytes, n) = request(i, keys);
            let status = client.ask(&bytes);
            assert!(statuses.contains(&status), "request {i} has the status {status}");
            n_answers.fetch_add(n, Relaxed);
            while server.ops.counters().queue_len > MOST_QUEUED {
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
    };
    std::thread::scope(|scope| (0..N_CLIENTS).for_each(|_| drop(scope.spawn(client))));
    let n_answers = n_answers.load(Relaxed) as u64;
    wait_until("all answers are stored", || server.ops.counters().recorded >= before + n_answers);
    assert_eq!(server.ops.counters().dropped, 0);
    n_answers
}

/// Hits of each rule so far.
fn hits(server: &Server) -> BTreeMap<String, u64> {
    server.ops.overrides().unwrap().read(|desk| desk.hits(0)).unwrap()
}

/// What each rule's dry run says, on two threads. The rules hold together, so each is tried beside the others.
fn predicted(
    server: &Server,
    ids: &[&'static str],
    since: i64,
) -> BTreeMap<&'static str, (u64, u64, u64)> {
    let until = lm_ops::now_ms();
    let (overrides, reader) = (server.ops.overrides().unwrap(), server.ops.reader());
    let try_some = |ids: &[&'static str]| {
        let try_one = |id: &&'static str| {
            let run = overrides.read_apart(|desk| dry_run(desk, reader, id, since, until)).unwrap();
            (*id, (run.hits, run.answers, run.unknown))
        };
        ids.iter().map(try_one).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let halves = ids.chunks(ids.len().div_ceil(2));
        let running: Vec<_> = halves.map(|half| scope.spawn(move || try_some(half))).collect();
        running.into_iter().flat_map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn a_dry_run_of_each_rule_predicts_its_hits_exactly() {
    let n_requests = std::env::var(REQUESTS).map_or(N_REQUESTS, |n| n.parse().unwrap());
    let (server, keys, tenant) = start();
    let rules = rules(&tenant);
    let add = |id: &str| {
        let mut rule = json!({ "id": id, "owner": "ana", "reason": "a test" });
        rule.as_object_mut().unwrap().extend(rules[id].as_object().unwrap().clone());
        let reply = server.post_with(&keys[1], &format!("{RULES}?publish=true"), &rule.to_string());
        assert_eq!(reply.status, 201, "{id}: {}", reply.body);
    };
    add("by-user");
    let (began, since) = (Instant::now(), lm_ops::now_ms());
    let n_answers = send(&server, n_requests, &keys, &[200]);
    let recorded_s = began.elapsed().as_secs_f64();
    let ids: Vec<&'static str> = rules.keys().copied().collect();
    ids.iter().filter(|id| **id != "by-user").for_each(|id| add(id));
    let began = Instant::now();
    let predicted = predicted(&server, &ids, since);
    let tried_s = began.elapsed().as_secs_f64();
    // Who asked for the one rule that held was counted already.
    let asked = predicted["by-user"].0;
    wait_until("those who asked are counted", || hits(&server).get("by-user") == Some(&asked));
    let before = hits(&server);
    let began = Instant::now();
    send(&server, n_requests, &keys, &[200, 202, 403]);
    let live_s = began.elapsed().as_secs_f64();
    // Hits are counted in order, so that this one comes after all.
    let (marker, _) = request(MARKER, &keys);
    assert_eq!(Client::connect(server.address).ask(&marker), 200);
    let so_far = |id: &str| before.get(id).copied().unwrap_or(0);
    wait_until("all hits are counted", || {
        hits(&server).get("by-user").copied() > Some(so_far("by-user") + asked)
    });
    let after = hits(&server);
    println!(
        "{n_requests} requests, {n_answers} answers: recorded in {recorded_s:.1} s, {} rules tried in {tried_s:.1} s, again in {live_s:.1} s",
        ids.len()
    );
    for id in &ids {
        let (hits, answers, unknown) = predicted[id];
        let live = after.get(*id).copied().unwrap_or(0) - so_far(id);
        let live = if *id == "by-user" { live - 1 } else { live };
        println!("{id:<16} predicted {hits:>7}  live {live:>7}  of {answers} answers");
        assert_eq!((live, answers, unknown), (hits, n_answers, 0), "{id}");
        assert!(hits > 0, "{id} is about nothing");
    }
    assert_eq!(server.ops.overrides().unwrap().n_dropped_hits(), 0);
}
