//! Why something that is kept beside the engine (a dataset, a problem, a review) cannot be had.
//!
//! It must never hold a path of the server.
//!
//! Start reading at [`OpsRefusal`].

/// Why something that is kept beside the engine cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpsRefusal {
    /// There is none of this name.
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
    /// Another one is at it.
    #[error("{message}")]
    Busy {
        /// Who or what.
        message: String,
    },
}

impl OpsRefusal {
    pub(crate) fn status(&self) -> u16 {
        match self {
            OpsRefusal::Unknown { .. } => 404,
            OpsRefusal::WrongState { .. } => 409,
            OpsRefusal::Busy { .. } => 429,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            OpsRefusal::Unknown { .. } => "not_found",
            OpsRefusal::WrongState { .. } => "conflict",
            OpsRefusal::Busy { .. } => "busy",
        }
    }
}
