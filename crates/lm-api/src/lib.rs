//! The JSON of OpenAI's API: requests into [`lastmile::GenerateRequest`]s, answers into bodies and
//! chunks, and every error in one shape.
//!
//! It must never know sockets, HTTP libraries, clocks, randomness or a database: ids, times and
//! entropy are arguments.
//!
//! Start reading at [`parse_chat`] (in), [`Head`] (out) and [`ApiError`].

mod adapters;
mod asked_model;
mod confidence;
mod date;
mod delta_frame;
mod denial;
mod dialects;
mod encoders;
mod error;
mod error_body;
mod feedback;
mod fields;
mod ingest_refusal;
mod logprobs;
mod messages;
mod model_refusal;
mod models;
mod ops_refusal;
mod override_refusal;
mod params;
mod prompt_report;
mod prompts;
mod reasoning;
mod response;
mod samplers;
mod shortened;
mod spent;
mod structured;
mod tokenization;
mod tools;
mod unique;
mod unsupported;
mod urgency;
mod usage;

pub use adapters::{LoadAdapterRequest, parse_load_adapter, parse_unload_adapter};
pub use asked_model::asked_model;
pub use confidence::{Confidence, Learned, Stretch, Sureness};
pub use date::{CivilTime, rfc3339};
pub use delta_frame::DeltaFrame;
pub use denial::Denial;
pub use dialects::{
    Dialect, DialectHead, Ending, Frame, Framing, OllamaLoad, parse_messages, parse_ollama_chat,
    parse_ollama_generate, parse_ollama_load, parse_responses,
};
pub use encoders::{
    ClassifyAsked, EmbeddingsAsked, EmbeddingsStyle, RankAsked, Ranked, ScoredBy, Took,
    VectorFormat, classify_json, embeddings_json, parse_classify, parse_embeddings,
    parse_ollama_embed, parse_ollama_embeddings, parse_rerank, parse_score, rerank_json,
    score_json,
};
pub use error::ApiError;
pub use error_body::ErrorBody;
pub use feedback::{FeedbackRating, FeedbackRequest, parse_feedback};
pub use ingest_refusal::IngestRefusal;
pub use logprobs::{LogprobEntry, TextOffset, TokenName};
pub use messages::parse_chat;
pub use model_refusal::ModelRefusal;
pub use models::{ModelEntry, model_list};
pub use ops_refusal::OpsRefusal;
pub use override_refusal::OverrideRefusal;
pub use params::{ParseOptions, Parsed};
pub use prompt_report::{ScoredCandidate, ScoredToken};
pub use prompts::parse_completion;
pub use response::{Choice, Head, Style};
pub use samplers::Words;
pub use spent::{Cost, Spent, or_unavailable};
pub use tokenization::{Text, parse_abort, parse_detokenize, parse_template, parse_tokenize};
pub use tools::{ToolCall, ToolUse, call_id};
pub use urgency::Urgency;
pub use usage::sum_usage;

#[cfg(test)]
mod tests;
