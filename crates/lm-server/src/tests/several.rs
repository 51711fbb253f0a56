//! Several models in one server: names, loads on demand, memory, replacement, and who waits for whom.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lastmile::{Configure, Declared, LoadError, ModelSource, RegistryOptions, RuntimeConfig};
use lm_keys::{KeyLimits, Scope};
use lm_ops::{Ops, Store, StoreOptions};
use serde_json::Value;

use super::client::{open, read_reply, read_until};
use super::{CHAT, Server, TEXT, add_key, hello, key_file, wait_until};
use crate::{Access, ServerConfig, charging};

/// A placeholder takes about so much, nearly all of it the program itself.
const PLACEHOLDER_BYTES: u64 = 49 << 20;
/// Slow enough to be seen while it runs.
const SLOW: &str = "delay_us=2000";

fn placeholder(options: &str) -> RuntimeConfig {
    RuntimeConfig::new(ModelSource::placeholder(options).unwrap())
}

fn model(name: &str, options: &str) -> Declared {
    let config = placeholder(options);
    declared(name, Arc::new(move || Ok(config.clone())))
}

fn declared(name: &str, configure: Configure) -> Declared {
    Declared { name: name.to_owned(), aliases: Vec::new(), configure }
}

fn start(models: Vec<Declared>, options: RegistryOptions) -> Server {
    start_in(tempfile::tempdir().unwrap(), models, options)
}

/// Every model is observed by the store.
fn start_in(folder: tempfile::TempDir, models: Vec<Declared>, options: RegistryOptions) -> Server {
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let ops = Ops::new(store);
    let config =
        ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    let access = Access { key_file: Some(key_file(&folder)), ..Access::default() };
    access.load_keys(&ops).unwrap();
    let observer = charging(Arc::clone(&access.keys), ops.prices().clone(), ops.observer());
    let observed = |model: Declared| {
        let observer = Arc::clone(&observer);
        let configure: Configure = Arc::new(move || {
            let observer = Arc::clone(&observer);
            (model.configure)().map(|config| RuntimeConfig { observer, ..config })
        });
        Declared { configure, ..model }
    };
    let models = models.into_iter().map(observed).collect();
    Server::start_models(folder, models, options, config, access, ops)
}

impl Server {
    /// What operators see of a model.
    #[track_caller]
    fn model(&self, name: &str) -> Value {
        let all = self.get("/ops/v1/models").json();
        let all = all["models"].as_array().unwrap();
        all.iter().find(|model| model["name"] == name).unwrap().clone()
    }

    #[track_caller]
    fn refused(&self, path: &str, body: &str, expect: (u16, &str)) -> String {
        let reply = self.post(path, body);
        let error = reply.json()["error"].clone();
        let found = (reply.status, error["code"].as_str().unwrap());
        assert_eq!(found, expect, "{}", reply.body);
        error["message"].as_str().unwrap().to_owned()
    }
}

/// A request with a prompt of one word and an answer of `n` tokens.
fn text(model: &str, n: usize, fields: &str) -> String {
    format!(
        r#"{{"model":"{model}","prompt":"hello","max_tokens":{n},"ignore_eos":true,"temperature":0{fields}}}"#
    )
}

/// A stream of `n` tokens whose first one has come.
fn stream(server: &Server, model: &str, n: usize) -> TcpStream {
    let body = text(model, n, r#","stream":true"#);
    let mut stream = open(server.address, "POST", TEXT, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    read_until(&mut stream, "data: ");
    stream
}

/// A configuration that is given out when the test says so.
fn gated(options: &str) -> (Configure, Sender<()>, Arc<AtomicUsize>) {
    let (open, opened): (Sender<()>, Receiver<()>) = channel();
    let (opened, n_loads) = (Mutex::new(opened), Arc::new(AtomicUsize::new(0)));
    let (config, counted) = (placeholder(options), Arc::clone(&n_loads));
    let configure: Configure = Arc::new(move || {
        counted.fetch_add(1, SeqCst);
        // A test that ends opens it, too.
        let _told = opened.lock().unwrap_or_else(PoisonError::into_inner).recv();
        Ok(config.clone())
    });
    (configure, open, n_loads)
}

#[test]
fn models_have_names_aliases_and_texts_of_their_own() {
    let b = Declared { aliases: vec!["fast".to_owned()], ..model("org/b", "seed=2") };
    let server = start(vec![model("a", "seed=1"), b], RegistryOptions::default());
    let list = server.get("/v1/models").json();
    let states: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|m| (&m["id"], &m["state"])).collect();
    assert_eq!(states, [(&"a".into(), &"loaded".into()), (&"org/b".into(), &"unloaded".into())]);
    let one = server.get("/v1/models/fast").json();
    assert_eq!((&one["id"], &one["aliases"][0]), (&"org/b".into(), &"fast".into()));
    assert!(one["max_model_len"].is_null(), "looking at a model does not load it");
    let unnamed = r#"{"prompt":"hello","max_tokens":8,"ignore_eos":true,"temperature":0}"#;
    let answers = [unnamed.to_owned(), text("a", 8, ""), text("org/b", 8, ""), text("fast", 8, "")];
    let [default, a, b, fast] = answers.map(|body| server.ask(TEXT, &body));
    assert_eq!(default["choices"][0]["text"], a["choices"][0]["text"]);
    assert_eq!(b["choices"][0]["text"], fast["choices"][0]["text"]);
    assert_ne!(a["choices"][0]["text"], b["choices"][0]["text"]);
    assert_eq!([&default["model"], &a["model"]], ["a", "a"]);
    assert_eq!([&b["model"], &fast["model"]], ["org/b", "org/b"], "an alias is not a model");
    assert_ne!(a["system_fingerprint"], b["system_fingerprint"]);
    assert_eq!(server.get("/v1/models/org/b").json()["release"], b["system_fingerprint"]);
    let message = server.refused(TEXT, &text("c", 8, ""), (404, "model_not_found"));
    assert!(message.contains("'a', 'org/b'"), "{message}");
    let page = server.get("/metrics").body;
    for name in ["a", "org/b"] {
        let line = format!("lastmile_generation_tokens_total{{model_name=\"{name}\"}} 16\n");
        assert!(page.contains(&line), "{name}: {page}");
    }
}

#[test]
fn those_who_wait_share_one_load() {
    let (configure, gate, n_loads) = gated("seed=2");
    let models = vec![model("a", "seed=1"), declared("b", configure)];
    let server = start(models, RegistryOptions::default());
    // A body that is wrong is no reason to load anything, nor is a name that nobody has.
    server.refused(TEXT, r#"{"model":"b","prompt":"x","n":"many"}"#, (400, "invalid_value"));
    server.refused(TEXT, r#"{"model":"c","prompt":"x"}"#, (404, "model_not_found"));
    assert_eq!(n_loads.load(SeqCst), 0);
    let body = text("b", 8, "");
    let ask = || {
        let mut stream = open(server.address, "POST", TEXT, body.len());
        stream.write_all(body.as_bytes()).unwrap();
        stream
    };
    let asked: Vec<_> = (0..20).map(|_| ask()).collect();
    wait_until("the model is being loaded", || server.model("b")["state"] == "loading");
    // Meanwhile the other one answers, and nobody waits past a deadline.
    server.ask(TEXT, &text("a", 8, ""));
    let hurried = text("b", 8, r#","deadline_ms":50"#);
    let message = server.refused(TEXT, &hurried, (503, "model_loading"));
    assert!(message.contains("50 ms"), "{message}");
    assert_eq!(server.get("/health/ready").status, 200);
    gate.send(()).unwrap();
    for stream in asked {
        let reply = read_reply(stream);
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    assert_eq!(n_loads.load(SeqCst), 1);
    assert_eq!(server.model("b")["loads"], 1);
}

#[test]
fn a_model_that_does_not_fit_takes_the_place_of_an_idle_one_and_of_no_other() {
    let limit = 2 * PLACEHOLDER_BYTES + PLACEHOLDER_BYTES / 2;
    let options = RegistryOptions { memory_limit: Some(limit), ..RegistryOptions::default() };
    let models = vec![model("a", ""), model("b", SLOW), model("c", SLOW)];
    let server = start(models, options);
    // The test itself holds the first model, so that it is never idle.
    let running = stream(&server, "b", 8000);
    let message = server.refused(TEXT, &text("c", 4, ""), (503, "insufficient_memory"));
    let needed = server.model("b")["planned_bytes"].as_u64().unwrap();
    for number in [needed, limit] {
        assert!(message.contains(&number.to_string()), "{number}: {message}");
    }
    assert_eq!(server.model("b")["state"], "loaded");
    drop(running);
    wait_until("the answer is aborted", || server.model("b")["running"] == 0);
    server.ask(TEXT, &text("c", 4, ""));
    assert_eq!(server.model("b")["state"], "unloaded");
    // Ollama's clients see those too that are not loaded.
    let names = |path: &str| server.get(path).json()["models"].as_array().unwrap().len();
    assert_eq!((names("/api/tags"), names("/api/ps")), (3, 2));
    server.ask(TEXT, &text("b", 4, ""));
    assert_eq!(server.model("c")["state"], "unloaded");
    let memory = &server.get("/ops/v1/models").json()["memory"];
    assert_eq!(memory["ceiling_bytes"], limit);
    assert!(memory["planned_bytes"].as_u64().unwrap() <= limit, "{memory}");
}

#[test]
fn only_so_many_are_loaded_at_once() {
    let options = RegistryOptions { max_loaded: Some(2), ..RegistryOptions::default() };
    let server = start(vec![model("a", ""), model("b", SLOW), model("c", "")], options);
    let running = stream(&server, "b", 8000);
    let message = server.refused(TEXT, &text("c", 4, ""), (503, "models_busy"));
    assert!(message.contains("2 models") && message.contains("a, b"), "{message}");
    drop(running);
    wait_until("the answer is aborted", || server.model("b")["running"] == 0);
    server.ask(TEXT, &text("c", 4, ""));
    assert_eq!(server.model("b")["state"], "unloaded");
    // Ollama's clients see those too that are not loaded.
    let names = |path: &str| server.get(path).json()["models"].as_array().unwrap().len();
    assert_eq!((names("/api/tags"), names("/api/ps")), (3, 2));
}

#[test]
fn what_nobody_asks_for_is_unloaded_and_comes_back() {
    let idle_timeout = Some(Duration::from_millis(1500));
    let options = RegistryOptions { idle_timeout, ..RegistryOptions::default() };
    let server = start(vec![model("a", ""), model("b", SLOW)], options);
    // An answer takes longer than the limit, and is use.
    let asked = server.ask(TEXT, &text("b", 1200, ""));
    assert_eq!(asked["usage"]["completion_tokens"], 1200);
    assert_eq!(server.model("b")["loads"], 1);
    wait_until("the model is unloaded", || {
        let b = server.model("b");
        b["state"] == "unloaded" && b["retiring_engines"] == 0
    });
    assert_eq!(server.get("/health/ready").status, 200);
    assert_eq!(server.ask(TEXT, &text("b", 1200, ""))["choices"], asked["choices"]);
    assert_eq!(server.model("b")["loads"], 2);
}

/// A model whose seed can be changed; 0 is a file that is broken.
fn changing(seed: &Arc<AtomicU64>) -> Configure {
    let seed = Arc::clone(seed);
    Arc::new(move || match seed.load(SeqCst) {
        0 => Err(LoadError::Configure { message: "/secret/path is broken".to_owned() }),
        seed => Ok(placeholder(&format!("{SLOW},seed={seed}"))),
    })
}

#[test]
fn a_reload_under_streams_drops_none_of_them() {
    let seed = Arc::new(AtomicU64::new(1));
    let models = vec![model("a", ""), declared("b", changing(&seed))];
    let server = start(models, RegistryOptions::default());
    let old = server.ask(TEXT, &text("b", 300, ""));
    // They go on for long enough that the reload is over first, however slow the machine.
    let streams: Vec<_> = (0..16).map(|_| stream(&server, "b", 1500)).collect();
    seed.store(2, SeqCst);
    let reloaded = server.ask("/ops/v1/models/b/reload", "");
    assert_eq!((&reloaded["loads"], &reloaded["retiring_engines"]), (&2.into(), &1.into()));
    let new = server.ask(TEXT, &text("b", 300, ""));
    assert_ne!(new["system_fingerprint"], old["system_fingerprint"]);
    assert_ne!(new["choices"][0]["text"], old["choices"][0]["text"]);
    assert_eq!(reloaded["release"], new["system_fingerprint"]);
    for mut stream in streams {
        let rest = read_until(&mut stream, "[DONE]");
        let said =
            |value: &Value| format!("\"system_fingerprint\":{}", value["system_fingerprint"]);
        assert!(rest.contains("\"finish_reason\":\"length\"") && !rest.contains("error"), "{rest}");
        assert!(rest.contains(&said(&old)) && !rest.contains(&said(&new)), "{rest}");
    }
    wait_until("the old engine is gone", || server.model("b")["retiring_engines"] == 0);
    // Each answer is stored under what it came from.
    let releases = |answer: &Value| {
        let id = answer["id"].as_str().unwrap().trim_start_matches("cmpl-");
        let id = lastmile::RequestId(uuid::Uuid::parse_str(id).unwrap().as_u128());
        let reader = lm_ops::Reader::open(&server.folder.path().join("store.db")).unwrap();
        reader.request(id).unwrap().unwrap().attempts[0].release_hash.clone()
    };
    wait_until("the answers are stored", || {
        let page = server.get("/metrics").body;
        page.contains("\nlastmile_store_recorded_total 18\n")
    });
    assert_eq!(old["system_fingerprint"], releases(&old));
    assert_eq!(new["system_fingerprint"], releases(&new));
}

#[test]
fn a_broken_file_leaves_the_old_engine_serving() {
    let seed = Arc::new(AtomicU64::new(1));
    let models = vec![model("a", ""), declared("b", changing(&seed))];
    let server = start(models, RegistryOptions::default());
    let before = server.ask(TEXT, &text("b", 8, ""));
    seed.store(0, SeqCst);
    let message = server.refused("/ops/v1/models/b/reload", "", (500, "model_load_failed"));
    assert!(!message.contains("/secret/path"), "files are the operator's: {message}");
    assert_eq!(server.ask(TEXT, &text("b", 8, ""))["choices"], before["choices"]);
    // Unloaded, it cannot come back, and can when the file is whole again.
    server.ask("/ops/v1/models/b/unload", "");
    server.refused(TEXT, &text("b", 8, ""), (500, "model_load_failed"));
    seed.store(1, SeqCst);
    assert_eq!(server.ask(TEXT, &text("b", 8, ""))["choices"], before["choices"]);
}

#[test]
fn a_reload_without_room_beside_is_refused_or_drains_first() {
    let seed = Arc::new(AtomicU64::new(1));
    let limit = 2 * PLACEHOLDER_BYTES + PLACEHOLDER_BYTES / 2;
    let options = RegistryOptions { memory_limit: Some(limit), ..RegistryOptions::default() };
    let server = start(vec![model("a", ""), declared("b", changing(&seed))], options);
    let mut old = stream(&server, "b", 400);
    seed.store(2, SeqCst);
    let message = server.refused("/ops/v1/models/b/reload", "", (503, "insufficient_memory"));
    assert!(message.contains(&limit.to_string()), "{message}");
    server.refused("/ops/v1/models/b/load?drain=true", "", (400, "invalid_value"));
    server.refused("/ops/v1/models/b/reload?drain=maybe", "", (400, "invalid_value"));
    let reloaded = server.ask("/ops/v1/models/b/reload?drain=true", "");
    assert_eq!(reloaded["loads"], 2);
    let rest = read_until(&mut old, "[DONE]");
    assert!(rest.contains("\"finish_reason\":\"length\""), "{rest}");
    assert_eq!(server.ask(TEXT, &text("b", 8, ""))["system_fingerprint"], reloaded["release"]);
}

#[test]
fn engines_take_turns_and_one_that_hangs_does_not_hold_the_others() {
    let hangs = "mode=echo,hang_at_step=3,hang_us=20000000";
    let models = vec![model("a", SLOW), model("b", SLOW), model("c", hangs)];
    let server = start(models, RegistryOptions::default());
    // A load is not what is measured.
    server.ask(TEXT, &text("b", 1, ""));
    let (a, b) = (stream(&server, "a", 1500), stream(&server, "b", 1500));
    let (a, b) = std::thread::scope(|scope| {
        let ends = [a, b].map(|mut stream| {
            scope.spawn(move || {
                read_until(&mut stream, "[DONE]");
                Instant::now()
            })
        });
        let [a, b] = ends.map(|end| end.join().unwrap());
        (a, b)
    });
    let apart = if a > b { a - b } else { b - a };
    // Each takes 3 s alone.
    assert!(apart.as_millis() < 2000, "one had to wait for the other: {apart:?}");
    let body = hello(r#""model":"c""#);
    let mut hung = open(server.address, "POST", CHAT, body.len());
    hung.write_all(body.as_bytes()).unwrap();
    wait_until("the step that hangs runs", || server.model("c")["running"] == 1);
    let began = Instant::now();
    while server.get("/health/ready").status == 200 {
        server.ask(TEXT, &text("a", 8, ""));
        assert!(began.elapsed().as_secs() < 18, "the engine that hangs is not seen");
    }
    server.ask(TEXT, &text("a", 8, ""));
    assert!(began.elapsed().as_secs() < 18, "the others had to wait until it went on");
    assert_eq!(server.get("/health").json()["status"], "stalled");
}

#[test]
fn operators_alone_load_and_unload() {
    let folder = tempfile::tempdir().unwrap();
    let operator = add_key(&folder, "operator", &[Scope::Ops], KeyLimits::default());
    let client = add_key(&folder, "client", &[Scope::Infer], KeyLimits::default());
    let models = vec![model("a", ""), model("org/b", "")];
    let server = start_in(folder, models, RegistryOptions::default());
    for verb in ["load", "unload", "reload"] {
        let path = format!("/ops/v1/models/org/b/{verb}");
        assert_eq!(server.post(&path, "").status, 401, "{verb}");
        assert_eq!(server.post_with(&client, &path, "").status, 403, "{verb}");
        let reply = server.post_with(&operator, &path, "");
        let expect = if verb == "unload" { "unloaded" } else { "loaded" };
        assert_eq!((reply.status, &reply.json()["state"]), (200, &expect.into()), "{verb}");
    }
    assert_eq!(server.get_with(&client, "/ops/v1/models").status, 403);
    for path in ["/ops/v1/models/org/b/burn", "/ops/v1/models/a", "/ops/v1/models/c/load"] {
        assert_eq!(server.post_with(&operator, path, "").status, 404, "{path}");
    }
    let listed = server.get_with(&client, "/v1/models/org/b");
    assert_eq!((listed.status, &listed.json()["state"]), (200, &"loaded".into()));
}

#[test]
fn a_server_that_stops_finishes_the_answers_of_all_engines() {
    let models = vec![model("a", "delay_us=2000,seed=1"), model("b", "delay_us=2000,seed=2")];
    let mut server = start(models, RegistryOptions::default());
    let streams = [stream(&server, "a", 200), stream(&server, "b", 200)];
    server.stop();
    for mut stream in streams {
        let rest = read_until(&mut stream, "[DONE]");
        assert!(rest.contains("\"finish_reason\":\"length\""), "{rest}");
    }
    server.wait().unwrap();
    let reader = lm_ops::Reader::open(&server.folder.path().join("store.db")).unwrap();
    let report = lm_ops::Doctor::examine(&reader, std::time::SystemTime::now()).unwrap();
    assert_eq!(report.runs[0].run.model, "a, b");
    assert_eq!(report.stored.releases, 2);
}
