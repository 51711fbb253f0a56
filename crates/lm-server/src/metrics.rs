//! `GET /metrics`. The names are an API: the `vllm:` ones are what routers scrape without being
//! told, the `lastmile_` ones are this server's own.
//!
//! It must never wait for the engine or read the store's file.
//!
//! Start reading at [`metrics`].

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use lastmile::{ModelInfo, StatsSnapshot};

use crate::app::App;
use crate::exposition::{Exposition, Label};
use crate::metrics_cache::prefix_cache;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let (stats, info) = (app.runtime.stats(), app.runtime.info());
    let mut page = Exposition::default();
    let model = [("model_name", info.name.as_str())];
    engine(&mut page, &stats, &model);
    kv_cache(&mut page, &stats, info, &model);
    prefix_cache(&mut page, &stats, &model);
    outcomes(&mut page, &stats, &model);
    scheduling(&mut page, &stats, &model);
    latencies(&mut page, &stats, &model);
    process(&mut page, &stats, info);
    server(&mut page, &app);
    store(&mut page, &app);
    ([(CONTENT_TYPE, TEXT_FORMAT)], page.into_text()).into_response()
}

/// The same value by its own name and by the one that routers know.
fn both(
    page: &mut Exposition,
    names: [&str; 2],
    kind: &str,
    help: &str,
    model: &[Label<'_>],
    value: impl std::fmt::Display,
) {
    for name in names {
        page.single(name, kind, help, model, &value);
    }
}

fn engine(page: &mut Exposition, stats: &StatsSnapshot, model: &[Label<'_>]) {
    let running = ["lastmile_requests_running", "vllm:num_requests_running"];
    both(page, running, "gauge", "Answers that hold KV blocks.", model, stats.n_running);
    let waiting = ["lastmile_requests_waiting", "vllm:num_requests_waiting"];
    both(page, waiting, "gauge", "Answers that wait for admission.", model, stats.n_waiting);
    let prompt = ["lastmile_prompt_tokens_total", "vllm:prompt_tokens_total"];
    both(page, prompt, "counter", "Prompt tokens of ended answers.", model, stats.prompt_tokens);
    let generated = ["lastmile_generation_tokens_total", "vllm:generation_tokens_total"];
    both(page, generated, "counter", "Tokens generated.", model, stats.generation_tokens);
    let queries = ["lastmile_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"];
    let help = "Prompt tokens looked up in the prefix cache.";
    both(page, queries, "counter", help, model, stats.prefix_query_tokens);
    let hits = ["lastmile_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"];
    let help = "Prompt tokens found in the prefix cache.";
    both(page, hits, "counter", help, model, stats.prefix_hit_tokens);
    let preemptions = ["lastmile_preemptions_total", "vllm:num_preemptions_total"];
    both(page, preemptions, "counter", "Sequences preempted.", model, stats.preemptions);
}

fn kv_cache(page: &mut Exposition, stats: &StatsSnapshot, info: &ModelInfo, model: &[Label<'_>]) {
    let held = stats.n_blocks.saturating_sub(stats.n_free_blocks);
    let fraction = held as f64 / stats.n_blocks.max(1) as f64;
    let names = ["lastmile_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc"];
    both(page, names, "gauge", "KV blocks held, 1 is all.", model, fraction);
    let (block_size, n_blocks) =
        (info.backend.block_size.to_string(), info.backend.n_blocks.to_string());
    let labels: Vec<Label<'_>> = model
        .iter()
        .copied()
        .chain([
            ("block_size", block_size.as_str()),
            ("num_gpu_blocks", n_blocks.as_str()),
            ("cache_dtype", info.backend.kv_type),
        ])
        .collect();
    let help = "Shape of the KV cache; num_gpu_blocks counts blocks wherever they lie.";
    page.single("vllm:cache_config_info", "gauge", help, &labels, 1);
    let help = "KV blocks in the pool.";
    page.single("lastmile_kv_blocks", "gauge", help, model, stats.n_blocks);
    let help = "KV blocks that nobody holds.";
    page.single("lastmile_kv_blocks_free", "gauge", help, model, stats.n_free_blocks);
}

fn outcomes(page: &mut Exposition, stats: &StatsSnapshot, model: &[Label<'_>]) {
    let with =
        |name, value| -> Vec<Label<'_>> { model.iter().copied().chain([(name, value)]).collect() };
    for name in ["lastmile_requests_finished_total", "vllm:request_success_total"] {
        page.family(name, "counter", "Answers that ended without an error, by why.");
        for (reason, n) in stats.finished {
            page.sample(name, &with("finished_reason", reason.as_str()), n);
        }
    }
    let name = "lastmile_request_errors_total";
    page.family(name, "counter", "Answers that were refused or failed, by code.");
    for &(code, n) in &stats.failed {
        page.sample(name, &with("code", code), n);
    }
}

fn scheduling(page: &mut Exposition, stats: &StatsSnapshot, model: &[Label<'_>]) {
    let with =
        |name, value| -> Vec<Label<'_>> { model.iter().copied().chain([(name, value)]).collect() };
    let name = "lastmile_requests_rejected_total";
    page.family(name, "counter", "Requests that the queue refused, by what was short.");
    for reason in ["queue_requests", "queue_tokens", "deadline", "max_queue"] {
        let n = stats.rejected.iter().find(|(found, _)| *found == reason).map_or(0, |(_, n)| *n);
        page.sample(name, &with("reason", reason), n);
    }
    let name = "lastmile_requests_expired_total";
    page.family(name, "counter", "Answers whose time limit passed, by where they were.");
    page.sample(name, &with("stage", "waiting"), stats.expired_waiting);
    page.sample(name, &with("stage", "running"), stats.expired_running);
    let help = "Sequences that lost their slot for a while and kept their blocks.";
    page.single("lastmile_pauses_total", "counter", help, model, stats.pauses);
    let help = "Prompt tokens that wait for their first step.";
    page.single("lastmile_queued_tokens", "gauge", help, model, stats.queued_tokens);
    let help = "What was predicted of the last step.";
    page.single(
        "lastmile_predicted_step_seconds",
        "gauge",
        help,
        model,
        stats.predicted_step_seconds,
    );
    let help = "Recent mean of |predicted - measured| / measured of a step.";
    page.single(
        "lastmile_step_prediction_error_ratio",
        "gauge",
        help,
        model,
        stats.step_error_ratio,
    );
    let help = "How far the predicted duration of a step was off.";
    page.histogram("lastmile_step_prediction_error_seconds", help, model, &stats.step_error);
    let help = "How far the first token was from the time predicted at arrival.";
    page.histogram("lastmile_ttft_prediction_error_seconds", help, model, &stats.ttft_error);
}

fn latencies(page: &mut Exposition, stats: &StatsSnapshot, model: &[Label<'_>]) {
    let all = [
        ("time_to_first_token_seconds", "From arrival to the first token.", &stats.ttft),
        ("inter_token_latency_seconds", "Between tokens of one answer.", &stats.itl),
        ("e2e_request_latency_seconds", "From arrival to the end.", &stats.e2e),
        ("request_queue_time_seconds", "From arrival until first scheduled.", &stats.queue_wait),
    ];
    for (name, help, histogram) in all {
        for prefix in ["lastmile_", "vllm:"] {
            page.histogram(&format!("{prefix}{name}"), help, model, histogram);
        }
    }
    let help = "Duration of an engine step.";
    page.histogram("lastmile_step_seconds", help, model, &stats.step_time);
}

fn process(page: &mut Exposition, stats: &StatsSnapshot, info: &ModelInfo) {
    let mut one = |name: &str, kind: &str, help: &str, value: f64| {
        page.single(name, kind, help, &[], value);
    };
    let help = "CPU time of the process while sequences were active.";
    one("lastmile_cpu_seconds_total", "counter", help, stats.cpu_seconds);
    one("lastmile_steps_total", "counter", "Engine steps executed.", stats.steps as f64);
    let help = "Engine steps in which the backend failed.";
    one("lastmile_failed_steps_total", "counter", help, stats.failed_steps as f64);
    let help = "Since the engine last went round its loop.";
    one("lastmile_heartbeat_age_seconds", "gauge", help, stats.heartbeat_age.as_secs_f64());
    let help = "Since the engine started.";
    one("lastmile_uptime_seconds", "gauge", help, stats.uptime.as_secs_f64());
    let help = "Bytes of resident weights.";
    one("lastmile_weights_bytes", "gauge", help, info.backend.weights_bytes as f64);
    one("lastmile_kv_bytes", "gauge", "Bytes of the KV pool.", info.backend.kv_bytes as f64);
    let release = info.release_hash.to_string();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("model_name", info.name.as_str()),
        ("release", release.as_str()),
        ("kernel_path", info.backend.kernel_path.as_str()),
    ];
    page.single("lastmile_build_info", "gauge", "What runs.", &labels, 1);
}

fn server(page: &mut Exposition, app: &App) {
    let draining = u8::from(app.is_draining());
    page.single("lastmile_draining", "gauge", "1 while the server drains.", &[], draining);
    let help = "Times that the engine stood still.";
    page.single("lastmile_engine_stalls_total", "counter", help, &[], app.n_stalls());
    let required = u8::from(app.access.keys.is_required());
    page.single("lastmile_keys_required", "gauge", "1 when requests need a key.", &[], required);
    let name = "lastmile_key_denials_total";
    page.family(name, "counter", "Requests that were turned away for their key, by code.");
    for (code, n) in app.denials.all() {
        page.sample(name, &[("code", code)], n);
    }
    let name = "lastmile_http_requests_total";
    page.family(name, "counter", "HTTP responses that ended, by route and status.");
    for ((route, status), n) in app.http.all() {
        let status = status.to_string();
        page.sample(name, &[("route", route.as_str()), ("status", status.as_str())], n);
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
}
