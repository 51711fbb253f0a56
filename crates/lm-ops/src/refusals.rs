//! What clients are told of what overrides and experiments refuse.
//!
//! It must never tell of the operator's files.

use lm_api::{ApiError, OverrideRefusal};
use lm_experiment::ExperimentError;
use lm_rollout::RolloutError;

/// An error of overrides as clients see it: files are the operator's.
#[must_use]
pub fn override_refusal(error: RolloutError) -> ApiError {
    let message = error.to_string();
    match error {
        RolloutError::Invalid { field, value, wanted } => {
            ApiError::Invalid { param: field, found: value, wanted }
        }
        RolloutError::Unreadable { what } => ApiError::Json { param: "body".to_owned(), what },
        RolloutError::Unknown { .. } => ApiError::Overridden(OverrideRefusal::Unknown { message }),
        RolloutError::WrongState { .. } => {
            ApiError::Overridden(OverrideRefusal::WrongState { message })
        }
        RolloutError::QueueFull { .. } => {
            ApiError::Overridden(OverrideRefusal::QueueFull { message })
        }
        RolloutError::Store(_) | RolloutError::Database { .. } | RolloutError::Foreign { .. } => {
            tracing::error!(error = message, "an override could not be read or written");
            ApiError::Internal { what: "the overrides could not be read or written".to_owned() }
        }
    }
}

/// An error of experiments as clients see it: files are the operator's.
#[must_use]
pub fn experiment_refusal(error: ExperimentError) -> ApiError {
    let message = error.to_string();
    match error {
        ExperimentError::Invalid { field, value, wanted } => {
            ApiError::Invalid { param: field, found: value, wanted }
        }
        ExperimentError::Unreadable { what } => ApiError::Json { param: "body".to_owned(), what },
        ExperimentError::Unknown { .. } => {
            ApiError::Overridden(OverrideRefusal::Unknown { message })
        }
        ExperimentError::WrongState { .. } | ExperimentError::Refused { .. } => {
            ApiError::Overridden(OverrideRefusal::WrongState { message })
        }
        ExperimentError::Store(_)
        | ExperimentError::Database { .. }
        | ExperimentError::Foreign { .. } => {
            tracing::error!(error = message, "an experiment could not be read or written");
            ApiError::Internal { what: "the experiments could not be read or written".to_owned() }
        }
    }
}
