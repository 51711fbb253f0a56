//! Whether a model thinks before it answers, and how its template lets one ask for it.
//!
//! It must never take a model that does not think for one that does: its answers are told as they are.
//!
//! Start reading at [`Thinking::of_template`].

use lm_types::{ChatMessage, Dialog, ReasoningScanner, ReasoningStart};

/// Names by which templates know the switch; the first one that a template mentions is its own.
const SWITCHES: [(&str, &str); 2] =
    [("enable_thinking", "enable_thinking"), ("thinking is defined", "thinking")];

/// How a template lets one ask for reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinking {
    /// The template's variable that turns reasoning on or off, when it has one.
    pub switch: Option<&'static str>,
    /// Whether the template reads `reasoning_effort`.
    pub reads_effort: bool,
}

impl Thinking {
    /// A model of which nothing is known yet: whatever is asked may be right.
    pub const UNKNOWN: Thinking = Thinking { switch: Some(SWITCHES[0].1), reads_effort: true };

    /// `None` when the template mentions no tag: its model does not think.
    #[must_use]
    pub(crate) fn of_template(source: &str) -> Option<Thinking> {
        let mentions = |tag: &str| source.contains(tag);
        if !mentions(ReasoningScanner::OPEN) && !mentions(ReasoningScanner::CLOSE) {
            return None;
        }
        let switch = SWITCHES.iter().find(|(mark, _)| mentions(mark)).map(|(_, name)| *name);
        Some(Thinking { switch, reads_effort: mentions("reasoning_effort") })
    }
}

/// Where the answer to a rendered conversation begins; `None` when it goes on with text that was begun.
pub(crate) fn start(
    rendered: &str,
    messages: &[ChatMessage],
    dialog: &Dialog,
) -> Option<ReasoningStart> {
    let (open, close) = (ReasoningScanner::OPEN, ReasoningScanner::CLOSE);
    let begun = messages.last().filter(|_| dialog.continues_last);
    match begun.map(|last| last.content.trim_start()).filter(|content| !content.is_empty()) {
        Some(content) => {
            let inside = content.strip_prefix(open)?;
            (!inside.contains(close)).then_some(ReasoningStart::Open)
        }
        None if rendered.trim_end().ends_with(open) => Some(ReasoningStart::Open),
        None => Some(ReasoningStart::Closed),
    }
}

#[cfg(test)]
mod tests {
    use lm_types::Role;

    use super::*;

    #[test]
    fn families_are_known_by_the_template() {
        let check = |source, expect| assert_eq!(Thinking::of_template(source), expect);
        check("{{ messages }} think", None);
        check("{% if enable_thinking %}{% endif %}", None);
        let (switch, reads_effort) = (Some("enable_thinking"), false);
        let qwen3 = "{% if enable_thinking is false %}{{ '<think>\n\n</think>' }}{% endif %}";
        check(qwen3, Some(Thinking { switch, reads_effort }));
        let deepseek = "{% if not thinking is defined %}{{ '</think>' }}";
        check(deepseek, Some(Thinking { switch: Some("thinking"), reads_effort }));
        check("{{ '<think>' }}", Some(Thinking { switch: None, reads_effort }));
        let both = "{{ reasoning_effort }}<think>";
        check(both, Some(Thinking { switch: None, reads_effort: true }));
    }

    #[test]
    fn an_answer_begins_where_its_prompt_ends() {
        let check = |rendered: &str, prefill: Option<&str>, expect| {
            let mut messages =
                vec![ChatMessage { role: Role::User, content: "a <think>".to_owned() }];
            let content = prefill.map(str::to_owned);
            messages.extend(content.map(|content| ChatMessage { role: Role::Assistant, content }));
            let dialog = Dialog { continues_last: prefill.is_some(), ..Dialog::default() };
            assert_eq!(start(rendered, &messages, &dialog), expect, "{rendered:?} {prefill:?}");
        };
        check("a <think>\nassistant:", None, Some(ReasoningStart::Closed));
        check("assistant: <think>\n", None, Some(ReasoningStart::Open));
        check("assistant: <think>\n\n</think>\n\n", None, Some(ReasoningStart::Closed));
        check("assistant: <think>so", Some("<think>so"), Some(ReasoningStart::Open));
        check("assistant: <think>so</think>a", Some("<think>so</think>a"), None);
        check("assistant: it is", Some("it is"), None);
        check("assistant: ", Some(""), Some(ReasoningStart::Closed));
    }
}
