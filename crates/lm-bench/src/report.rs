//! A run as JSON with the keys of `vllm bench serve`, and as its table.
//!
//! Start reading at [`Report`].

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde_json::{Map, Value, json};

use crate::{Metric, Metrics, Run};

/// What was asked for, as results name it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Year to second, as in `20261123-140000`.
    pub date: String,
    /// A name for the result.
    pub label: String,
    /// The name of the model.
    pub model_id: String,
    /// Where requests went.
    pub base_url: String,
    /// `None`: each prompt's own.
    pub endpoint: Option<String>,
    /// Where prompts came from.
    pub dataset_name: String,
    /// Requests per second; `None` is no limit.
    pub request_rate: Option<f64>,
    /// The shape of the gaps' distribution.
    pub burstiness: f64,
    /// Requests in flight at once.
    pub max_concurrency: Option<usize>,
    /// Whatever the caller wants to remember.
    pub metadata: Vec<(String, String)>,
    /// Latencies whose distribution is reported.
    pub metrics: Vec<Metric>,
    /// Percentiles of those.
    pub percentiles: Vec<f64>,
}

/// A run, summed up.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What was asked for.
    pub facts: &'a Facts,
    /// What was measured.
    pub run: &'a Run,
    /// Its sums.
    pub metrics: &'a Metrics,
}

impl Report<'_> {
    /// One JSON object. `detailed` adds what is known of each request.
    #[must_use]
    pub fn json(&self, detailed: bool) -> Value {
        let (facts, metrics) = (self.facts, self.metrics);
        let mut result = json!({
            "date": facts.date,
            "endpoint_type": "openai",
            "label": facts.label,
            "model_id": facts.model_id,
            "base_url": facts.base_url,
            "endpoint": facts.endpoint,
            "dataset_name": facts.dataset_name,
            "num_prompts": self.run.outputs.len(),
            "request_rate": facts.request_rate.map_or(json!("inf"), |rate| json!(rate)),
            "burstiness": facts.burstiness,
            "max_concurrency": facts.max_concurrency,
            "duration": metrics.duration_s,
            "completed": metrics.completed,
            "completed_without_text": metrics.n_without_text,
            "failed": metrics.failed,
            "failures": self.failures(),
            "total_input_tokens": metrics.total_input_tokens,
            "total_output_tokens": metrics.total_output_tokens,
            "cached_tokens": metrics.cached_tokens,
            "token_counts": self.counted(),
            "request_throughput": metrics.request_throughput(),
            "request_goodput": metrics.request_goodput(),
            "output_throughput": metrics.output_throughput(),
            "total_token_throughput": metrics.total_token_throughput(),
            "max_output_tokens_per_s": metrics.max_output_tokens_per_s,
            "max_concurrent_requests": metrics.max_concurrent_requests,
            "client_cpu_seconds": self.run.client_cpu_s,
            "server_cpu_seconds": self.run.server_cpu_s,
            "server_cpu_us_per_token": self.server_cpu_us_per_token(),
        });
        let object = result.as_object_mut().expect("it is an object: this is a bug");
        for (name, value) in &facts.metadata {
            object.entry(name).or_insert_with(|| json!(value));
        }
        for metric in &facts.metrics {
            self.add_spread(object, *metric);
        }
        if detailed {
            self.add_details(object);
        }
        result
    }

    /// Microseconds of the server's CPU for each answer token.
    #[must_use]
    pub fn server_cpu_us_per_token(&self) -> Option<f64> {
        let tokens = self.metrics.total_output_tokens.max(1) as f64;
        self.run.server_cpu_s.map(|seconds| seconds * 1e6 / tokens)
    }

    /// How often each reason made a request fail.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for error in self.run.outputs.iter().filter_map(|output| output.error.as_deref()) {
            *reasons.entry(error).or_insert(0) += 1;
        }
        reasons
    }

    /// Who counted tokens.
    fn counted(&self) -> &'static str {
        match self.metrics.n_counted_by_chunks {
            0 => "usage",
            n if n == self.metrics.completed => "chunks",
            _ => "usage, else chunks",
        }
    }

    fn add_spread(&self, object: &mut Map<String, Value>, metric: Metric) {
        let (key, spread) = (metric.key(), self.metrics.spread(metric));
        let mut add = |name: &str, value| object.insert(format!("{name}_{key}_ms"), json!(value));
        add("mean", spread.mean());
        add("median", spread.percentile(50.0));
        add("std", spread.std());
        for percent in &self.facts.percentiles {
            add(&format!("p{percent}"), spread.percentile(*percent));
        }
    }

    fn add_details(&self, object: &mut Map<String, Value>) {
        let outputs = &self.run.outputs;
        object.insert("input_lens".to_owned(), json!(self.metrics.input_lens));
        object.insert("output_lens".to_owned(), json!(self.metrics.output_lens));
        let mut add = |name: &str, value: fn(&crate::Output) -> Value| {
            object.insert(name.to_owned(), outputs.iter().map(value).collect());
        };
        add("start_times", |output| json!(output.start_s));
        // As vLLM has it, of a request that failed before its first token it is 0.
        add("ttfts", |output| json!(output.ttft_s.or(output.error.as_ref().map(|_| 0.0))));
        add("itls", |output| json!(output.itls_s));
        add("generated_texts", |output| json!(output.text));
        add("errors", |output| json!(output.error.as_deref().unwrap_or("")));
    }
}

/// The table, 50 columns wide.
impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (facts, metrics) = (self.facts, self.metrics);
        writeln!(f, "{:=^50}", " Serving Benchmark Result ")?;
        line(f, "Successful requests:", metrics.completed)?;
        line(f, "Failed requests:", metrics.failed)?;
        if let Some(limit) = facts.max_concurrency {
            line(f, "Maximum request concurrency:", limit)?;
        }
        if let Some(rate) = facts.request_rate {
            number(f, "Request rate configured (RPS):", rate)?;
        }
        number(f, "Benchmark duration (s):", metrics.duration_s)?;
        line(f, "Total input tokens:", metrics.total_input_tokens)?;
        line(f, "Total generated tokens:", metrics.total_output_tokens)?;
        number(f, "Request throughput (req/s):", metrics.request_throughput())?;
        if let Some(goodput) = metrics.request_goodput() {
            number(f, "Request goodput (req/s):", goodput)?;
        }
        number(f, "Output token throughput (tok/s):", metrics.output_throughput())?;
        number(f, "Peak output token throughput (tok/s):", metrics.max_output_tokens_per_s)?;
        line(f, "Peak concurrent requests:", metrics.max_concurrent_requests)?;
        number(f, "Total Token throughput (tok/s):", metrics.total_token_throughput())?;
        if let Some(micros) = self.server_cpu_us_per_token() {
            number(f, "Server CPU per output token (us):", micros)?;
        }
        for metric in &facts.metrics {
            let (name, spread) = (metric.key().to_uppercase(), metrics.spread(*metric));
            writeln!(f, "{:-^50}", metric.title())?;
            number(f, &format!("Mean {name} (ms):"), spread.mean())?;
            number(f, &format!("Median {name} (ms):"), spread.percentile(50.0))?;
            for percent in &facts.percentiles {
                number(f, &format!("P{percent} {name} (ms):"), spread.percentile(*percent))?;
            }
        }
        writeln!(f, "{:=<50}", "")?;
        if metrics.n_counted_by_chunks > 0 {
            let n = metrics.n_counted_by_chunks;
            writeln!(f, "The server did not count the tokens of {n} answers; their chunks are.")?;
        }
        if metrics.n_without_text > 0 {
            let n = metrics.n_without_text;
            writeln!(f, "{n} answers ended without text; they have no time to a first token.")?;
        }
        for (reason, n) in self.failures() {
            writeln!(f, "failed {n} times: {reason}")?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "{name:<40} {value:<9}")
}

fn number(f: &mut fmt::Formatter<'_>, name: &str, value: f64) -> fmt::Result {
    line(f, name, format_args!("{value:.2}"))
}
