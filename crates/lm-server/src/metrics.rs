//! `GET /metrics`. The names are an API: the `vllm:` ones are what routers scrape without being
//! told, the `lastmile_` ones are this server's own, and `gen_ai` says which of them are
//! OpenTelemetry's.
//!
//! It must never wait for the engine or read the store's file. Each family is written once, with a
//! sample for each model.
//!
//! Start reading at [`metrics`], then at the tables of `metric_table`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use lastmile::HistogramSnapshot;

use crate::app::App;
use crate::exposition::{Exposition, Label};
use crate::metric_table::{HISTOGRAMS, NUMBERS, Served};
use crate::metrics_cache::prefix_cache;
use crate::{costs, gen_ai, idle, metrics_ingest, model_metrics, response_cache};

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let runtimes = app.models.loaded();
    let models: Vec<Served<'_>> = runtimes.iter().map(|runtime| Served::now(runtime)).collect();
    let mut page = Exposition::default();
    of_models(&mut page, &models);
    prefix_cache(&mut page, &models);
    gen_ai::write(&mut page, &models);
    model_metrics::write(&mut page, &app);
    costs::write(&mut page, &app, &models);
    response_cache::write(&mut page, &app);
    server(&mut page, &app);
    idle_work(&mut page, &app);
    store(&mut page, &app);
    traces(&mut page, &app);
    metrics_ingest::write(&mut page, &app);
    ([(CONTENT_TYPE, TEXT_FORMAT)], page.into_text()).into_response()
}

/// Everything that each model has of its own.
fn of_models(page: &mut Exposition, models: &[Served<'_>]) {
    for number in NUMBERS {
        for name in number.names() {
            page.family(&name, number.kind, number.help);
            for model in models {
                page.sample(&name, &labels_of(&name, model), (number.value)(model));
            }
        }
    }
    for table in HISTOGRAMS {
        for name in table.names() {
            page.family(&name, "histogram", table.help);
            for model in models {
                let histogram: &HistogramSnapshot = (table.value)(&model.stats);
                page.histogram(&name, &labels_of(&name, model), histogram);
            }
        }
    }
    facts(page, models);
    outcomes(page, models);
}

/// vLLM numbers its engines; each model here has one.
fn labels_of<'a>(name: &str, model: &'a Served<'_>) -> Vec<Label<'a>> {
    let mut labels = vec![("model_name", model.info.name.as_str())];
    if name.starts_with("vllm:") {
        labels.push(("engine", "0"));
    }
    labels
}

/// Facts about a model as labels; the value is always 1.
fn facts(page: &mut Exposition, models: &[Served<'_>]) {
    let name = "vllm:cache_config_info";
    let help = "Shape of the KV cache; num_gpu_blocks counts blocks wherever they lie.";
    page.family(name, "gauge", help);
    for model in models {
        let backend = &model.info.backend;
        let (block_size, n_blocks) = (backend.block_size.to_string(), backend.n_blocks.to_string());
        let mut labels = labels_of(name, model);
        labels.extend([
            ("block_size", block_size.as_str()),
            ("num_gpu_blocks", n_blocks.as_str()),
            ("cache_dtype", backend.kv_type),
        ]);
        page.sample(name, &labels, 1);
    }
    let name = "lastmile_build_info";
    page.family(name, "gauge", "What runs.");
    for model in models {
        let release = model.info.release_hash.to_string();
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("model_name", model.info.name.as_str()),
            ("release", release.as_str()),
            ("kernel_path", model.info.backend.kernel_path.as_str()),
        ];
        page.sample(name, &labels, 1);
    }
}

/// How answers ended. Reasons that are known beforehand are there from the start, at 0.
fn outcomes(page: &mut Exposition, models: &[Served<'_>]) {
    for name in ["lastmile_requests_finished_total", "vllm:request_success_total"] {
        page.family(name, "counter", "Answers that ended without an error, by why.");
        for model in models {
            for (reason, n) in model.stats.finished {
                let mut labels = labels_of(name, model);
                labels.push(("finished_reason", reason.as_str()));
                page.sample(name, &labels, n);
            }
        }
    }
    let name = "lastmile_request_errors_total";
    page.family(name, "counter", "Answers that were refused or failed, by code.");
    for model in models {
        for &(code, n) in &model.stats.failed {
            page.sample(name, &[("model_name", model.info.name.as_str()), ("code", code)], n);
        }
    }
    let name = "lastmile_requests_rejected_total";
    page.family(name, "counter", "Requests that the queue refused, by what was short.");
    for model in models {
        for reason in ["queue_requests", "queue_tokens", "deadline", "max_queue"] {
            let found = model.stats.rejected.iter().find(|(found, _)| *found == reason);
            let labels = [("model_name", model.info.name.as_str()), ("reason", reason)];
            page.sample(name, &labels, found.map_or(0, |(_, n)| *n));
        }
    }
    let name = "lastmile_requests_expired_total";
    page.family(name, "counter", "Answers whose time limit passed, by where they were.");
    for model in models {
        let stats = &model.stats;
        for (stage, n) in [("waiting", stats.expired_waiting), ("running", stats.expired_running)] {
            page.sample(name, &[("model_name", model.info.name.as_str()), ("stage", stage)], n);
        }
    }
}

fn server(page: &mut Exposition, app: &App) {
    let draining = u8::from(app.is_draining());
    page.single("lastmile_draining", "gauge", "1 while the server drains.", &[], draining);
    let help = "Times that the wall clock jumped, or the machine slept.";
    page.single("lastmile_clock_jumps_total", "counter", help, &[], app.clock.n_jumps());
    let help = "Times that the engine stood still.";
    page.single("lastmile_engine_stalls_total", "counter", help, &[], app.n_stalls());
    let required = u8::from(app.access.keys.is_required());
    page.single("lastmile_keys_required", "gauge", "1 when requests need a key.", &[], required);
    let limit = app.config.max_open_requests;
    let open = limit.saturating_sub(app.open_requests.available_permits());
    let help = "Requests with a body that are being answered.";
    page.single("lastmile_open_requests", "gauge", help, &[], open);
    let help = "Requests with a body that may be open at once.";
    page.single("lastmile_open_requests_limit", "gauge", help, &[], limit);
    let limit = app.config.max_open_body_bytes;
    let held = limit.saturating_sub(app.body_room.available_permits());
    page.single("lastmile_open_body_bytes", "gauge", "Bytes of open requests' bodies.", &[], held);
    let help = "Bytes that those may have.";
    page.single("lastmile_open_body_bytes_limit", "gauge", help, &[], limit);
    let name = "lastmile_connections_refused_total";
    let help = "Connections of addresses that had too many.";
    page.single(name, "counter", help, &[], app.peers.n_refused());
    let help = "Pages of the dashboard that are told what goes on.";
    page.single("lastmile_live_pages", "gauge", help, &[], app.panel.n_live());
    let name = "lastmile_key_denials_total";
    page.family(name, "counter", "Requests that were turned away for their key, by code.");
    for (code, n) in app.denials.all() {
        page.sample(name, &[("code", code)], n);
    }
    let name = "lastmile_key_limited_total";
    page.family(name, "counter", "Requests of known keys that were turned away, by key and code.");
    for ((key, code), n) in app.limited.all() {
        page.sample(name, &[("key", key.as_str()), ("code", code)], n);
    }
    let name = "lastmile_monitor_alarms_total";
    page.family(name, "counter", "Times that answers were not as usual, by model and signal.");
    for model in app.ops.monitors().map(lm_ops::Monitors::standing).unwrap_or_default() {
        for (signal, n) in &model.alarm_counts {
            page.sample(name, &[("model_name", model.model.as_str()), ("signal", signal)], n);
        }
    }
    let name = "lastmile_alert_messages_total";
    page.family(name, "counter", "Messages to alert sinks, by sink and what became of them.");
    for sink in app.ops.monitors().map(lm_ops::Monitors::sinks).unwrap_or_default() {
        for (outcome, n) in [("delivered", sink.delivered), ("given_up", sink.given_up)] {
            page.sample(name, &[("sink", sink.sink.as_str()), ("outcome", outcome)], n);
        }
    }
    let name = "lastmile_thread_panics_total";
    page.family(name, "counter", "Panics of threads beside the engine, which go on, by thread.");
    for one in app.ops.attendants().into_iter().chain([app.panel.attendant()]) {
        page.sample(name, &[("thread", one.thread)], one.panics);
    }
    let name = "lastmile_probe_runs_total";
    page.family(name, "counter", "Probes that were computed again, by probe and verdict.");
    for (probe, counts) in app.probes.counts() {
        for (verdict, n) in counts {
            page.sample(name, &[("probe", probe.as_str()), ("verdict", verdict)], n);
        }
    }
    let name = "lastmile_http_requests_total";
    page.family(name, "counter", "HTTP responses that ended, by route and status.");
    for ((route, status), n) in app.http.all() {
        let status = status.to_string();
        page.sample(name, &[("route", route.as_str()), ("status", status.as_str())], n);
    }
}

/// What waits until nobody asks.
fn idle_work(page: &mut Exposition, app: &App) {
    let name = "lastmile_idle_overdue_seconds";
    let help = "How long the oldest that is due waits for an idle slot, 0 when none does.";
    page.family(name, "gauge", help);
    for (work, overdue) in idle::overdue(app) {
        page.sample(name, &[("work", work)], overdue.as_secs_f64());
    }
}

/// Where answers are traced.
fn traces(page: &mut Exposition, app: &App) {
    let Some(counts) = app.ops.span_counts() else { return };
    let lm_ops::SpanCounts { exported, dropped, failed, unsampled } = counts;
    let name = "lastmile_otlp_spans_total";
    page.family(name, "counter", "Spans of traces, by what became of them.");
    let outcomes = [
        ("exported", exported),
        ("dropped", dropped),
        ("failed", failed),
        ("unsampled", unsampled),
    ];
    for (outcome, n) in outcomes {
        page.sample(name, &[("outcome", outcome)], n);
    }
}

fn store(page: &mut Exposition, app: &App) {
    let counters = app.ops.counters();
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        page.single(name, kind, help, &[], value);
    };
    one("lastmile_feedback_total", "counter", "Feedback stored.", counters.feedback);
    one("lastmile_store_recorded_total", "counter", "Answers stored.", counters.recorded);
    let help = "Answers not stored because the queue was full.";
    one("lastmile_store_dropped_total", "counter", help, counters.dropped);
    let help = "Answers that were stored already.";
    one("lastmile_store_duplicates_total", "counter", help, counters.duplicates);
    let help = "Writes to the store that failed.";
    one("lastmile_store_write_errors_total", "counter", help, counters.write_errors);
    one("lastmile_store_queue_len", "gauge", "Entries that wait.", counters.queue_len);
    let help = "Entries that may wait.";
    one("lastmile_store_queue_capacity", "gauge", help, counters.queue_capacity);
    if let Some(flight) = app.ops.recorder_counters() {
        let help = "Steps and answers that the flight recorder wrote.";
        one("lastmile_recorder_recorded_total", "counter", help, flight.recorded);
        let help = "Steps and answers that it had no room for, or could not write.";
        one("lastmile_recorder_dropped_total", "counter", help, flight.dropped);
    }
    let name = "lastmile_store_slowest_commit_seconds";
    let help = "Longest commit to the store in the last minute or two, the one that runs included.";
    page.single(name, "gauge", help, &[], counters.slowest_commit_ms as f64 / 1e3);
}
