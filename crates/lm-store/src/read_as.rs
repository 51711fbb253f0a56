//! What rules read of a prompt of tokens, as JSON beside the prompt.
//!
//! It must never stand for the prompt itself: what is computed are the tokens.
//!
//! Start reading at [`read_as_to_json`].

use lm_types::ReadAs;
use serde_json::{Value, json};

use crate::recipe::{prompt_from, prompt_to_json};

/// The prompt as text or messages, and of an edited answer `changes`, `route` and `answer`.
pub(crate) fn read_as_to_json(read_as: &ReadAs) -> Value {
    let ReadAs { prompt, changes, route, answer } = read_as;
    let mut said = prompt_to_json(prompt);
    if !route.is_empty() {
        said["changes"] = json!(changes);
        said["route"] = route.as_str().into();
        said["answer"] = answer.as_str().into();
    }
    said
}

/// What rules read in the place of a stored prompt's tokens; `None` where the prompt is read itself.
#[must_use]
pub fn read_as_of(prompt: &Value) -> Option<ReadAs> {
    let said = prompt.get("read_as")?;
    let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    let changes = said["changes"].as_array().into_iter().flatten();
    Some(ReadAs {
        prompt: prompt_from(said).ok()?,
        changes: changes.filter_map(|change| change.as_str().map(str::to_owned)).collect(),
        route: text("route"),
        answer: text("answer"),
    })
}

#[cfg(test)]
mod tests {
    use lm_types::{ChatMessage, Prompt, Role};

    use super::*;

    #[test]
    fn it_comes_back_as_it_was() {
        let message = ChatMessage { role: Role::User, content: "a \"b\"\n\u{e9}".to_owned() };
        let edited = ReadAs {
            prompt: Prompt::Chat(vec![message]),
            changes: vec!["x".to_owned(), String::new()],
            route: "/v1/messages".to_owned(),
            answer: "so x".to_owned(),
        };
        let plain = ReadAs {
            prompt: Prompt::Text("x".to_owned()),
            changes: Vec::new(),
            route: String::new(),
            answer: String::new(),
        };
        for read_as in [edited, plain] {
            let stored = json!({ "tokens": [1], "read_as": read_as_to_json(&read_as) });
            assert_eq!(read_as_of(&stored), Some(read_as));
        }
        assert_eq!(read_as_of(&json!({ "tokens": [1] })), None);
    }
}
