//! A server on the placeholder, asked over real sockets by a client that knows HTTP/1.1 only.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod client;
mod guarding;
mod leaving;
mod keyed;
mod limits;
mod observing;
mod refusals;
mod strangers;
mod streams;
mod tls;
mod wedged;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lastmile::{ModelSource, Runtime, RuntimeConfig};
use lm_ops::{Ops, Store, StoreOptions};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{ServeError, ServerConfig, bind, serve};
use client::{Reply, exchange};

struct Server {
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
        let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
        let ops = Ops::new(store);
        let address = "127.0.0.1:0".parse().unwrap();
        let mut config = ServerConfig { address, ..ServerConfig::default() };
        let mut model = RuntimeConfig::new(ModelSource::placeholder(placeholder).unwrap());
        model.observer = ops.observer();
        change(&mut config, &mut model);
        let runtime = Arc::new(Runtime::start(model).unwrap());
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let tokio = tokio.unwrap();
        let listener = tokio.block_on(bind(&config)).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // A test that drops its server stops it, too.
            drop(stopped.await);
        };
        let served =
            tokio.spawn(serve(listener, Arc::clone(&runtime), ops.clone(), config, shutdown));
        let (stop, served) = (Some(stop), Some(served));
        Server { address, runtime, ops, stop, served, tokio, folder }
    }

    fn get(&self, path: &str) -> Reply {
        exchange(self.address, "GET", path, "")
    }

    fn post(&self, path: &str, body: &str) -> Reply {
        exchange(self.address, "POST", path, body)
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

/// Counters have no event to wait for, so they are looked at until they are as wanted.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited 20 s until {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A chat whose one message is "hello world", with these further fields.
fn hello(fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{"messages":[{{"role":"user","content":"hello world"}}]{comma}{fields}}}"#)
}
