//! An hour of each model, at a point every two seconds.
//!
//! It must never grow: points beyond an hour, and models that are not served any more, are
//! forgotten. A model takes half a megabyte at most.
//!
//! Start reading at [`History::observe`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lastmile::{HistogramSnapshot, ModelInfo, StatsSnapshot};
use serde::Serialize;

use crate::{Latency, ModelNow};

/// How often a model is looked at.
pub const TICK: Duration = Duration::from_secs(2);
/// Points that are kept: an hour.
const N_POINTS: usize = 1800;
/// Ticks over which latencies are taken: a minute.
const N_LATENCY_TICKS: usize = 30;
/// Ticks over which rates are taken: ten seconds.
const N_RATE_TICKS: usize = 5;

/// What has been, by model.
#[derive(Debug, Default)]
pub struct History {
    models: BTreeMap<String, Course>,
}

/// One model's course.
#[derive(Debug, Default)]
struct Course {
    recent: VecDeque<StatsSnapshot>,
    points: VecDeque<Point>,
}

/// One model at one moment; rates and percentiles are of the two seconds before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// Tokens generated in a second.
    pub generation_tokens_per_s: f32,
    /// Prompt tokens of ended answers in a second.
    pub prompt_tokens_per_s: f32,
    /// Answers that ended well in a second.
    pub finished_per_s: f32,
    /// Answers that were refused or failed in a second.
    pub errors_per_s: f32,
    /// Answers that hold KV blocks.
    pub running: f32,
    /// Answers that wait for admission.
    pub waiting: f32,
    /// Blocks held, 1 is all.
    pub kv_usage: f32,
    /// Cores in use.
    pub cpu_cores: f32,
    /// From arrival to the first token, half are at most this; `None` when there was none.
    pub ttft_p50_ms: Option<f32>,
    /// 99 of 100.
    pub ttft_p99_ms: Option<f32>,
    /// Between tokens of one answer, half are at most this.
    pub gap_p50_ms: Option<f32>,
    /// 99 of 100.
    pub gap_p99_ms: Option<f32>,
}

impl History {
    /// Takes in a model's counters as they are at `at_ms`, in Unix milliseconds, a [`TICK`] after the
    /// last time. Returns the state that is to be shown.
    pub fn observe(&mut self, at_ms: i64, info: &ModelInfo, stats: StatsSnapshot) -> ModelNow {
        let course = self.models.entry(info.name.clone()).or_default();
        // A model that was loaded again counts from zero.
        if course.recent.back().is_some_and(|last| stats.uptime < last.uptime) {
            course.recent.clear();
        }
        let now = state(info, &stats, &course.recent);
        if let Some(last) = course.recent.back() {
            if course.points.len() == N_POINTS {
                course.points.pop_front();
            }
            course.points.push_back(point(at_ms, &stats, last));
        }
        if course.recent.len() == N_LATENCY_TICKS {
            course.recent.pop_front();
        }
        course.recent.push_back(stats);
        now
    }

    /// Forgets the models that are not named.
    pub fn keep_only(&mut self, names: &[&str]) {
        self.models.retain(|name, _| names.contains(&name.as_str()));
    }

    /// The points of a model since `since_ms`, oldest first; `None` when it is not served.
    #[must_use]
    pub fn points(&self, model: &str, since_ms: i64) -> Option<Vec<Point>> {
        let course = self.models.get(model)?;
        Some(course.points.iter().filter(|point| point.at_ms >= since_ms).copied().collect())
    }

    /// The first model by name.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.models.keys().next().map(String::as_str)
    }
}

fn state(info: &ModelInfo, stats: &StatsSnapshot, recent: &VecDeque<StatsSnapshot>) -> ModelNow {
    let backend = &info.backend;
    let minute = recent.front();
    let rates = recent.get(recent.len().saturating_sub(N_RATE_TICKS)).map(|r| Rates::of(stats, r));
    let rates = rates.unwrap_or_default();
    let latency = |of: fn(&StatsSnapshot) -> &HistogramSnapshot| {
        let all = of(stats);
        let newer = minute.map(|minute| all.since(of(minute)));
        percentiles(newer.as_ref().unwrap_or(all))
    };
    let queried = |s: &StatsSnapshot| (s.prefix_query_tokens, s.prefix_hit_tokens);
    let (queries, hits) = (queried(stats), minute.map_or((0, 0), queried));
    let asked = queries.0.saturating_sub(hits.0);
    let found = queries.1.saturating_sub(hits.1);
    ModelNow {
        name: info.name.clone(),
        kernel_path: backend.kernel_path.clone(),
        release: info.release_hash.to_string(),
        kv_type: backend.kv_type.to_owned(),
        max_model_len: backend.max_model_len as u64,
        uptime_s: stats.uptime.as_secs_f64(),
        running: stats.n_running,
        waiting: stats.n_waiting,
        queued_tokens: stats.queued_tokens,
        kv_blocks: stats.n_blocks,
        kv_blocks_free: stats.n_free_blocks,
        kv_block_size: backend.block_size as u64,
        kv_usage: kv_usage(stats),
        weights_bytes: backend.weights_bytes,
        kv_bytes: backend.kv_bytes,
        generation_tokens_per_s: rates.generation_tokens,
        prompt_tokens_per_s: rates.prompt_tokens,
        finished_per_s: rates.finished,
        errors_per_s: rates.errors,
        cpu_cores: rates.cpu,
        cpu_s_per_1k_tokens: (rates.generation_tokens > 0.0)
            .then(|| 1000.0 * rates.cpu / rates.generation_tokens),
        ttft_ms: latency(|s| &s.ttft),
        gap_ms: latency(|s| &s.itl),
        queue_ms: latency(|s| &s.queue_wait),
        e2e_ms: latency(|s| &s.e2e),
        prefix_hit_ratio: (asked > 0).then(|| found as f64 / asked as f64),
        step_error_ratio: stats.step_error_ratio,
        generation_tokens: stats.generation_tokens,
        prompt_tokens: stats.prompt_tokens,
        finished: finished(stats),
        errors: errors(stats),
        rejected: stats.rejected.iter().map(|(_, n)| n).sum(),
        preemptions: stats.preemptions,
        cpu_seconds: stats.cpu_seconds,
    }
}

fn point(at_ms: i64, stats: &StatsSnapshot, last: &StatsSnapshot) -> Point {
    let rates = Rates::of(stats, last);
    let ttft = percentiles(&stats.ttft.since(&last.ttft));
    let gap = percentiles(&stats.itl.since(&last.itl));
    Point {
        at_ms,
        generation_tokens_per_s: rates.generation_tokens as f32,
        prompt_tokens_per_s: rates.prompt_tokens as f32,
        finished_per_s: rates.finished as f32,
        errors_per_s: rates.errors as f32,
        running: stats.n_running as f32,
        waiting: stats.n_waiting as f32,
        kv_usage: kv_usage(stats) as f32,
        cpu_cores: rates.cpu as f32,
        ttft_p50_ms: ttft.map(|latency| latency.p50 as f32),
        ttft_p99_ms: ttft.map(|latency| latency.p99 as f32),
        gap_p50_ms: gap.map(|latency| latency.p50 as f32),
        gap_p99_ms: gap.map(|latency| latency.p99 as f32),
    }
}

/// Changes in a second.
#[derive(Clone, Copy, Default)]
struct Rates {
    generation_tokens: f64,
    prompt_tokens: f64,
    finished: f64,
    errors: f64,
    cpu: f64,
}

impl Rates {
    fn of(stats: &StatsSnapshot, before: &StatsSnapshot) -> Rates {
        let seconds = stats.uptime.saturating_sub(before.uptime).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            generation_tokens: rate(stats.generation_tokens, before.generation_tokens),
            prompt_tokens: rate(stats.prompt_tokens, before.prompt_tokens),
            finished: rate(finished(stats), finished(before)),
            errors: rate(errors(stats), errors(before)),
            cpu: (stats.cpu_seconds - before.cpu_seconds).max(0.0) / seconds,
        }
    }
}

fn kv_usage(stats: &StatsSnapshot) -> f64 {
    let held = stats.n_blocks.saturating_sub(stats.n_free_blocks);
    held as f64 / stats.n_blocks.max(1) as f64
}

fn finished(stats: &StatsSnapshot) -> u64 {
    stats.finished.iter().map(|(_, n)| n).sum()
}

fn errors(stats: &StatsSnapshot) -> u64 {
    stats.failed.iter().map(|(_, n)| n).sum()
}

fn percentiles(histogram: &HistogramSnapshot) -> Option<Latency> {
    let ms = |q| Some(histogram.quantile(q)? * 1000.0);
    Some(Latency { p50: ms(0.5)?, p99: ms(0.99)?, n: histogram.count() })
}
