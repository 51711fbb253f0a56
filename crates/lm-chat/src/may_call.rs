//! In which form an answer may call tools and need not.
//!
//! It must never know grammars: what a form is good for is decided elsewhere.
//!
//! Start reading at [`ToolFormat::may_call`].

use lm_types::{AnswerForm, MayCall};

use crate::{ChatError, MustCall, ToolFormat};

impl ToolFormat {
    /// The form of answers that call `tools`, a JSON array of OpenAI's tool objects, or else are of the form `otherwise`:
    /// any text where that is `None`. `None` when calls cannot be told from such answers as they begin.
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
        let has_mark = !(calls.open.is_empty() && calls.begin.is_empty());
        let is_told = match &otherwise {
            None => true,
            Some(AnswerForm::JsonObject | AnswerForm::JsonSchema(_) | AnswerForm::Choice(_)) => {
                has_mark
            }
            Some(_) => false,
        };
        let marker = match self {
            ToolFormat::Mistral => "[TOOL_CALLS]",
            ToolFormat::Llama => "<|python_tag|>",
            _ => "",
        };
        let otherwise = otherwise.map(Box::new);
        Ok(is_told.then(|| MayCall { calls, marker: marker.into(), otherwise }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const TOOLS: &str = r#"[{"type":"function","function":{"name":"f"}}]"#;

    #[test]
    fn calls_are_told_from_json_by_what_stands_before_them() {
        let check = |format: ToolFormat, otherwise: Option<AnswerForm>, expect: bool| {
            let found = format.may_call(TOOLS, false, otherwise).unwrap();
            assert_eq!(found.is_some(), expect, "{format:?}");
        };
        for format in [ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral] {
            check(format, None, true);
            check(format, Some(AnswerForm::JsonObject), format != ToolFormat::Llama);
            check(format, Some(AnswerForm::Regex("a".to_owned())), false);
        }
        assert!(ToolFormat::Hermes.may_call("{}", true, None).is_err());
        let one = ToolFormat::Hermes.may_call(TOOLS, false, None).unwrap().unwrap();
        assert_eq!((one.calls.max_calls, &*one.marker), (1, ""));
    }
}
