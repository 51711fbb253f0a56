//! Which model a body asks for, before the rest of it is read: defaults depend on the model.
//!
//! It must never judge a body: what it cannot read, the whole parser names.
//!
//! Start reading at [`asked_model`].

use serde::Deserialize;
use serde_json::Value;

/// The text of the field `model`; `None` where there is none, or the body is wrong.
#[must_use]
pub fn asked_model(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Asked {
        model: Option<Value>,
    }
    // Derived readers take lists for objects, too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    match serde_json::from_slice::<Asked>(body).ok()?.model? {
        Value::String(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::asked_model;

    #[test]
    fn only_a_text_in_a_good_body_is_a_name() {
        #[track_caller]
        fn check(body: &str, expect: Option<&str>) {
            assert_eq!(asked_model(body.as_bytes()).as_deref(), expect, "{body}");
        }
        check(r#"{"a":[{"model":"x"}],"model":"m"}"#, Some("m"));
        check(r#"{"model":""}"#, Some(""));
        check(r#"{"model":null}"#, None);
        check(r#"{"model":1}"#, None);
        check(r#"{"model":"a","model":"b"}"#, None);
        check(r#"{"model":"a""#, None);
        check(r#"["model"]"#, None);
        check("{}", None);
    }
}
