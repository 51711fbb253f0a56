//! The body of a verb: a JSON object of a few named fields.
//!
//! It must never ignore a field that it does not know.
//!
//! Start reading at [`Fields`].

use lm_api::ApiError;
use serde_json::{Map, Value};

use crate::panel::invalid;

/// The fields of a body, each of which is taken once.
pub(crate) struct Fields {
    left: Map<String, Value>,
    /// What was asked for so far, for whom a field is refused.
    known: Vec<&'static str>,
}

impl Fields {
    /// A body that is empty has none.
    pub(crate) fn of(body: &[u8]) -> Result<Self, ApiError> {
        let left = match body.trim_ascii() {
            [] => Map::new(),
            text => serde_json::from_slice(text).map_err(|error| ApiError::Json {
                param: "body".to_owned(),
                what: error.to_string(),
            })?,
        };
        Ok(Fields { left, known: Vec::new() })
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.known.push(name);
        match self.left.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(invalid(name, &other.to_string(), "a text".to_owned())),
        }
    }

    /// A text that must be given.
    pub(crate) fn wanted(&mut self, name: &'static str) -> Result<String, ApiError> {
        let missing = || ApiError::Missing { param: name.to_owned(), wanted: "a text" };
        self.text(name)?.ok_or_else(missing)
    }

    /// Why something is done, without white space around it; empty when nobody says.
    pub(crate) fn reason(&mut self) -> Result<String, ApiError> {
        Ok(self.text("reason")?.unwrap_or_default().trim().to_owned())
    }

    /// Refuses what nobody took.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        let wanted = match self.known.as_slice() {
            [] => "left out: the body has no fields".to_owned(),
            known => format!("left out: the body may have {}", known.join(" and ")),
        };
        Err(invalid(name, "given", wanted))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn kill(body: &str) -> Result<(String, String), ApiError> {
        let mut fields = Fields::of(body.as_bytes())?;
        let (route, reason) = (fields.wanted("route")?, fields.reason()?);
        fields.end()?;
        Ok((route, reason))
    }

    #[test]
    fn fields_are_taken_by_name_and_others_are_refused_by_theirs() {
        let taken = kill(r#" {"route": "/v1", "reason": " it leaks "} "#).unwrap();
        assert_eq!(taken, ("/v1".to_owned(), "it leaks".to_owned()));
        #[track_caller]
        fn check(body: &str, expect: &str) {
            assert_eq!(kill(body).unwrap_err().to_string(), expect);
        }
        check("", "route is missing, but must be a text");
        check(r#"{"route": 7}"#, "route is 7, but must be a text");
        check(
            r#"{"route": "/v1", "reasons": "it leaks"}"#,
            "reasons is given, but must be left out: the body may have route and reason",
        );
        let found = kill("[]").unwrap_err().to_string();
        assert!(found.starts_with("the body cannot be read as JSON: "), "{found}");
        let nothing = Fields::of(b"{\"force\": true}").unwrap().end().unwrap_err().to_string();
        assert_eq!(nothing, "force is given, but must be left out: the body has no fields");
    }
}
