//! Which models this server has, by the names that clients ask for.
//!
//! It must never compute, and never know a route.
//!
//! Start reading at [`Models::resolve`].

use std::sync::Arc;
use std::time::Duration;

use lastmile::Runtime;
use lm_api::ApiError;

/// The models of one server.
pub(crate) struct Models {
    runtime: Arc<Runtime>,
}

impl Models {
    pub(crate) fn new(runtime: Arc<Runtime>) -> Self {
        Models { runtime }
    }

    /// The model of this name; without one, the default model.
    ///
    /// # Errors
    /// No model has this name.
    pub(crate) async fn resolve(&self, name: Option<&str>) -> Result<Arc<Runtime>, ApiError> {
        match name {
            Some(name) if name != self.default_name() => {
                Err(ApiError::model_not_found(name, self.default_name()))
            }
            _ => Ok(Arc::clone(&self.runtime)),
        }
    }

    /// Every engine that runs now, the default model's first.
    pub(crate) fn loaded(&self) -> Vec<Arc<Runtime>> {
        vec![Arc::clone(&self.runtime)]
    }

    /// The name of the model that answers requests that name none.
    pub(crate) fn default_name(&self) -> &str {
        &self.runtime.info().name
    }

    /// Takes nothing more in, finishes what runs within `timeout`, and ends every engine. Blocks.
    pub(crate) fn shutdown(&self, timeout: Duration) {
        self.runtime.shutdown(timeout);
    }
}
