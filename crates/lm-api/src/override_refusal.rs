//! Why an override leaves a request unanswered, or cannot be had.
//!
//! It must never hold a path of the server.
//!
//! Start reading at [`OverrideRefusal`].

/// Why an override leaves a request unanswered, or cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideRefusal {
    /// The operator switched the route off.
    #[error("the operator has switched {route} off")]
    Killed {
        /// The route.
        route: String,
    },
    /// A rule refuses the request.
    #[error("{text}")]
    Stopped {
        /// What its owner says.
        text: String,
    },
    /// The operator wants a model that is not there.
    #[error(
        "the operator has pinned '{pin}', which is neither a model here nor the beginning of a loaded release's hash"
    )]
    PinMissing {
        /// What was pinned.
        pin: String,
    },
    /// No model of a chain can answer.
    #[error("none of the models '{models}' can answer now")]
    NoFallback {
        /// The chain.
        models: String,
    },
    /// There is no such rule, item or text.
    #[error("{message}")]
    Unknown {
        /// Which.
        message: String,
    },
    /// It does not follow from how things stand.
    #[error("{message}")]
    WrongState {
        /// What is wrong.
        message: String,
    },
    /// As many wait for a person as may.
    #[error("{message}")]
    QueueFull {
        /// How many.
        message: String,
    },
}

impl OverrideRefusal {
    pub(crate) fn status(&self) -> u16 {
        match self {
            OverrideRefusal::Killed { .. }
            | OverrideRefusal::PinMissing { .. }
            | OverrideRefusal::NoFallback { .. } => 503,
            OverrideRefusal::Stopped { .. } => 403,
            OverrideRefusal::Unknown { .. } => 404,
            OverrideRefusal::WrongState { .. } => 409,
            OverrideRefusal::QueueFull { .. } => 429,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            OverrideRefusal::Killed { .. } => "route_killed",
            OverrideRefusal::PinMissing { .. } => "pin_missing",
            OverrideRefusal::NoFallback { .. } => "no_fallback",
            OverrideRefusal::Stopped { .. } => "stopped_by_override",
            OverrideRefusal::Unknown { .. } => "override_not_found",
            OverrideRefusal::WrongState { .. } => "override_conflict",
            OverrideRefusal::QueueFull { .. } => "human_queue_full",
        }
    }
}
