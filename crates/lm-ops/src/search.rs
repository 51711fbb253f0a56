//! Requests that were answered, as somebody looks for them.
//!
//! It must never show a request to a tenant that it is not of.
//!
//! Start reading at [`Ops::search`] and [`Ops::request_page`].

use lastmile::{RequestId, TenantId};
use lm_api::ApiError;
use lm_store::{FoundRequest, StoreError, StoredError, StoredFeedback, StoredRequest};
use serde::Serialize;

pub use lm_store::Search;

use crate::Ops;

/// Everything that is stored of one request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestPage {
    /// The request and its answers.
    #[serde(flatten)]
    pub request: StoredRequest,
    /// What was said of its answers, oldest first.
    pub feedback: Vec<StoredFeedback>,
}

impl Ops {
    /// Requests, newest first.
    ///
    /// # Errors
    /// `Internal` when the store cannot be read.
    pub async fn search(&self, search: Search) -> Result<Vec<FoundRequest>, ApiError> {
        self.reading(move |ops| ops.store.reader().search(&search)).await
    }

    /// One request with its answers and feedback. `sees` is whose requests may be seen; `None` is
    /// everybody's.
    ///
    /// # Errors
    /// `RequestNotFound` when it is unknown, erased, or another tenant's; `Internal`.
    pub async fn request_page(
        &self,
        id: RequestId,
        sees: Option<TenantId>,
    ) -> Result<RequestPage, ApiError> {
        let found = self
            .reading(move |ops| {
                let reader = ops.store.reader();
                let Some(request) = reader.request(id)? else { return Ok(None) };
                Ok(Some(RequestPage { request, feedback: reader.feedback_for(id)? }))
            })
            .await?;
        found.filter(|page| is_seen(&page.request, sees)).ok_or(ApiError::RequestNotFound { id })
    }

    /// The newest answers that failed, newest first.
    ///
    /// # Errors
    /// `Internal` when the store cannot be read.
    pub async fn recent_errors(&self, limit: u32) -> Result<Vec<StoredError>, ApiError> {
        self.reading(move |ops| ops.store.reader().recent_errors(limit)).await
    }

    /// Reads on a thread that may wait.
    pub(crate) async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ops) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let ops = self.clone();
        let found = tokio::task::spawn_blocking(move || read(&ops)).await;
        found.unwrap_or(Err(StoreError::Closed)).map_err(|error| {
            // Paths and details of the store are for the operator, not for clients.
            tracing::error!(%error, "the store could not be read");
            ApiError::Internal { what: "the store could not be read".to_owned() }
        })
    }
}

/// Whether somebody who sees the requests of `sees`, or everybody's, sees this one.
pub(crate) fn is_seen(request: &StoredRequest, sees: Option<TenantId>) -> bool {
    let tenant = request.tenant.as_deref();
    match sees {
        None => true,
        Some(TenantId::ANONYMOUS) => tenant.is_none(),
        Some(sees) => tenant == Some(format!("{:016x}", sees.0).as_str()),
    }
}
