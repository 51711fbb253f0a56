//! `lastmile serve`: a model over HTTP until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use lastmile::Runtime;
use lm_ops::{Ops, Privacy, Store, StoreOptions};
use lm_server::{ServeError, ServerConfig, bind};

use crate::args::{PrivacyArg, ServeArgs};
use crate::doctor::store_path;
use crate::model::{home, runtime_config, start};
use crate::outcome::{Outcome, WrongUse, human_bytes};

pub(crate) fn serve(args: &ServeArgs) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let server = ServerConfig {
        address: SocketAddr::new(args.host, args.port),
        insecure: args.insecure,
        strict: args.strict,
        max_body_bytes: args.max_body_bytes,
        shutdown_timeout: Duration::from_secs(args.shutdown_timeout),
        ..ServerConfig::default()
    };
    let tokio = tokio::runtime::Runtime::new().context("cannot start the server's threads")?;
    // The address is taken before the model is loaded: a port that is in use is said at once.
    let listener = tokio.block_on(bind(&server)).map_err(|error| match error {
        ServeError::NotLoopback { .. } => anyhow::Error::from(WrongUse(error.to_string())),
        other => other.into(),
    })?;
    let address = listener.local_addr()?;
    let mut config = runtime_config(&args.model.model, &args.model.run)?;
    if let Some(name) = &args.served_model_name {
        config.served_name = Some(name.clone());
    }
    let privacy = match args.privacy {
        PrivacyArg::Full => Privacy::Full,
        PrivacyArg::Off => Privacy::Off,
    };
    let store_path = store_path(home()?.path());
    let options = StoreOptions { privacy, ..StoreOptions::default() };
    let ops = Ops::new(Store::open(&store_path, options)?);
    config.observer = ops.observer();
    let runtime = Arc::new(start(config)?);
    banner(args, &runtime, address, started.elapsed());
    tokio.block_on(async {
        let shutdown = stop_signal()?;
        lm_server::serve(listener, runtime, ops, server, shutdown).await?;
        anyhow::Ok(())
    })?;
    Ok(Outcome::Done)
}

/// What an operator wants to see first. Standard error, as the logs.
fn banner(args: &ServeArgs, runtime: &Runtime, address: SocketAddr, took: Duration) {
    let (info, sampling) = (runtime.info(), runtime.default_sampling());
    let backend = &info.backend;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (weights, kv) = (human_bytes(backend.weights_bytes), human_bytes(backend.kv_bytes));
    let positions = backend.n_blocks * backend.block_size;
    let (route, body) = if info.has_chat_template {
        ("chat/completions", r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#)
    } else {
        ("completions", r#"{"prompt": "Once upon a time", "max_tokens": 50}"#)
    };
    let kept = match args.privacy {
        PrivacyArg::Full => "prompts and answers for 14 days; --privacy off keeps numbers only",
        PrivacyArg::Off => "numbers, no text",
    };
    eprintln!("lastmile {}, ready after {:.1} s", env!("CARGO_PKG_VERSION"), took.as_secs_f64());
    eprintln!("  model     {} on {}", info.name, backend.kernel_path);
    eprintln!("  release   {}", info.release_hash);
    eprintln!("  context   {} tokens", backend.max_model_len);
    eprintln!("  memory    weights {weights}, KV cache {kv} for {positions} tokens");
    eprintln!("  threads   {threads}");
    eprintln!(
        "  sampling  temperature {}, top_p {} by default",
        sampling.temperature, sampling.top_p
    );
    eprintln!("  store     keeps {kept}");
    eprintln!("  listening on http://{address}");
    eprintln!("\n  curl http://{address}/v1/{route} -H 'content-type: application/json' \\");
    eprintln!("    -d '{body}'\n");
}

/// Resolves at SIGTERM or Ctrl-C. The handlers are in place when this returns.
#[cfg(unix)]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without a handler the system ends the process itself.
            std::future::pending::<()>().await;
        }
    })
}
