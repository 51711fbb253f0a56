//! In which form an answer may call tools and need not.
//!
//! It must never know grammars: what a form is good for is decided elsewhere.
//!
//! Start reading at [`ToolFormat::may_call`].

use lm_types::{AnswerForm, MayCall};

use crate::{ChatError, MustCall, ToolFormat};

impl ToolFormat {
    /// The form of answers that call `tools`, a JSON array of OpenAI's tool objects, or else are of the form `otherwise`:
    /// any text where that is `None`. `None` for forms that calls cannot stand beside: all but JSON and a choice.
    ///
    /// # Errors
    /// `Tools` when they are no such array.
    pub fn may_call(
        self,
        tools: &str,
        parallel: bool,
        otherwise: Option<AnswerForm>,
    ) -> Result<Option<MayCall>, ChatError> {
        let calls = self.calls(tools, &MustCall::Any, parallel)?;
        let leaves_room = otherwise.as_ref().is_none_or(|form| {
            matches!(
                form,
                AnswerForm::JsonObject | AnswerForm::JsonSchema(_) | AnswerForm::Choice(_)
            )
        });
        let marker = match self {
            ToolFormat::Llama => "<|python_tag|>",
            _ => "",
        };
        let otherwise = otherwise.map(Box::new);
        Ok(leaves_room.then(|| MayCall { calls, marker: marker.into(), otherwise }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const TOOLS: &str = r#"[{"type":"function","function":{"name":"f"}}]"#;

    #[test]
    fn json_leaves_room_for_calls_and_an_expression_does_not() {
        let check = |format: ToolFormat, otherwise: Option<AnswerForm>, expect: bool| {
            let found = format.may_call(TOOLS, false, otherwise).unwrap();
            assert_eq!(found.is_some(), expect, "{format:?}");
        };
        for format in [ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral] {
            check(format, None, true);
            check(format, Some(AnswerForm::JsonObject), true);
            check(format, Some(AnswerForm::Regex("a".to_owned())), false);
        }
        assert!(ToolFormat::Hermes.may_call("{}", true, None).is_err());
        let one = ToolFormat::Hermes.may_call(TOOLS, false, None).unwrap().unwrap();
        assert_eq!((one.calls.max_calls, &*one.marker), (1, ""));
    }
}
