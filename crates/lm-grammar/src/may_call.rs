//! The grammar of an answer that calls tools where the model wants them.
//!
//! It must never know how a model writes a call.
//!
//! Start reading at [`lark`].

use lm_types::{AnswerForm, MayCall, TokenId};

use crate::GrammarError;
use crate::source::{alternatives, quoted, refused, rules_of_calls, schema};

/// The shortest text before a call, in bytes, that is taken for the beginning of one wherever it stands. A shorter one is
/// where an answer begins with it.
const MIN_MARK: usize = 3;

/// Calls, or the other form, or any text. `marker` is the control token that may stand before the calls.
pub(crate) fn lark(form: &MayCall, marker: Option<TokenId>) -> Result<String, GrammarError> {
    let calls = &form.calls;
    let mark = calls.begin.trim_end();
    Ok(match &form.otherwise {
        Some(other) => {
            format!("start: calls | other\nother: {}\n{}", rule(other)?, block(form, marker)?)
        }
        None if calls.open.is_empty() && calls.others.is_empty() && mark.len() >= MIN_MARK => {
            // A call may follow a text, and text a call, unless there is to be one only.
            let start = if calls.max_calls > 1 { "call* text" } else { "call | text" };
            let (rest, body) = (quoted(&calls.begin[mark.len()..]), schema(&calls.schema)?);
            let (mark, end) = (quoted(mark), quoted(&calls.end));
            format!(
                "start: {start}\ncall: head {rest} body {end}\nhead[lazy]: TEXT {mark}\ntext: TEXT\n\
                 TEXT: /(\\n|.)*/\nbody: %json {body}\n"
            )
        }
        None => {
            let first = first_of_class(form);
            let calls = block(form, marker)?;
            format!(
                "start: calls | text\n{calls}text: TEXT\nTEXT: /[ \\t\\r\\n]*([^ \\t\\r\\n{first}](\\n|.)*)?/\n"
            )
        }
    })
}

/// The rules of calls that are the whole answer.
fn block(form: &MayCall, marker: Option<TokenId>) -> Result<String, GrammarError> {
    let marker = marker.map_or_else(String::new, |token| format!("<[{token}]>?"));
    let (all, rules) = rules_of_calls(&form.calls)?;
    Ok(format!("calls: {marker} {all}\n{rules}"))
}

/// What an answer begins with that calls, within a class of a regular expression.
fn first_of_class(form: &MayCall) -> String {
    let mut opening = form.calls.open.chars().chain(form.calls.begin.chars());
    // A call is a JSON object.
    let first = opening.find(|c| !c.is_whitespace()).unwrap_or('{');
    if r"[]{}()^-\&~/|".contains(first) { format!("\\{first}") } else { first.to_string() }
}

/// The body of the rule of another form.
fn rule(form: &AnswerForm) -> Result<String, GrammarError> {
    match form {
        AnswerForm::JsonObject => Ok(format!("%json {}", schema(r#"{"type": "object"}"#)?)),
        AnswerForm::JsonSchema(text) => Ok(format!("%json {}", schema(text)?)),
        AnswerForm::Choice(texts) => alternatives(texts),
        AnswerForm::Regex(_)
        | AnswerForm::Lark(_)
        | AnswerForm::Calls(_)
        | AnswerForm::MayCall(_) => {
            Err(refused("calls can stand beside JSON and a choice only".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use lm_tokenizer::{Tokenizer, placeholder};
    use lm_types::CallForm;

    use super::*;
    use crate::GrammarCompiler;

    const CALL: &str = r#"{"name": "f", "arguments": {}}"#;

    fn plain(open: &'static str, begin: &'static str, end: &'static str, n: usize) -> MayCall {
        let schema = r#"{"type": "object", "properties": {"name": {"const": "f"}, "arguments": {"type": "object"}},
            "required": ["name", "arguments"], "additionalProperties": false}"#;
        let calls = CallForm {
            schema: schema.to_owned(),
            open: open.into(),
            begin: begin.into(),
            end: end.into(),
            between: ", ".into(),
            close: if open.is_empty() { "".into() } else { "]".into() },
            max_calls: n,
            others: Vec::new(),
        };
        MayCall { calls, marker: "<|sep|>".into(), otherwise: None }
    }

    fn hermes(n: usize) -> MayCall {
        plain("", "<tool_call>\n", "\n</tool_call>", n)
    }

    /// Whether an answer may end after `tokens`; where not all may be drawn, the first that may not.
    fn follow(form: &MayCall, tokens: &[TokenId]) -> Result<bool, usize> {
        let tokenizer = Tokenizer::placeholder();
        let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size()).unwrap();
        let compiled = compiler.compile(&AnswerForm::MayCall(form.clone())).unwrap();
        let (mut state, mut is_complete) = (compiled.start(), false);
        for (i, &token) in tokens.iter().enumerate() {
            if is_complete {
                return Err(i);
            }
            state.update().unwrap();
            if !state.mask().allows(token) {
                return Err(i);
            }
            is_complete = state.accept(token).unwrap();
        }
        if is_complete {
            return Ok(true);
        }
        state.update().unwrap();
        Ok(state.mask().allows(placeholder::EOS))
    }

    fn bytes(text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| placeholder::FIRST_BYTE + u32::from(byte)).collect()
    }

    #[track_caller]
    fn check(form: &MayCall, text: &str, expect: Result<bool, usize>) {
        assert_eq!(follow(form, &bytes(text)), expect, "{text:?}");
    }

    #[test]
    fn text_is_free_until_a_call_begins() {
        let call = format!("<tool_call>\n{CALL}\n</tool_call>");
        for n in [1, 16] {
            let form = hermes(n);
            check(&form, "", Ok(true));
            check(&form, "Hello {\"<tool_\n\nyou", Ok(true));
            check(&form, "I look.\n<tool_call>", Ok(false));
            check(&form, "I look.\n<tool_call>\n{\"name\": \"g", Err(30));
            check(&form, &format!("I look.\n{call}"), Ok(true));
        }
        // One call is the end; after one of several, text and calls go on.
        check(&hermes(1), &format!("{call}."), Err(call.len()));
        check(&hermes(16), &format!("{call}\n{call} done <b>"), Ok(true));
        check(&hermes(16), &format!("{call}\n<tool_call>\nx"), Err(call.len() + 13));
    }

    #[test]
    fn without_a_mark_an_answer_calls_where_it_begins_so() {
        let list = plain("[", "", "", 1);
        check(&list, &format!("[{CALL}]"), Ok(true));
        check(&list, &format!("[{CALL}, "), Err(CALL.len() + 1));
        check(&plain("[", "", "", 2), &format!("[{CALL}, {CALL}]"), Ok(true));
        check(&list, "[1", Err(1));
        check(&list, "\n No [1]", Ok(true));
        check(&list, "", Ok(true));
        let bare = plain("", "", "", 1);
        check(&bare, CALL, Ok(true));
        check(&bare, "{\"age\"", Err(2));
        check(&bare, "It is {\"age\": 1}", Ok(true));
        // A control token may stand before calls, and nowhere else.
        let marked = [&[placeholder::SEP][..], &bytes(&format!("[{CALL}]"))].concat();
        assert_eq!(follow(&list, &marked), Ok(true));
        assert_eq!(follow(&list, &[placeholder::SEP, bytes("x")[0]]), Err(1));
        assert_eq!(follow(&list, &[bytes("x")[0], placeholder::SEP]), Err(1));
    }

    #[test]
    fn each_function_may_have_a_beginning_of_its_own() {
        let mut form = plain("", "[CALLS]f[ARGS]", "", 2);
        form.calls.schema = r#"{"const": 1}"#.to_owned();
        form.calls.others = vec![("[CALLS]g[ARGS]".to_owned(), r#"{"const": 2}"#.to_owned())];
        check(&form, "[CALLS]f[ARGS]1", Ok(true));
        check(&form, "[CALLS]g[ARGS]2, [CALLS]f[ARGS]1", Ok(true));
        check(&form, "[CALLS]g[ARGS]1", Err(14));
        check(&form, "I see [CALLS]", Ok(true));
    }

    #[test]
    fn an_answer_calls_or_is_of_the_other_form() {
        let mut form = hermes(1);
        let schema = r#"{"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"],
            "additionalProperties": false}"#;
        form.otherwise = Some(Box::new(AnswerForm::JsonSchema(schema.to_owned())));
        check(&form, "{\"x\": 1}", Ok(true));
        check(&form, "{\"y", Err(2));
        check(&form, &format!("<tool_call>\n{CALL}\n</tool_call>"), Ok(true));
        check(&form, "Hello", Err(0));
        form.otherwise = Some(Box::new(AnswerForm::Choice(vec!["yes".into(), "no".into()])));
        check(&form, "no", Ok(true));
        check(&form, &format!("<tool_call>\n{CALL}\n</tool_call>"), Ok(true));
        check(&form, "maybe", Err(0));
        // Calls that are JSON themselves, beside any object.
        let mut bare = plain("", "", "", 2);
        bare.otherwise = Some(Box::new(AnswerForm::JsonObject));
        check(&bare, CALL, Ok(true));
        check(&bare, &format!("{CALL}, {CALL}"), Ok(true));
        check(&bare, "{\n  \"name\": \"f\", \"age\": 3}", Ok(true));
        check(&bare, "{\"name\": 3}.", Err(11));
    }
}
