//! Why a model that exists does not answer now.
//!
//! It must never hold a path: what an operator needs to know stands in the log.
//!
//! Start reading at [`ModelRefusal`].

/// Why a model that exists does not answer now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelRefusal {
    /// It is still being loaded.
    #[error("the model '{model}' is being loaded, and was not ready within {waited_ms} ms")]
    Loading {
        /// The model.
        model: String,
        /// How long the request waited.
        waited_ms: u64,
    },
    /// As many models as may be loaded have work.
    #[error("{message}")]
    AllBusy {
        /// Which, and how many may.
        message: String,
    },
    /// There is no memory for it.
    #[error("{message}")]
    OutOfMemory {
        /// What it needs and what there is.
        message: String,
    },
    /// It cannot be loaded; the operator is told why.
    #[error("the model '{model}' could not be loaded{}", why.as_ref().map_or_else(
        || "; the server's log says why".to_owned(), |why| format!(": {why}")
    ))]
    Failed {
        /// The model.
        model: String,
        /// For operators.
        why: Option<String>,
    },
    /// An adapter cannot be loaded or unloaded.
    #[error("{message}")]
    Adapter {
        /// Why not.
        message: String,
        /// The HTTP status.
        status: u16,
        /// A stable word for programs.
        code: &'static str,
    },
    /// What runs on it does not end, so that it cannot be replaced.
    #[error("{message}")]
    StillBusy {
        /// What runs, and how long it was waited.
        message: String,
    },
}

impl ModelRefusal {
    pub(crate) fn status(&self) -> u16 {
        match self {
            ModelRefusal::Loading { .. }
            | ModelRefusal::AllBusy { .. }
            | ModelRefusal::OutOfMemory { .. } => 503,
            ModelRefusal::Failed { .. } => 500,
            ModelRefusal::StillBusy { .. } => 409,
            ModelRefusal::Adapter { status, .. } => *status,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            ModelRefusal::Loading { .. } => "model_loading",
            ModelRefusal::AllBusy { .. } => "models_busy",
            ModelRefusal::OutOfMemory { .. } => "insufficient_memory",
            ModelRefusal::Failed { .. } => "model_load_failed",
            ModelRefusal::StillBusy { .. } => "model_busy",
            ModelRefusal::Adapter { code, .. } => code,
        }
    }
}
