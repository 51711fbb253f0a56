//! What rules read in the place of prompts that are tokens, so that tokens hide nothing from them.
//!
//! It must never decide anything: rules do.
//!
//! Start reading at [`of_edit`].

use std::sync::Arc;

use lastmile::{Prompt, ReadAs, Runtime, TokenId};
use lm_ops::{Recorded, StoredRequest, read_as_of};

/// What the tokens of a prompt say. `None` where one of them is unknown; such a prompt is refused by and by.
pub(crate) fn of_tokens(runtime: &Runtime, tokens: &[TokenId]) -> Option<Arc<ReadAs>> {
    let prompt = Prompt::Text(runtime.detokenize(tokens).ok()?);
    let (changes, route, answer) = (Vec::new(), String::new(), String::new());
    Some(Arc::new(ReadAs { prompt, changes, route, answer }))
}

/// An edit is of the request whose answer is edited, whatever is written into that. `answer` is what stays with the change.
pub(crate) fn of_edit(
    runtime: &Runtime,
    stored: &StoredRequest,
    recorded: &Recorded,
    change: &str,
    answer: &str,
) -> Arc<ReadAs> {
    let before = stored.prompt.as_ref().and_then(read_as_of);
    let before = before.unwrap_or_else(|| {
        let prompt = match &recorded.request.prompt {
            // As an older version stored it.
            Prompt::Tokens(tokens) => Prompt::Text(runtime.detokenize(tokens).unwrap_or_default()),
            other => other.clone(),
        };
        let (changes, route, answer) = (Vec::new(), String::new(), String::new());
        ReadAs { prompt, changes, route, answer }
    });
    let ReadAs { prompt, mut changes, mut route, .. } = before;
    changes.push(change.to_owned());
    if route.is_empty() {
        // What came from a program, or was stored by an older version, has none.
        let own = stored.params["route"].as_str();
        route = own.unwrap_or("/").to_owned();
    }
    Arc::new(ReadAs { prompt, changes, route, answer: answer.to_owned() })
}
