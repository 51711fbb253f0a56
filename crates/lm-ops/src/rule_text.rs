//! Rules as people write them.
//!
//! It must never take a rule that no answer can be held to: it would refuse every request that it is about.
//!
//! Start reading at [`parse_rule`].

use lastmile::{AnswerForm, check_form};
use lm_rollout::{Action, RolloutError, Rule};

/// Reads and checks a rule as [`Rule::parse`] does, and that its form can be enforced. Blocks for up to 2 s.
///
/// # Errors
/// Those of [`Rule::parse`]; [`RolloutError::Invalid`] for a schema that is not supported.
pub fn parse_rule(text: &str) -> Result<Rule, RolloutError> {
    let rule = Rule::parse(text)?;
    if let Action::Schema { schema } = &rule.then {
        let text = schema.to_string();
        check_form(&AnswerForm::JsonSchema(text.clone())).map_err(|error| {
            RolloutError::Invalid {
                field: "then.schema".to_owned(),
                value: text.chars().take(120).collect(),
                wanted: format!("a schema that answers can be held to: {error}"),
            }
        })?;
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_form_that_cannot_be_enforced_is_refused() {
        let rule = |schema: &str| {
            let then = format!(r#"{{"action": "schema", "schema": {schema}}}"#);
            parse_rule(&format!(
                r#"{{"id": "r", "owner": "ana", "reason": "a test", "then": {then}}}"#
            ))
        };
        rule(r#"{"type": "object", "properties": {"n": {"type": "integer"}}}"#).unwrap();
        let refused = rule(r#"{"type": "array", "uniqueItems": true}"#).unwrap_err().to_string();
        assert!(refused.starts_with("then.schema is {"), "{refused}");
        assert!(refused.contains("uniqueItems"), "{refused}");
    }
}
