//! `lastmile serve`: a model over HTTP until it is told to stop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use lastmile::{EncoderOutput, Registry, Runtime};
use lm_data::{DataHome, InboxLimits};
use lm_keys::KeyRing;
use lm_ops::{
    Datasets, Experiments, FeedbackLoop, Ingests, MonitorOptions, Monitors, Ops, Overrides, Sinks,
    Store,
};
use lm_server::{Access, ServeError, ServerConfig, ServiceManager, Tls, bind, charging, now};

use crate::args::ServeArgs;
use crate::confidence::calibrations;
use crate::data::{data_folder, token_counter};
use crate::doctor::FailedStart;
use crate::exp::experiment_path;
use crate::keys::key_file;
use crate::model::home;
use crate::net_args::NetArgs;
use crate::outcome::{Outcome, WrongUse, human_bytes};
use crate::overrides::override_path;
use crate::recorder::{RecorderServeArgs, recording};
use crate::served::{Shared, load_default, registry};
use crate::signals;
use crate::store::mask_key;
use crate::store_books::{book_place, book_places, warn_of_left_behind};
use crate::traces::Traces;

/// What waits for alert sinks is kept within this, when the server ends.
const CLOSING: Duration = Duration::from_secs(2);

pub(crate) fn serve(args: &ServeArgs) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let server = ServerConfig {
        address: SocketAddr::new(args.host, args.port),
        insecure: args.insecure,
        strict: args.strict,
        max_body_bytes: args.max_body_bytes,
        shutdown_timeout: Duration::from_secs(args.shutdown_timeout),
        max_connections: args.net.max_connections,
        max_connections_per_address: args.net.max_connections_per_address,
        max_open_body_bytes: args.net.max_open_body_bytes,
        write_timeout: Duration::from_secs(args.net.write_timeout),
        allowed_hosts: args.net.allowed_host.clone(),
        cors_origins: args.net.cors_origin.clone(),
        state_folder: Some(home()?.path().to_owned()),
        probe_interval: Duration::from_secs(args.recorder.probe_interval),
        response_cache: args.cache.responses(),
        ..ServerConfig::default()
    };
    let access = access(args)?;
    let traces = Traces::start(&args.net.traces)?;
    let tokio = tokio::runtime::Runtime::new().context("cannot start the server's threads")?;
    // The address is taken before the model is loaded: a port that is in use is said at once.
    // The handler comes first: a hangup while the model loads must not end the process.
    tokio.block_on(async { signals::reload_at_hangup(&access) })?;
    let bound = tokio.block_on(async { bind(&server, &access.keys) });
    let listener = bound.map_err(|error| match error {
        ServeError::NotLoopback { .. } | ServeError::InvalidOption { .. } => {
            anyhow::Error::from(WrongUse(error.to_string()))
        }
        other => other.into(),
    })?;
    let address = listener.local_addr()?;
    let home_path = home()?.path().to_owned();
    let ops = traces.counted(operations(args, &home_path)?);
    let monitors = ops.monitors().cloned();
    access.load_keys(&ops)?;
    let observer =
        traces.of(charging(Arc::clone(&access.keys), ops.prices().clone(), ops.observer()));
    let shared =
        Shared { observer, disk_cache: args.cache.config(), request_bytes: server.request_bytes() };
    let declared = registry(&args.model, args.served_model_name.as_deref(), &shared);
    let loaded = declared.and_then(|models| {
        let runtime = load_default(&models)?;
        Ok((models, runtime))
    });
    FailedStart::note(&home_path, loaded.as_ref().err());
    let (models, runtime) = loaded?;
    banner(args, &runtime, &access, address, started.elapsed());
    others(&models);
    drop(runtime);
    let served = tokio.block_on(async {
        let shutdown = signals::stop()?;
        lm_server::serve(listener, models, ops, server, access, shutdown).await?;
        anyhow::Ok(())
    });
    // A model that is still being loaded is not waited for.
    tokio.shutdown_timeout(Duration::from_secs(1));
    traces.finish();
    monitors.iter().for_each(|monitors| monitors.close_sinks(CLOSING));
    served?;
    Ok(Outcome::Done)
}

/// What runs beside the engine, on the files of a home.
fn operations(args: &ServeArgs, home: &Path) -> anyhow::Result<Ops> {
    let options = args.store.options(args.host, args.prices.prices(), mask_key(home));
    let privacy = options.privacy;
    let place = args.store.place(home);
    let book = book_place(home, &place);
    let store = Store::open(&place, options)?;
    let overrides = Overrides::open(&override_path(home), &store)?;
    warn_of_left_behind(home, &place);
    let books = book_places(home, &place);
    let experiments = Experiments::open(&experiment_path(home), &books, &store)?;
    let ingests = ingests(&args.net, home)?;
    let feedback_loop = FeedbackLoop::new(book, &store);
    let ops = Ops::new(store)
        .with_overrides(overrides)
        .with_experiments(experiments)
        .with_feedback_loop(feedback_loop)
        .with_datasets(Datasets::new(data_folder(home)))
        .with_calibrations(calibrations(home))
        .with_ingests(ingests);
    watched(recording(ops, &args.recorder, privacy)?, &args.recorder, home)
}

/// What takes rows for the datasets of a home.
fn ingests(args: &NetArgs, home: &Path) -> anyhow::Result<Ingests> {
    let (body_bytes, size_bytes) = (args.max_ingest_bytes, args.max_ingest_backlog_bytes);
    if body_bytes > size_bytes {
        let text = format!(
            "--max-ingest-bytes is {body_bytes}, but must be at most --max-ingest-backlog-bytes, \
             {size_bytes}"
        );
        return Err(WrongUse(text).into());
    }
    let limits = InboxLimits { body_bytes, size_bytes, ..InboxLimits::default() };
    let started = Ingests::start(DataHome(home.join("data")), limits, token_counter());
    started.context("cannot start the thread that adds rows")
}

/// Who gets in, as far as it is known before the store is open.
fn access(args: &ServeArgs) -> anyhow::Result<Access> {
    let keys = KeyRing::default();
    let file = key_file(&home()?);
    // Their meters come with the store; that there are any decides where to listen.
    if file.read()?.is_some_and(|records| !records.is_empty()) {
        keys.require();
    }
    if let Some(key) = &args.net.api_key {
        keys.set_fixed(key, now()).map_err(|error| WrongUse(format!("--api-key: {error}")))?;
    }
    let tls = match (&args.net.tls_cert, &args.net.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::load(certificate, key)?)),
        _ => None,
    };
    Ok(Access {
        keys: Arc::new(keys),
        key_file: Some(file),
        tls,
        service_manager: Arc::new(ServiceManager::from_env()),
        ..Access::default()
    })
}

/// With monitors, unless they are off, and with those who are told of alerts.
fn watched(ops: Ops, args: &RecorderServeArgs, home: &Path) -> anyhow::Result<Ops> {
    let settings = args.alerts.settings()?;
    let n_baseline = args.monitor_baseline;
    if n_baseline == 0 {
        let what = "--monitor-baseline is 0, but --alert-webhook and --alert-command need monitors";
        return if settings.is_empty() { Ok(ops) } else { Err(WrongUse(what.to_owned()).into()) };
    }
    let sinks = match settings.is_empty() {
        true => None,
        false => Some(Sinks::start(settings, &home.join("alerts"))?),
    };
    let folder = home.join("monitors");
    let renotify = Duration::from_secs(args.alerts.alert_renotify);
    let monitors = Monitors::start(MonitorOptions { folder, n_baseline, renotify, sinks });
    Ok(ops.with_monitors(monitors.context("cannot start the monitors")?))
}

/// The models besides the default one, and what all may take.
fn others(models: &Registry) {
    let all = models.status();
    let (ceiling, planned) = models.memory();
    if let (true, Some(ceiling)) = (all.len() > 1, ceiling) {
        let (planned, ceiling) = (human_bytes(planned), human_bytes(ceiling));
        eprintln!("  ledger    {planned} of {ceiling} are planned for what is loaded");
    }
    for model in &all {
        let state = if model.runtime.is_some() { "loaded" } else { "loaded when asked for" };
        let also = model.aliases.join(", ");
        match (all.len() > 1, model.aliases.is_empty()) {
            (_, false) => eprintln!("  serves    {} (also {also}): {state}", model.name),
            (true, true) => eprintln!("  serves    {}: {state}", model.name),
            (false, true) => {}
        }
    }
}

/// What an operator wants to see first. Standard error, as the logs.
fn banner(
    args: &ServeArgs,
    runtime: &Runtime,
    access: &Access,
    address: SocketAddr,
    took: Duration,
) {
    let (info, sampling) = (runtime.info(), runtime.default_sampling());
    let backend = &info.backend;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (weights, kv) = (human_bytes(backend.weights_bytes), human_bytes(backend.kv_bytes));
    let positions = backend.n_blocks * backend.block_size;
    let (route, body) = if let Some(encoder) = &info.encoder {
        match encoder.spec.output {
            EncoderOutput::Vector { .. } => ("embeddings", r#"{"input": "Hello!"}"#),
            EncoderOutput::Labels { .. } => ("classify", r#"{"input": "Hello!"}"#),
        }
    } else if info.has_chat_template {
        ("chat/completions", r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#)
    } else {
        ("completions", r#"{"prompt": "Once upon a time", "max_tokens": 50}"#)
    };
    let kept = args.store.kept(args.host);
    eprintln!("lastmile {}, ready after {:.1} s", env!("CARGO_PKG_VERSION"), took.as_secs_f64());
    eprintln!("  model     {} on {}", info.name, backend.kernel_path);
    eprintln!("  release   {}", info.release_hash);
    eprintln!("  context   {} tokens", backend.max_model_len);
    match &info.encoder {
        Some(_) => eprintln!("  memory    weights {weights}; an encoder keeps nothing of a text"),
        None => eprintln!("  memory    weights {weights}, KV cache {kv} for {positions} tokens"),
    }
    eprintln!("  threads   {threads}");
    if info.encoder.is_none() {
        let (temperature, top_p) = (sampling.temperature, sampling.top_p);
        eprintln!("  sampling  temperature {temperature}, top_p {top_p} by default");
    }
    eprintln!("  store     keeps {kept}");
    let scheme = if access.tls.is_some() { "https" } else { "http" };
    let (who, header) = match (access.keys.is_required(), args.insecure) {
        (true, _) => ("whoever has one of this home's keys", " -H \"x-api-key: $KEY\""),
        (false, true) => ("anybody: --insecure", ""),
        (false, false) => ("anybody on this machine", ""),
    };
    eprintln!("  answers   {who}");
    eprintln!("  listening on {scheme}://{address}");
    eprintln!(
        "\n  curl {scheme}://{address}/v1/{route}{header} -H 'content-type: application/json' \\"
    );
    eprintln!("    -d '{body}'\n");
}
