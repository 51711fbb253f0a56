//! The JSON of OpenAI's API: requests into [`lastmile::GenerateRequest`]s, answers into bodies and
//! chunks, and every error in one shape.
//!
//! It must never know sockets, HTTP libraries, clocks, randomness or a database: ids, times and
//! entropy are arguments.
//!
//! Start reading at [`parse_chat`] (in), [`Head`] (out) and [`ApiError`].

mod asked_model;
mod denial;
mod error;
mod feedback;
mod fields;
mod logprobs;
mod messages;
mod model_refusal;
mod models;
mod params;
mod prompts;
mod response;
mod unique;
mod unsupported;
mod urgency;

pub use asked_model::asked_model;
pub use denial::Denial;
pub use error::{ApiError, ErrorBody};
pub use feedback::{FeedbackRating, FeedbackRequest, parse_feedback};
pub use logprobs::{LogprobEntry, TextOffset, TokenName};
pub use messages::parse_chat;
pub use model_refusal::ModelRefusal;
pub use models::{ModelEntry, model_list};
pub use params::{ParseOptions, Parsed};
pub use prompts::parse_completion;
pub use response::{Choice, Head, Style, sum_usage};
pub use urgency::Urgency;

#[cfg(test)]
mod tests;
