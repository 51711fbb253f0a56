//! The HTTP server: routes, server-sent events, health, metrics, drain.
//!
//! It must never know how tokens are computed, what the JSON of an answer looks like (that is
//! `lm-api`) or how anything is stored (that is `lm-ops`). It never logs a prompt or an answer.
//!
//! Start reading at [`serve`], then `routes`, then `generate`.

mod aborts;
mod access;
mod adapters;
mod again;
mod answers;
mod app;
mod auth;
mod body;
mod clock;
mod config;
mod connections;
mod costs;
mod data_routes;
mod dialects;
mod edit;
mod edit_cut;
mod edit_feedback;
mod encoders;
mod ended_by;
mod event_body;
mod experiment_routes;
mod exposition;
mod fields;
mod gen_ai;
mod generate;
mod headers;
mod health;
mod idle;
mod ingest_routes;
mod intake;
mod learning_pictures;
mod lease;
mod loop_routes;
mod metric_table;
mod metrics;
mod metrics_cache;
mod metrics_ingest;
mod model_metrics;
mod model_ops;
mod models;
mod monitor_routes;
mod ollama_models;
mod openapi;
mod origin;
mod override_routes;
mod panel;
mod peers;
mod probes;
mod prompt_told;
mod read_as;
mod registry;
mod reply;
mod request_log;
mod response_cache;
mod routes;
mod running;
mod serve;
mod service_manager;
mod shadow;
mod steer;
mod streamed;
mod texts;
mod tls;
mod trial;
mod visit;
mod watchdog;
mod whole;
mod write_deadline;

pub use access::Access;
pub use auth::{charging, now};
pub use config::{ServeError, ServerConfig, bind};
pub use override_routes::KILLABLE_ROUTES;
pub use response_cache::ResponseCacheOptions;
pub use serve::serve;
pub use service_manager::ServiceManager;
pub use tls::{Tls, TlsError};

#[cfg(test)]
mod tests;
