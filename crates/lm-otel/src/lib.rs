//! OpenTelemetry traces: one tree of spans for each answer that ended, sent by OTLP (protobuf over HTTP/1.1).
//!
//! It must never hold a prompt or an answer, not even in its queue. It must never make the engine wait: what has no
//! room is dropped and counted.
//!
//! Start reading at [`traced`], then `answer` (what is kept of an event), `spans` (what is made of it) and
//! [`Exporter`] (how it leaves).

mod answer;
mod attributes;
mod error;
mod exporter;
mod post;
mod settings;
mod spans;
mod traced;
mod wire;

pub use error::OtelError;
pub use exporter::{Counts, Exporter};
pub use settings::{ENDPOINT_VARIABLE, Limits, Settings};
pub use traced::traced;

#[cfg(test)]
mod tests;
