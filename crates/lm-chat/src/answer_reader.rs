//! From an answer's text, as it comes, to what was thought, what is said and what is called.
//!
//! It must never look for calls in what was thought.
//!
//! Start reading at [`AnswerReader::push`].

use std::sync::Arc;

use lm_types::{OutputRules, ReasoningScanner, ReasoningStart, Split};

use crate::screen::Screen;
use crate::{AnswerPart, ToolCallParser};

/// Reads one answer: first its reasoning, then its calls, as far as it may have them.
#[derive(Clone, Debug)]
pub struct AnswerReader {
    reasoning: Option<ReasoningScanner>,
    calls: Option<ToolCallParser>,
    screen: Option<Screen>,
}

impl AnswerReader {
    /// A reader of an answer that begins with reasoning at `reasoning`, and may hold the calls that `calls`
    /// reads. `None` when it is nothing but text.
    #[must_use]
    pub fn new(reasoning: Option<ReasoningStart>, calls: Option<ToolCallParser>) -> Option<Self> {
        let reasoning = reasoning.map(ReasoningScanner::new);
        let has_parts = reasoning.is_some() || calls.is_some();
        has_parts.then_some(AnswerReader { reasoning, calls, screen: None })
    }

    /// The reader that tells no phrase that these rules ban, although the answer's text, which goes on with `before`, holds
    /// none.
    #[must_use]
    pub fn screened(mut self, rules: Option<Arc<OutputRules>>, before: &str) -> Self {
        self.screen = rules.map(|rules| Screen::new(rules, before));
        self
    }

    /// Which of the bans was met: nothing more is told, and the answer ends there.
    #[must_use]
    pub fn found(&self) -> Option<usize> {
        self.screen.as_ref().and_then(Screen::found)
    }

    /// Calls that began.
    #[must_use]
    pub fn n_calls(&self) -> usize {
        self.calls.as_ref().map_or(0, ToolCallParser::n_calls)
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<AnswerPart> {
        let parts = match &mut self.reasoning {
            Some(scanner) => {
                let split = scanner.push(text);
                self.told(split)
            }
            None => self.said(text),
        };
        self.passed(parts)
    }

    /// The answer is over: what was held back is told.
    pub fn finish(&mut self) -> Vec<AnswerPart> {
        let split = self.reasoning.as_mut().map(ReasoningScanner::finish);
        let mut parts = self.told(split.unwrap_or_default());
        parts.extend(self.calls.as_mut().map(ToolCallParser::finish).into_iter().flatten());
        let mut parts = self.passed(parts);
        parts.extend(self.screen.as_mut().map(Screen::finish).into_iter().flatten());
        parts
    }

    fn passed(&mut self, parts: Vec<AnswerPart>) -> Vec<AnswerPart> {
        match &mut self.screen {
            Some(screen) => screen.pass(parts),
            None => parts,
        }
    }

    fn told(&mut self, split: Split) -> Vec<AnswerPart> {
        let reasoning = Some(split.reasoning).filter(|text| !text.is_empty());
        let mut parts: Vec<AnswerPart> = reasoning.map(AnswerPart::Reasoning).into_iter().collect();
        parts.extend(self.said(&split.text));
        parts
    }

    fn said(&mut self, text: &str) -> Vec<AnswerPart> {
        match &mut self.calls {
            Some(calls) => calls.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![AnswerPart::Text(text.to_owned())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ToolFormat;

    #[test]
    fn calls_come_after_reasoning_only() {
        let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
        let answer = format!("<think>\nI could {call}\n</think>\n\n{call}");
        for size in [1, 4, 1000] {
            let calls = ToolCallParser::new(ToolFormat::Hermes, vec!["f".to_owned()]);
            let reader = AnswerReader::new(Some(ReasoningStart::Closed), Some(calls));
            let mut reader = reader.expect("it has something to read");
            let characters: Vec<char> = answer.chars().collect();
            let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
            let mut parts: Vec<AnswerPart> = pieces.flat_map(|piece| reader.push(&piece)).collect();
            parts.extend(reader.finish());
            let mut thought = String::new();
            let mut rest = Vec::new();
            for part in parts {
                match part {
                    AnswerPart::Reasoning(text) => thought.push_str(&text),
                    other => rest.push(other),
                }
            }
            assert_eq!(thought, format!("I could {call}"), "in pieces of {size}");
            let begins = AnswerPart::CallBegins { index: 0, name: "f".to_owned() };
            assert_eq!(rest.first(), Some(&begins));
            assert_eq!(reader.n_calls(), 1);
        }
    }

    #[test]
    fn what_is_text_alone_needs_no_reader() {
        assert!(AnswerReader::new(None, None).is_none());
    }
}
