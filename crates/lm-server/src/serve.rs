//! The life of the server: listen, serve, drain, stop.
//!
//! It must never install a signal handler: when to stop is an argument.
//!
//! Start reading at [`serve`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lastmile::Registry;
use lm_ops::Ops;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout};

use crate::access::keep_current;
use crate::app::App;
use crate::connections::serve_connections;
use crate::registry::Models;
use crate::watchdog::watch;
use crate::{Access, ServeError, ServerConfig, idle, panel, response_cache, routes, steer};

/// How long connections may take to hand over what is written, once all answers have ended.
const CLOSING: Duration = Duration::from_secs(5);

/// Serves until `shutdown` resolves, then drains: new work is refused with 503 while running
/// answers finish within the timeout; then the engine ends, the store is written out, and this
/// returns.
///
/// # Errors
/// The listener is broken.
pub async fn serve(
    listener: TcpListener,
    models: Registry,
    ops: Ops,
    config: ServerConfig,
    access: Access,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    // With port 0 only the listener knows.
    let config = ServerConfig { address: listener.local_addr()?, ..config };
    let scheme = if access.tls.is_some() { "https://" } else { "" };
    begin_run(&models, &ops, format!("{scheme}{}", config.address)).await;
    let (manager, tls) = (Arc::clone(&access.service_manager), access.tls.clone());
    let app =
        Arc::new(App::new(Models::new(models, ops.clone()), ops.clone(), config.clone(), access));
    // Both end with this.
    let mut beside = JoinSet::new();
    beside.spawn(keep_current(Arc::clone(&app)));
    beside.spawn(watch(Arc::clone(&app)));
    beside.spawn(panel::watch(Arc::clone(&app)));
    beside.spawn(steer::obey(Arc::clone(&app)));
    beside.spawn(response_cache::watch(Arc::clone(&app)));
    beside.spawn(response_cache::watch_verdicts(Arc::clone(&app)));
    let weak = Arc::downgrade(&app);
    std::thread::Builder::new().name("lm-idle".to_owned()).spawn(move || idle::run(&weak))?;
    let router = routes::router(Arc::clone(&app));
    let peers = Arc::clone(&app.peers);
    let drained = Arc::new(Notify::new());
    let is_drained = Arc::clone(&drained);
    let stop = async move {
        shutdown.await;
        app.access.service_manager.say_stopping();
        drain(&app).await;
        is_drained.notify_one();
    };
    // Until all is drained, connections are taken in, and their requests are told so.
    let config = Arc::new(config);
    let served = serve_connections(listener, router, &config, tls, peers, stop);
    manager.say_ready();
    let closing = async {
        drained.notified().await;
        tokio::time::sleep(CLOSING).await;
    };
    tokio::select! {
        () = served => {}
        () = closing => tracing::warn!("connections that did not close in time were dropped"),
    }
    match spawn_blocking(move || ops.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the store did not close well"),
        Err(error) => tracing::error!(%error, "closing the store panicked"),
    }
    Ok(())
}

/// A store that cannot write is no reason not to serve.
async fn begin_run(models: &Registry, ops: &Ops, address: String) {
    let (ops, status) = (ops.clone(), models.status());
    let names: Vec<String> = status.iter().map(|model| model.name.clone()).collect();
    let loaded: Vec<_> = status.into_iter().filter_map(|model| model.runtime).collect();
    let begun = spawn_blocking(move || {
        let infos: Vec<_> = loaded.iter().map(|runtime| runtime.info()).collect();
        ops.begin_run(&infos, &names.join(", "), &address)
    });
    match begun.await {
        Ok(Ok(run)) => tracing::debug!(run, "the run is noted in the store"),
        Ok(Err(error)) => tracing::error!(%error, "the run could not be noted in the store"),
        Err(error) => tracing::error!(%error, "noting the run panicked"),
    }
}

/// Refuses new work, waits for what runs, and ends the engine.
async fn drain(app: &Arc<App>) {
    app.begin_drain();
    app.idle.make_way();
    let limit = app.config.shutdown_timeout;
    let begun = Instant::now();
    let all = u32::try_from(app.config.max_open_requests).unwrap_or(u32::MAX);
    tracing::info!(timeout_s = limit.as_secs(), "draining");
    if timeout(limit, app.open_requests.acquire_many(all)).await.is_err() {
        tracing::warn!("answers that did not finish in time end with an error");
    }
    // What is left is worked out by subtraction: no timeout is too large to be added to a time.
    let left = limit.saturating_sub(begun.elapsed());
    let app = Arc::clone(app);
    if let Err(error) = spawn_blocking(move || app.models.shutdown(left)).await {
        tracing::error!(%error, "shutting down the engines panicked");
    }
}
