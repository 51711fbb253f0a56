//! What an edit says of the answer that was edited.
//!
//! It must never make the one who edits wait.

use std::sync::Arc;

use lastmile::{RequestId, TenantId};
use lm_ops::Implied;
use serde_json::json;

use crate::app::App;
use crate::steer::Started;

/// Keeps as feedback that the user changed an answer that goes on: which choice, and after how many of its tokens. `by` is as
/// of who gives feedback.
pub(crate) fn tell(
    app: &Arc<App>,
    started: &Started,
    (id, by): (RequestId, Option<TenantId>),
    changed: Option<(u32, usize)>,
) {
    let (Started::Running(_), Some((choice, n_kept))) = (started, changed) else { return };
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let comment = Implied::Edited { n_kept }.to_string();
        let said = json!({ "request_id": id.to_string(), "choice": choice, "comment": comment });
        if let Err(error) = app.ops.feedback(said.to_string().as_bytes(), by, true).await {
            tracing::warn!(%error, "an edit did not become feedback");
        }
    });
}
