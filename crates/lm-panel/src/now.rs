//! The state of a server at one moment, as JSON says it and as pages and terminals read it.
//!
//! It must never hold a prompt or an answer.
//!
//! Start reading at [`Now`].

use serde::{Deserialize, Serialize};

use crate::Alert;

/// `GET /ops/v1/now`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Now {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// What the server says of itself.
    pub server: ServerNow,
    /// The models that are served.
    pub models: Vec<ModelNow>,
    /// What records.
    pub store: StoreNow,
    /// What somebody should look at, most urgent first.
    pub alerts: Vec<Alert>,
    /// The newest failed answers, newest first.
    pub last_errors: Vec<RecentError>,
}

/// The process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerNow {
    /// The version of the program.
    pub version: String,
    /// `ok`, `draining`, `stalled` or `died`.
    pub status: String,
    /// Requests with a body that are being answered.
    pub open_requests: u64,
    /// How many may be.
    pub open_requests_limit: u64,
    /// Times that an engine stood still.
    pub stalls: u64,
    /// Requests turned away for their key.
    pub key_denials: u64,
    /// The last jump of the wall clock; `None` when there was none since the start.
    #[serde(default)]
    pub clock_jump: Option<ClockJump>,
    /// Bytes that all models were planned to take.
    #[serde(default)]
    pub memory_planned_bytes: u64,
    /// Bytes that they may take; `None` where nobody says.
    #[serde(default)]
    pub memory_ceiling_bytes: Option<u64>,
    /// Bytes of the process in memory; `None` where the system does not say.
    pub resident_bytes: Option<u64>,
    /// Probes that are not what they were, or could not be computed.
    #[serde(default)]
    pub wrong_probes: Vec<ProbeNow>,
    /// What waits for an idle slot.
    #[serde(default)]
    pub overdue: Vec<OverdueNow>,
    /// What is not as usual of the answers of the last hour.
    #[serde(default)]
    pub drifts: Vec<DriftNow>,
    /// Where alerts do not arrive, or did not.
    #[serde(default)]
    pub failing_sinks: Vec<SinkNow>,
    /// Threads beside the engine that panicked, or do not do their work.
    #[serde(default)]
    pub troubled_threads: Vec<ThreadNow>,
    /// Experiments that the evidence ended, and that nothing took the place of.
    #[serde(default)]
    pub rolled_back: Vec<RolledBackNow>,
    /// Experiments that run, and that a person must look at.
    #[serde(default)]
    pub troubled_experiments: Vec<TroubledNow>,
    /// The last answer of the response cache that was another one when it was computed again.
    #[serde(default)]
    pub cache_mismatch: Option<CacheMismatchNow>,
}

/// A thread beside the engine that panicked, or does not do its work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadNow {
    /// Its name.
    pub name: String,
    /// How often it panicked since the start; it goes on after each.
    pub panics: u64,
    /// What the last panic said.
    pub last_panic: String,
    /// Milliseconds since it went round.
    pub idle_ms: u64,
    /// What it cannot do; empty when it can.
    pub failing: String,
    /// For how many milliseconds it could not.
    pub failing_ms: u64,
}

/// An experiment that the evidence ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBackNow {
    /// Its name.
    pub experiment: String,
    /// The model whose requests it was about.
    pub model: String,
    /// How far it was.
    pub stage: String,
    /// Why it was ended.
    pub why: String,
    /// Unix milliseconds.
    pub at_ms: i64,
}

/// An experiment that runs, and whose candidate cannot answer or whose lot is not as drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubledNow {
    /// Its name.
    pub experiment: String,
    /// The model whose requests it is about.
    pub model: String,
    /// How far it is.
    pub stage: String,
    /// What is wrong.
    pub why: String,
}

/// An answer of the response cache that was another one when it was computed again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheMismatchNow {
    /// The request that was told it.
    pub told_to: String,
    /// The request that it was computed for.
    pub computed_by: String,
    /// The first token that differs, from 0.
    pub at: u64,
    /// How many there were since the start.
    pub n: u64,
    /// Whether the backend gives the same bits whatever runs beside.
    #[serde(default)]
    pub is_exact: bool,
}

/// A receiver of alerts that does not take them, or did not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkNow {
    /// Its host, or the program.
    pub to: String,
    /// Alerts that wait for it.
    pub waiting: u64,
    /// Alerts that it never got, since the start.
    pub given_up: u64,
    /// Since when it takes none, in Unix milliseconds.
    pub failing_since_ms: Option<i64>,
    /// Why, the last time.
    pub error: String,
}

/// A signal of a model's answers that is not as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftNow {
    /// The model.
    pub model: String,
    /// Such as `output_tokens`.
    pub signal: String,
    /// `higher`, `lower` or `otherwise distributed`.
    pub how: String,
    /// How many answers ago it began when it was noticed.
    pub began_ago: u64,
    /// Requests that are unlike what is usual, at most five.
    #[serde(default)]
    pub examples: Vec<String>,
    /// Whether another release answers than the one that what is usual is of.
    pub is_other_release: bool,
    /// Whether what is usual was learned in less than two weeks.
    pub is_provisional: bool,
}

/// A probe that is not what it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeNow {
    /// Its name.
    pub name: String,
    /// The model that computed it.
    pub model: String,
    /// The first token that differs, from 0; `None` when it could not be computed.
    pub at: Option<u64>,
    /// What of the release is not as it was.
    pub because: Vec<String>,
    /// Why it could not be computed.
    pub error: String,
}

/// What is computed when nobody asks, and waits for that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverdueNow {
    /// `probe`, or `copy` of an experiment.
    pub work: String,
    /// For how many seconds the oldest waits.
    pub seconds: u64,
}

/// A jump of the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockJump {
    /// By how many seconds, ahead or back.
    pub by_s: i64,
    /// How many seconds ago.
    pub ago_s: u64,
    /// How many there were since the start.
    pub n: u64,
}

/// One model. Rates are over the last ten seconds, latencies over the last minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelNow {
    /// The name that clients ask for.
    pub name: String,
    /// The executor and its numeric path.
    pub kernel_path: String,
    /// The digest of what its answers depend on.
    pub release: String,
    /// How K and V are stored.
    pub kv_type: String,
    /// Longest sequence, prompt and answer together.
    pub max_model_len: u64,
    /// Since its engine started.
    pub uptime_s: f64,
    /// Answers that hold KV blocks.
    pub running: u64,
    /// Answers that wait for admission.
    pub waiting: u64,
    /// Prompt tokens that wait for their first step.
    pub queued_tokens: u64,
    /// KV blocks in the pool.
    pub kv_blocks: u64,
    /// KV blocks that nobody holds.
    pub kv_blocks_free: u64,
    /// Positions in one block.
    pub kv_block_size: u64,
    /// Blocks held, 1 is all.
    pub kv_usage: f64,
    /// Bytes of resident weights.
    pub weights_bytes: u64,
    /// Bytes of the KV pool.
    pub kv_bytes: u64,
    /// Tokens generated in a second.
    pub generation_tokens_per_s: f64,
    /// Prompt tokens of ended answers in a second.
    pub prompt_tokens_per_s: f64,
    /// Answers that ended well in a second.
    pub finished_per_s: f64,
    /// Answers that were refused or failed in a second.
    pub errors_per_s: f64,
    /// Cores in use by the process while its sequences are active.
    pub cpu_cores: f64,
    /// CPU seconds for 1,000 generated tokens; `None` when none came.
    pub cpu_s_per_1k_tokens: Option<f64>,
    /// From arrival to the first token.
    pub ttft_ms: Option<Latency>,
    /// Between tokens of one answer.
    pub gap_ms: Option<Latency>,
    /// From arrival until first scheduled.
    pub queue_ms: Option<Latency>,
    /// From arrival to the end.
    pub e2e_ms: Option<Latency>,
    /// Share of prompt tokens that the prefix cache had, in the last minute.
    pub prefix_hit_ratio: Option<f64>,
    /// Recent mean of |predicted - measured| / measured of a step.
    pub step_error_ratio: f64,
    /// Since start: tokens generated.
    pub generation_tokens: u64,
    /// Since start: prompt tokens of ended answers.
    pub prompt_tokens: u64,
    /// Since start: answers that ended well.
    pub finished: u64,
    /// Since start: answers that were refused or failed.
    pub errors: u64,
    /// Since start: requests that the queue refused.
    pub rejected: u64,
    /// Since start: sequences preempted.
    pub preemptions: u64,
    /// Since start: CPU seconds while sequences were active.
    pub cpu_seconds: f64,
}

/// Percentiles in milliseconds, a fifth off at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// Observations.
    pub n: u64,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreNow {
    /// Answers recorded.
    pub recorded: u64,
    /// Answers not recorded because the queue was full.
    pub dropped: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Entries that wait.
    pub queue_len: u64,
    /// Entries that may wait.
    pub queue_capacity: u64,
    /// The longest commit of the last minute or two, the one that runs included.
    #[serde(default)]
    pub slowest_commit_ms: u64,
}

/// One failed answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentError {
    /// The request.
    pub request_id: String,
    /// Unix milliseconds.
    pub arrived_at_ms: i64,
    /// The model's name as served.
    pub model: String,
    /// The stable word of the error.
    pub code: String,
    /// The error's sentence; `None` when it may quote what is private.
    pub message: Option<String>,
}
