//! The HTTP server: routes, server-sent events, health, metrics, drain.
//!
//! It must never know how tokens are computed, what the JSON of an answer looks like (that is
//! `lm-api`) or how anything is stored (that is `lm-ops`). It never logs a prompt or an answer.
//!
//! Start reading at [`serve`], then `routes`, then `generate`.

mod app;
mod body;
mod config;
mod connections;
mod exposition;
mod generate;
mod health;
mod metrics;
mod models;
mod origin;
mod reply;
mod request_log;
mod routes;
mod serve;
mod streamed;
mod whole;

pub use config::{ServeError, ServerConfig, bind};
pub use serve::serve;

#[cfg(test)]
mod tests;
