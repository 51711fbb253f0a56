//! Load on a server that speaks OpenAI's API, and what its clients see of it: TTFT, TPOT, ITL, E2EL, throughput and goodput,
//! with the definitions and JSON keys of `vllm bench serve`.
//!
//! It must never know which server it is, nor depend on the engine: what it measures comes over HTTP. One thread drives all
//! streams, so that the load takes little from a server on the same machine.
//!
//! Start reading at [`run`], then `client` (one request) and [`Metrics::of`] (the definitions).

mod arrivals;
mod chunk;
mod client;
mod cpu;
mod dataset;
mod error;
mod metrics;
mod report;
mod run;
mod svg;
mod target;

pub use arrivals::Arrivals;
pub use client::Output;
pub use dataset::{LengthRange, PromptBody, Sample, custom, random, recorded, sharegpt};
pub use error::BenchError;
pub use metrics::{Goodput, Metric, Metrics, Spread};
pub use report::{Facts, Report};
pub use run::{LoadOptions, Run, run, served_model};
pub use svg::svg;
pub use target::Target;
