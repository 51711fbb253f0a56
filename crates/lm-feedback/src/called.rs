//! What messages have besides roles and texts: calls of tools, whose result a message is, and names.
//!
//! It must never let a secret or personal data through that stands in a call.
//!
//! Start reading at [`put_back`], then at [`masked`].

use lm_data::mask;
use lm_store::{Answered, Reader};
use serde_json::Value;

use crate::{Answer, FeedbackError};

/// Puts into the messages of an answer what is stored apart from them. Of what was not kept whole nothing is known.
pub(crate) fn put_back(
    reader: &Reader,
    row: &Answered,
    answer: &mut Answer,
) -> Result<(), FeedbackError> {
    let Some(recipe) = reader.recipe(row.request_id)? else { return Ok(()) };
    for entry in recipe["message_fields"].as_array().into_iter().flatten() {
        let place = entry[0].as_u64().and_then(|i| usize::try_from(i).ok());
        let message = place.and_then(|i| answer.messages.get_mut(i)).and_then(Value::as_object_mut);
        let fields: Option<Value> =
            entry[1].as_str().and_then(|text| serde_json::from_str(text).ok());
        let (Some(message), Some(Value::Object(fields))) = (message, fields) else { continue };
        for (name, mut value) in fields {
            each_call(&mut value, |arguments| {
                // Templates have them as an object; who asks sends them as a text.
                if arguments.is_object() {
                    *arguments = arguments.to_string().into();
                }
            });
            message.insert(name, value);
        }
    }
    Ok(())
}

/// Messages without secrets and personal data, and how many were replaced.
pub(crate) fn masked(messages: &[Value]) -> (Vec<Value>, u64) {
    let mut n_masked = 0;
    let mask_one = |message: &Value| {
        let mut message = message.clone();
        for field in ["content", "name", "reasoning_content"] {
            if let Some(text) = message.get_mut(field) {
                n_masked += mask_text(text);
            }
        }
        if let Some(calls) = message.get_mut("tool_calls") {
            each_call(calls, |arguments| {
                let text: Option<Value> =
                    arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
                n_masked += match text {
                    Some(mut parsed) => {
                        let n = mask_all(&mut parsed);
                        // What stays is as it was written.
                        if n > 0 {
                            *arguments = parsed.to_string().into();
                        }
                        n
                    }
                    None => mask_all(arguments),
                };
            });
        }
        message
    };
    let messages = messages.iter().map(mask_one).collect();
    (messages, n_masked)
}

/// Hands over the arguments of each call of a list of calls; what is no such list has none.
fn each_call(calls: &mut Value, mut take: impl FnMut(&mut Value)) {
    for call in calls.as_array_mut().into_iter().flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments") {
            take(arguments);
        }
    }
}

/// The texts and numbers in it, and how many were replaced. Names of fields stay.
fn mask_all(value: &mut Value) -> u64 {
    match value {
        Value::Array(values) => values.iter_mut().map(mask_all).sum(),
        Value::Object(fields) => fields.values_mut().map(mask_all).sum(),
        _ => mask_text(value),
    }
}

fn mask_text(value: &mut Value) -> u64 {
    let text = match value {
        Value::String(text) => text.clone(),
        // Such as the number of a card.
        Value::Number(number) => number.to_string(),
        _ => return 0,
    };
    let (text, n) = mask(&text);
    if n > 0 {
        *value = text.into();
    }
    n as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_in_calls_is_masked() {
        let call = |arguments: Value| json!({ "id": "c1", "type": "function", "function": { "name": "send", "arguments": arguments } });
        let messages = [
            json!({ "role": "user", "name": "ann@example.org", "content": "Write to eve@example.org." }),
            json!({ "role": "assistant", "content": "", "tool_calls": [
                call("{\"to\": [\"eve@example.org\"], \"times\": 2}".into()),
                call("not JSON for eve@example.org".into()),
                call(json!({ "text": "Hello" })),
            ] }),
            json!({ "role": "tool", "tool_call_id": "c1", "content": "sent" }),
        ];
        let (masked, n_masked) = masked(&messages);
        assert_eq!(n_masked, 4);
        let text = Value::from(masked.clone()).to_string();
        assert!(!text.contains("@example.org"), "{text}");
        let arguments = |i: usize| &masked[1]["tool_calls"][i]["function"]["arguments"];
        assert_eq!(arguments(0), "{\"to\":[\"[an e-mail address]\"],\"times\":2}");
        assert_eq!(arguments(1), "not JSON for [an e-mail address]");
        assert_eq!(arguments(2), &json!({ "text": "Hello" }));
        assert_eq!(masked[2], messages[2]);
    }
}
