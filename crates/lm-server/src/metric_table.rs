//! What `/metrics` says of each model: one line for each name.
//!
//! It must never hold logic beyond reading a counter. A name that is here is an API: it stays.
//!
//! Start reading at [`NUMBERS`].

use lastmile::{HistogramSnapshot, ModelInfo, Runtime, StatsSnapshot};

/// A model and its counters at one moment.
pub(crate) struct Served<'a> {
    pub(crate) info: &'a ModelInfo,
    pub(crate) stats: StatsSnapshot,
}

impl<'a> Served<'a> {
    /// The counters of `runtime` as they are now.
    pub(crate) fn now(runtime: &'a Runtime) -> Self {
        Served { info: runtime.info(), stats: runtime.stats() }
    }
}

/// A counter or gauge.
pub(crate) struct Number {
    /// Ours, without the prefix.
    name: &'static str,
    /// The same value as vLLM calls it.
    vllm: Option<&'static str>,
    pub(crate) kind: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: fn(&Served<'_>) -> f64,
}

/// A distribution of durations.
pub(crate) struct Durations {
    name: &'static str,
    vllm: Option<&'static str>,
    pub(crate) help: &'static str,
    pub(crate) value: fn(&StatsSnapshot) -> &HistogramSnapshot,
}

impl Number {
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        names(self.name, self.vllm)
    }
}

impl Durations {
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        names(self.name, self.vllm)
    }
}

fn names(own: &str, vllm: Option<&str>) -> impl Iterator<Item = String> {
    std::iter::once(format!("lastmile_{own}")).chain(vllm.map(|name| format!("vllm:{name}")))
}

const fn gauge(
    name: &'static str,
    vllm: Option<&'static str>,
    help: &'static str,
    value: fn(&Served<'_>) -> f64,
) -> Number {
    Number { name, vllm, kind: "gauge", help, value }
}

const fn counter(
    name: &'static str,
    vllm: Option<&'static str>,
    help: &'static str,
    value: fn(&Served<'_>) -> f64,
) -> Number {
    Number { name, vllm, kind: "counter", help, value }
}

/// Counters and gauges of a model.
pub(crate) const NUMBERS: &[Number] = &[
    gauge("requests_running", Some("num_requests_running"), "Answers that hold KV blocks.", |m| {
        m.stats.n_running as f64
    }),
    gauge(
        "requests_waiting",
        Some("num_requests_waiting"),
        "Answers that wait for admission.",
        |m| m.stats.n_waiting as f64,
    ),
    gauge("queued_tokens", None, "Prompt tokens that wait for their first step.", |m| {
        m.stats.queued_tokens as f64
    }),
    gauge(
        "kv_cache_usage_ratio",
        Some("kv_cache_usage_perc"),
        "KV blocks held, 1 is all.",
        kv_usage,
    ),
    gauge("kv_blocks", None, "KV blocks in the pool.", |m| m.stats.n_blocks as f64),
    gauge("kv_blocks_free", None, "KV blocks that nobody holds.", |m| m.stats.n_free_blocks as f64),
    gauge("weights_bytes", None, "Bytes of resident weights.", |m| {
        m.info.backend.weights_bytes as f64
    }),
    gauge("kv_bytes", None, "Bytes of the KV pool.", |m| m.info.backend.kv_bytes as f64),
    counter(
        "prompt_tokens_total",
        Some("prompt_tokens_total"),
        "Prompt tokens of ended answers.",
        |m| m.stats.prompt_tokens as f64,
    ),
    counter("generation_tokens_total", Some("generation_tokens_total"), "Tokens generated.", |m| {
        m.stats.generation_tokens as f64
    }),
    counter(
        "prefix_cache_queries_total",
        Some("prefix_cache_queries_total"),
        "Prompt tokens looked up in the prefix cache.",
        |m| m.stats.prefix_query_tokens as f64,
    ),
    counter(
        "prefix_cache_hits_total",
        Some("prefix_cache_hits_total"),
        "Prompt tokens found in the prefix cache.",
        |m| m.stats.prefix_hit_tokens as f64,
    ),
    counter("preemptions_total", Some("num_preemptions_total"), "Sequences preempted.", |m| {
        m.stats.preemptions as f64
    }),
    counter(
        "spec_decode_drafts_total",
        Some("spec_decode_num_drafts_total"),
        "Times that guesses of a sequence's next tokens were verified.",
        |m| m.stats.drafts as f64,
    ),
    counter(
        "spec_decode_draft_tokens_total",
        Some("spec_decode_num_draft_tokens_total"),
        "Tokens that were guessed ahead.",
        |m| m.stats.draft_tokens as f64,
    ),
    counter(
        "spec_decode_accepted_tokens_total",
        Some("spec_decode_num_accepted_tokens_total"),
        "Guessed tokens that were right.",
        |m| m.stats.accepted_tokens as f64,
    ),
    counter(
        "spec_decode_form_draft_tokens_total",
        None,
        "Guessed tokens that the form of an answer suggested.",
        |m| m.stats.form_draft_tokens as f64,
    ),
    counter(
        "spec_decode_form_accepted_tokens_total",
        None,
        "Those of them that were right.",
        |m| m.stats.form_accepted_tokens as f64,
    ),
    counter(
        "pauses_total",
        None,
        "Sequences that lost their slot for a while and kept their blocks.",
        |m| m.stats.pauses as f64,
    ),
    counter("steps_total", None, "Engine steps that were computed to their end.", |m| {
        m.stats.steps as f64
    }),
    counter("failed_steps_total", None, "Engine steps in which the backend failed.", |m| {
        m.stats.failed_steps as f64
    }),
    counter(
        "cpu_seconds_total",
        None,
        "CPU time of the process while sequences were active.",
        |m| m.stats.cpu_seconds,
    ),
    gauge("predicted_step_seconds", None, "What was predicted of the last step.", |m| {
        m.stats.predicted_step_seconds
    }),
    gauge(
        "step_prediction_error_ratio",
        None,
        "Recent mean of |predicted - measured| / measured of a step.",
        |m| m.stats.step_error_ratio,
    ),
    gauge("heartbeat_age_seconds", None, "Since the engine last went round its loop.", |m| {
        m.stats.heartbeat_age.as_secs_f64()
    }),
    gauge("engine_died", None, "1 when the engine's thread panicked; only a restart helps.", |m| {
        f64::from(u8::from(m.stats.died))
    }),
    gauge("uptime_seconds", None, "Since the engine started.", |m| m.stats.uptime.as_secs_f64()),
];

/// Distributions of a model.
pub(crate) const HISTOGRAMS: &[Durations] = &[
    Durations {
        name: "time_to_first_token_seconds",
        vllm: Some("time_to_first_token_seconds"),
        help: "From arrival to the first token.",
        value: |stats| &stats.ttft,
    },
    Durations {
        name: "inter_token_latency_seconds",
        vllm: Some("inter_token_latency_seconds"),
        help: "Between tokens of one answer.",
        value: |stats| &stats.itl,
    },
    Durations {
        name: "time_per_output_token_seconds",
        vllm: Some("request_time_per_output_token_seconds"),
        help: "Mean time of an answer's tokens after the first.",
        value: |stats| &stats.tpot,
    },
    Durations {
        name: "e2e_request_latency_seconds",
        vllm: Some("e2e_request_latency_seconds"),
        help: "From arrival to the end.",
        value: |stats| &stats.e2e,
    },
    Durations {
        name: "request_queue_time_seconds",
        vllm: Some("request_queue_time_seconds"),
        help: "From arrival until first scheduled.",
        value: |stats| &stats.queue_wait,
    },
    Durations {
        name: "step_seconds",
        vllm: None,
        help: "Duration of an engine step.",
        value: |stats| &stats.step_time,
    },
    Durations {
        name: "step_prediction_error_seconds",
        vllm: None,
        help: "How far the predicted duration of a step was off.",
        value: |stats| &stats.step_error,
    },
    Durations {
        name: "ttft_prediction_error_seconds",
        vllm: None,
        help: "How far the first token was from the time predicted at arrival.",
        value: |stats| &stats.ttft_error,
    },
];

fn kv_usage(model: &Served<'_>) -> f64 {
    let held = model.stats.n_blocks.saturating_sub(model.stats.n_free_blocks);
    held as f64 / model.stats.n_blocks.max(1) as f64
}
