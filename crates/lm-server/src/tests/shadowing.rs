//! Candidates that have another model are in nobody's way.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lastmile::{Configure, Declared, ModelSource, RegistryOptions, RuntimeConfig};
use lm_ops::{Experiments, Ops, Overrides, Spec, Store, StoreOptions, now_ms};
use serde_json::Value;

use super::{CHAT, Server, key_file, wait_until};
use crate::{Access, ServerConfig};

/// Copies of what `b` answers are for `c`.
const SPEC: &str = r#"
name = "copied"
owner = "ana@example.com"
reason = "another model"
model = "b"
[candidate]
model = "c"
[goal]
metric = "not_failure"
"#;

const BODY: &str = r#"{"model":"b","messages":[{"role":"user","content":"hi"}],"max_tokens":4}"#;

fn model(name: &str) -> Declared {
    let config = RuntimeConfig::new(ModelSource::placeholder("").unwrap());
    let configure: Configure = Arc::new(move || Ok(config.clone()));
    Declared { name: name.to_owned(), aliases: Vec::new(), configure }
}

/// With an experiment. The first model is the test's own, and never idle.
fn start(spec: &str, candidate: Declared, max_loaded: usize) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let overrides = Overrides::open(&folder.path().join("overrides.db"), &store).unwrap();
    let file = folder.path().join("experiments.db");
    let experiments = Experiments::open(&file, &[], &store).unwrap();
    let spec = Spec::parse(spec).unwrap();
    experiments.act(|book| book.start(&spec, "ana", now_ms())).unwrap();
    let ops = Ops::new(store).with_overrides(overrides).with_experiments(experiments);
    let config =
        ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    let access = Access { key_file: Some(key_file(&folder)), ..Access::default() };
    access.load_keys(&ops).unwrap();
    let models = vec![model("a"), model("b"), candidate];
    let options = RegistryOptions { max_loaded: Some(max_loaded), ..RegistryOptions::default() };
    Server::start_models(folder, models, options, config, access, ops)
}

/// What operators see of each model.
fn models(server: &Server) -> [Value; 3] {
    let all = server.get("/ops/v1/models").json();
    [0, 1, 2].map(|i| all["models"][i].clone())
}

#[test]
fn a_candidate_is_loaded_for_copies_only_where_no_model_has_to_go() {
    let mut server = start(SPEC, model("c"), 2);
    wait_until("copies found no model", || {
        server.ask(CHAT, BODY);
        let shadow = server.get("/ops/v1/experiments").json()["shadow"].clone();
        shadow["unavailable"].as_u64().unwrap() >= 2
    });
    // Nobody asks now: time enough for it to take the place of what is idle.
    std::thread::sleep(Duration::from_secs(1));
    let [_, b, c] = models(&server);
    assert_eq!((&b["state"], &b["loads"]), (&Value::from("loaded"), &Value::from(1)), "{b}");
    assert_eq!(c["state"], "unloaded", "{c}");
    server.stop();
    server.wait().unwrap();
    let server = start(SPEC, model("c"), 3);
    wait_until("the candidate is loaded", || {
        server.ask(CHAT, BODY);
        models(&server)[2]["state"] == "loaded"
    });
    assert_eq!(models(&server)[1]["loads"], 1);
}

#[test]
fn nobody_waits_for_a_candidate_that_lost_ten_in_a_row() {
    let (open, opened): (Sender<()>, Receiver<()>) = channel();
    let opened = Mutex::new(opened);
    let config = RuntimeConfig::new(ModelSource::placeholder("").unwrap());
    let configure: Configure = Arc::new(move || {
        // Until the test ends.
        let _told = opened.lock().unwrap_or_else(PoisonError::into_inner).recv();
        Ok(config.clone())
    });
    let candidate = Declared { configure, ..model("c") };
    let spec = SPEC.replace("[candidate]", "from = \"50\"\nunit = \"request\"\n[candidate]");
    let server = start(&spec, candidate, 3);
    let experiments = server.ops.experiments().unwrap();
    (0..10).for_each(|_| experiments.lost("copied", "it is being loaded", now_ms()));
    let began = Instant::now();
    // Half of them are the candidate's, each of which would wait for 5 s.
    (0..20).for_each(|_| drop(server.ask(CHAT, BODY)));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    drop(open);
}
