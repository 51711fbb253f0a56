//! A server on the placeholder, asked over real sockets by a client that knows HTTP/1.1 only.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod caching;
mod client;
mod confiding;
mod costing;
mod described;
mod dialects;
mod dry_running;
mod echoing;
mod encoding;
mod evading;
mod guarding;
mod idling;
mod ingesting;
mod keyed;
mod leaving;
mod limits;
mod looping;
mod observing;
mod overriding;
mod paneling;
mod reasoning;
mod refusals;
mod several;
mod shadowing;
mod strangers;
mod streams;
mod switching;
mod tls;
mod tokens;
#[cfg(unix)]
mod wedged;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lastmile::{
    Configure, Declared, ModelSource, Registry, RegistryOptions, Runtime, RuntimeConfig,
};
use lm_keys::{KeyFile, KeyLimits, NewKey, Scope};
use lm_ops::{Calibrations, Datasets, FeedbackLoop, Ops, Overrides, Store, StoreOptions};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{Access, ServeError, ServerConfig, bind, charging, serve};
use client::{Reply, exchange, exchange_with};

struct Server {
    access: Access,
    address: SocketAddr,
    runtime: Arc<Runtime>,
    ops: Ops,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<Result<(), ServeError>>>,
    tokio: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(placeholder: &str) -> Server {
        Server::start_with(placeholder, |_, _| {})
    }

    fn start_with(
        placeholder: &str,
        change: impl FnOnce(&mut ServerConfig, &mut RuntimeConfig),
    ) -> Server {
        let folder = tempfile::tempdir().unwrap();
        Server::start_in(folder, placeholder, |config, model, _| change(config, model))
    }

    /// Serves with the store and the keys of a folder.
    fn start_in(
        folder: tempfile::TempDir,
        placeholder: &str,
        change: impl FnOnce(&mut ServerConfig, &mut RuntimeConfig, &mut Access),
    ) -> Server {
        Server::start_by(folder, placeholder, StoreOptions::default(), change)
    }

    /// Serves with the store and the keys of a folder.
    fn start_by(
        folder: tempfile::TempDir,
        placeholder: &str,
        options: StoreOptions,
        change: impl FnOnce(&mut ServerConfig, &mut RuntimeConfig, &mut Access),
    ) -> Server {
        let store = Store::open(&folder.path().join("store.db"), options).unwrap();
        let overrides = Overrides::open(&folder.path().join("overrides.db"), &store).unwrap();
        let the_loop = FeedbackLoop::new(folder.path().join("feedback.db"), &store);
        let ops = Ops::new(store)
            .with_overrides(overrides)
            .with_feedback_loop(the_loop)
            .with_datasets(Datasets::new(folder.path().join("data")))
            .with_calibrations(calibrations(&folder));
        let address = "127.0.0.1:0".parse().unwrap();
        let mut config = ServerConfig { address, ..ServerConfig::default() };
        let mut model = RuntimeConfig::new(ModelSource::placeholder(placeholder).unwrap());
        let mut access = Access { key_file: Some(key_file(&folder)), ..Access::default() };
        model.observer = charging(Arc::clone(&access.keys), ops.prices().clone(), ops.observer());
        change(&mut config, &mut model, &mut access);
        access.load_keys(&ops).unwrap();
        let name = model.served_name.clone().unwrap_or_else(|| "placeholder".to_owned());
        let configure: Configure = Arc::new(move || Ok(model.clone()));
        let declared = vec![Declared { name, aliases: Vec::new(), configure }];
        Server::start_models(folder, declared, RegistryOptions::default(), config, access, ops)
    }

    /// Serves these models; the first one is loaded.
    fn start_models(
        folder: tempfile::TempDir,
        declared: Vec<Declared>,
        options: RegistryOptions,
        config: ServerConfig,
        access: Access,
        ops: Ops,
    ) -> Server {
        let models = Registry::new(declared, options).unwrap();
        let runtime = models.load(None).unwrap();
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let tokio = tokio.unwrap();
        let listener = tokio.block_on(async { bind(&config, &access.keys) }).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // A test that drops its server stops it, too.
            drop(stopped.await);
        };
        let keys = access.clone();
        let served = tokio.spawn(serve(listener, models, ops.clone(), config, access, shutdown));
        let (stop, served) = (Some(stop), Some(served));
        Server { access: keys, address, runtime, ops, stop, served, tokio, folder }
    }

    fn get(&self, path: &str) -> Reply {
        exchange(self.address, "GET", path, "")
    }

    fn post(&self, path: &str, body: &str) -> Reply {
        exchange(self.address, "POST", path, body)
    }

    /// Asks with a key.
    fn get_with(&self, key: &str, path: &str) -> Reply {
        exchange_with(self.address, "GET", path, &format!("x-api-key: {key}\r\n"), "")
    }

    fn post_with(&self, key: &str, path: &str, body: &str) -> Reply {
        let line = format!("Authorization: Bearer {key}\r\n");
        exchange_with(self.address, "POST", path, &line, body)
    }

    /// Ends the server and leaves its folder.
    fn end(mut self) -> tempfile::TempDir {
        self.stop();
        self.wait().unwrap();
        self.folder
    }

    /// The JSON of an answer that must succeed.
    #[track_caller]
    fn ask(&self, path: &str, body: &str) -> Value {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    /// Tells the server to stop.
    fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the server has returned.
    fn wait(&mut self) -> Result<(), ServeError> {
        self.tokio.block_on(self.served.take().unwrap()).unwrap()
    }

    #[track_caller]
    fn wait_for_running(&self, n_running: u64, n_waiting: u64) {
        wait_until("the engine has the wanted numbers of answers", || {
            let stats = self.runtime.stats();
            (stats.n_running, stats.n_waiting) == (n_running, n_waiting)
        });
    }
}

fn key_file(folder: &tempfile::TempDir) -> KeyFile {
    KeyFile::new(folder.path().join("keys.json"))
}

fn calibrations(folder: &tempfile::TempDir) -> Calibrations {
    Calibrations::new(folder.path().join("confidence"))
}

/// A folder with one key of these scopes and limits, and the key.
fn folder_with_key(scopes: &[Scope], limits: KeyLimits) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let key = add_key(&folder, "one", scopes, limits);
    (folder, key)
}

fn add_key(folder: &tempfile::TempDir, name: &str, scopes: &[Scope], limits: KeyLimits) -> String {
    let (name, scopes) = (name.to_owned(), scopes.to_vec());
    let new = NewKey { name, scopes, expires_at: None, limits };
    key_file(folder).create(new, crate::now().unix_s).unwrap().1
}

/// Counters have no event to wait for, so they are looked at until they are as wanted.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited 120 s until {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Budgets are of a day, which must not end in the middle of a test.
fn begin_within_a_day() {
    let left_s = 86_400 - crate::now().unix_s % 86_400;
    if left_s < 60 {
        std::thread::sleep(Duration::from_secs(left_s + 1));
    }
}

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A chat whose one message is "hello world", with these further fields.
fn hello(fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{"messages":[{{"role":"user","content":"hello world"}}]{comma}{fields}}}"#)
}
