//! Failures: found in the traffic that the store holds, clustered, ranked, reviewed, fixed, and kept fixed.
//!
//! It must never know HTTP, the engine or a model, and never write to the store: what it concludes lies in a file of
//! its own beside it, or in tables of its own on the store's server, without any text of prompts and answers.
//!
//! Start reading at [`Signal`] (what counts as a failure), [`Clusters::assign`] (which failures are one problem) and
//! [`Book`] (what is kept; `collect` fills it).

mod answer;
mod batch;
mod behind;
mod book;
mod called;
mod carry;
mod cluster;
mod collect;
mod detect;
mod error;
mod eval;
mod fix;
mod forget;
mod known_rows;
mod learn;
mod only_there;
mod rank;
mod review;
mod rows;
mod scan;
mod schema;
mod take_back;
mod weeks;
mod weigh;

pub use answer::{Answer, Opinion};
pub use book::{Book, FailureRow};
pub use carry::Carrying;
pub use cluster::{Cluster, Clusters, Shape};
pub use collect::{Collected, Regenerations};
pub use detect::{Kind, Signal, is_refusal, json_of, signals};
pub use error::FeedbackError;
pub use eval::{Case, Outcome, Score, Scorer, Summary, judge_prompt, judge_says};
pub use fix::{Evidence, Fix, FixStatus};
pub use known_rows::KnownRows;
pub use learn::{Learning, Stage};
pub use rank::{Ranked, Tally, rank};
pub use review::{Decision, Pending, ReviewItem, next};
pub use rows::{Filter, GATE_SCHEMA, Rating, Rows, TRAFFIC_SCHEMA};
pub use weeks::Week;

#[cfg(test)]
mod tests;
