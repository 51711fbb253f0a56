//! From an answer's text, as it comes, to what is said and what is called.
//!
//! It must never change a text that calls nothing.
//!
//! Start reading at [`ToolCallParser::push`].

use crate::ToolFormat;
use crate::call_scanner::{CallScanner, Scan};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    /// What the model thought before it answered.
    Reasoning(String),
    /// Text for people.
    Text(String),
    /// A call begins. Calls are numbered from 0.
    CallBegins {
        /// Its number.
        index: usize,
        /// The function.
        name: String,
    },
    /// More of the JSON text of a call's arguments.
    Arguments {
        /// The call's number.
        index: usize,
        /// The piece.
        json: String,
    },
}

/// Reads one answer. Text that may turn out to begin a call is held back.
#[derive(Clone, Debug)]
pub struct ToolCallParser {
    format: ToolFormat,
    /// Only functions that were offered are called; anything else is text.
    names: Vec<String>,
    /// Not looked at yet.
    held: String,
    /// Blanks before what may be a call; dropped when it is one.
    blanks: String,
    state: State,
    n_calls: usize,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing but blanks was seen.
    Begin,
    /// Text, in which a marker may come.
    Text,
    /// A call is being read; `opening` is what was read before it.
    Call { scanner: CallScanner, opening: String, n_sent: usize, is_named: bool },
    /// After a call.
    After,
}

impl ToolCallParser {
    /// A parser of an answer in `format` to a request that offered the functions `names`.
    #[must_use]
    pub fn new(format: ToolFormat, names: Vec<String>) -> Self {
        let (held, blanks) = (String::new(), String::new());
        ToolCallParser { format, names, held, blanks, state: State::Begin, n_calls: 0 }
    }

    /// Calls that began.
    #[must_use]
    pub fn n_calls(&self) -> usize {
        self.n_calls
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<AnswerPart> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.advance(&mut parts) {}
        parts
    }

    /// The answer is over: what was held back is text.
    pub fn finish(&mut self) -> Vec<AnswerPart> {
        let mut parts = Vec::new();
        if let State::Call { scanner, opening, is_named: false, .. } =
            std::mem::replace(&mut self.state, State::Text)
        {
            self.say(&format!("{opening}{}", scanner.raw()), &mut parts);
        }
        let held = std::mem::take(&mut self.held);
        self.say(&held, &mut parts);
        if self.n_calls == 0 {
            let blanks = std::mem::take(&mut self.blanks);
            push_text(&mut parts, &blanks);
        }
        parts
    }

    fn marker(&self) -> &'static str {
        match self.format {
            ToolFormat::Hermes => "<tool_call>",
            ToolFormat::Mistral => "[TOOL_CALLS]",
            // A control token in the vocabulary; written out only by models that lost it.
            ToolFormat::Llama => "<|python_tag|>",
        }
    }

    /// Takes one step; `false` when more text is needed.
    fn advance(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        match &mut self.state {
            State::Begin => self.begin(),
            State::Text => self.text(parts),
            State::Call { .. } => self.call(parts),
            State::After => self.after(),
        }
    }

    /// Some formats call without a marker at the beginning of an answer.
    fn begin(&mut self) -> bool {
        let n_blanks = self.held.len() - self.held.trim_start().len();
        self.blanks.extend(self.held.drain(..n_blanks));
        let Some(first) = self.held.chars().next() else { return false };
        match (self.format, first) {
            (ToolFormat::Llama, '{') => self.open(0),
            (ToolFormat::Mistral, '[') if !self.marker().starts_with(self.held.as_str()) => {
                if self.held.starts_with(self.marker()) {
                    self.state = State::Text
                } else {
                    self.open(1)
                }
            }
            (ToolFormat::Mistral, '[') => return false,
            _ => self.state = State::Text,
        }
        true
    }

    /// A call begins after `n` bytes of what is held.
    fn open(&mut self, n: usize) {
        let mut opening: String = self.held.drain(..n).collect();
        let n_blanks = self.held.len() - self.held.trim_start().len();
        opening.extend(self.held.drain(..n_blanks));
        let scanner = CallScanner::default();
        self.state = State::Call { scanner, opening, n_sent: 0, is_named: false };
    }

    fn text(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        let marker = self.marker();
        if let Some(at) = self.held.find(marker) {
            let before: String = self.held.drain(..at).collect();
            self.say(&before, parts);
            let mut n = marker.len();
            if self.format == ToolFormat::Mistral {
                let rest = &self.held[n..];
                match rest.trim_start().chars().next() {
                    None => return false,
                    Some('[') => n = self.held.len() - rest.trim_start().len() + 1,
                    Some(_) => {}
                }
            }
            self.open(n);
            return true;
        }
        let n_kept =
            (1..marker.len()).rev().find(|&n| self.held.ends_with(&marker[..n])).unwrap_or(0);
        let sure: String = self.held.drain(..self.held.len() - n_kept).collect();
        self.say(&sure, parts);
        false
    }

    fn call(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        let State::Call { scanner, opening, n_sent, is_named } = &mut self.state else {
            return false;
        };
        if scanner.raw().is_empty() {
            let n_blanks = self.held.len() - self.held.trim_start().len();
            opening.extend(self.held.drain(..n_blanks));
        }
        if self.held.is_empty() {
            return false;
        }
        let scan = scanner.push(&self.held);
        let is_known = scanner.name.as_ref().map(|name| self.names.contains(name));
        if !*is_named && is_known == Some(true) {
            *is_named = true;
            let name = scanner.name.clone().unwrap_or_default();
            parts.push(AnswerPart::CallBegins { index: self.n_calls, name });
            self.n_calls += 1;
            self.blanks.clear();
        }
        let is_over = scan != Scan::Open;
        if *is_named {
            let whole = scanner.arguments().or_else(|| is_over.then(|| "{}".to_owned()));
            if let Some(json) = whole.filter(|whole| whole.len() > *n_sent) {
                let piece = json[*n_sent..].to_owned();
                *n_sent = json.len();
                parts.push(AnswerPart::Arguments { index: self.n_calls - 1, json: piece });
            }
        }
        let gave_up = !*is_named && (is_over || is_known == Some(false));
        let said = gave_up.then(|| format!("{opening}{}", scanner.raw()));
        match scan {
            Scan::Open => self.held.clear(),
            Scan::Done { taken } => drop(self.held.drain(..taken)),
            Scan::Broken => {}
        }
        if let Some(said) = said {
            self.state = State::Text;
            self.say(&said, parts);
            return !self.held.is_empty();
        }
        if is_over {
            self.state = State::After;
        }
        is_over
    }

    /// Closing marks and separators say nothing.
    fn after(&mut self) -> bool {
        let closing = match self.format {
            ToolFormat::Hermes => "</tool_call>",
            ToolFormat::Mistral => "]",
            ToolFormat::Llama => ";",
        };
        let n_blanks = self.held.len() - self.held.trim_start().len();
        self.blanks.extend(self.held.drain(..n_blanks));
        if self.held.is_empty()
            || (self.held.len() < closing.len() && closing.starts_with(&self.held))
        {
            return false;
        }
        if self.held.starts_with(closing) {
            self.held.drain(..closing.len());
            self.blanks.clear();
            return !self.held.is_empty();
        }
        match (self.format, self.held.as_bytes()[0]) {
            (ToolFormat::Mistral, b',') => self.open(1),
            (ToolFormat::Llama, b'{') => self.open(0),
            _ => self.state = State::Text,
        }
        true
    }

    /// Blanks wait until something follows that is no call.
    fn say(&mut self, text: &str, parts: &mut Vec<AnswerPart>) {
        let solid = text.trim_end().len();
        if solid > 0 {
            let blanks = std::mem::take(&mut self.blanks);
            push_text(parts, &blanks);
            push_text(parts, &text[..solid]);
        }
        self.blanks.push_str(&text[solid..]);
    }
}

fn push_text(parts: &mut Vec<AnswerPart>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(AnswerPart::Text(before)) => before.push_str(text),
        _ => parts.push(AnswerPart::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same however the text is cut: its words, and its calls with their arguments.
    #[track_caller]
    fn check(format: ToolFormat, text: &str, words: &str, calls: &[(&str, &str)]) {
        for size in [1, 2, 3, 7, 1000] {
            let mut parser = ToolCallParser::new(format, vec!["f".into(), "g".into()]);
            let (mut said, mut called) = (String::new(), Vec::<(String, String)>::new());
            let characters: Vec<char> = text.chars().collect();
            let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
            let mut parts: Vec<AnswerPart> = pieces.flat_map(|piece| parser.push(&piece)).collect();
            parts.extend(parser.finish());
            for part in parts {
                match part {
                    AnswerPart::Text(text) => said.push_str(&text),
                    AnswerPart::CallBegins { name, .. } => called.push((name, String::new())),
                    AnswerPart::Arguments { index, json } => called[index].1.push_str(&json),
                    AnswerPart::Reasoning(text) => panic!("{text:?} was thought"),
                }
            }
            let expect: Vec<(String, String)> =
                calls.iter().map(|(name, json)| ((*name).into(), (*json).into())).collect();
            assert_eq!((said.as_str(), called), (words, expect), "in pieces of {size}");
        }
    }

    #[test]
    fn hermes() {
        let format = ToolFormat::Hermes;
        check(format, "plain <tool> text\n ", "plain <tool> text\n ", &[]);
        let one =
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"}\\\"ä\"}}\n</tool_call>";
        check(format, one, "", &[("f", "{\"x\": \"}\\\"ä\"}")]);
        let two = format!(
            "I will.\n{one}\n<tool_call>{{\"arguments\": {{}}, \"name\":\"g\"}}</tool_call>\n"
        );
        check(format, &two, "I will.", &[("f", "{\"x\": \"}\\\"ä\"}"), ("g", "{}")]);
        check(format, "<tool_call>{\"name\": \"f\"}</tool_call> done", " done", &[("f", "{}")]);
        let unknown = "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call>";
        check(format, unknown, unknown, &[]);
        check(format, "<tool_call>not JSON", "<tool_call>not JSON", &[]);
        check(format, "<tool_call>{\"name\": \"f\", \"argum", "", &[("f", "")]);
        let quoted = "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>";
        check(format, quoted, "", &[("f", "{\"a\": 1}")]);
    }

    #[test]
    fn llama() {
        let format = ToolFormat::Llama;
        check(
            format,
            " {\"name\": \"f\", \"parameters\": {\"a\": [1]}}",
            "",
            &[("f", "{\"a\": [1]}")],
        );
        let two =
            "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"b\": 2}}";
        check(format, two, "", &[("f", "{}"), ("g", "{\"b\": 2}")]);
        let person = "{\"name\": \"Bob\", \"age\": 3}";
        check(format, person, person, &[]);
        check(format, "It is {\"name\": \"f\"}.", "It is {\"name\": \"f\"}.", &[]);
    }

    #[test]
    fn mistral() {
        let format = ToolFormat::Mistral;
        let calls =
            "[{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]";
        let expect = [("f", "{\"a\": 1}"), ("g", "{}")];
        check(format, calls, "", &expect);
        check(format, &format!("[TOOL_CALLS] {calls}"), "", &expect);
        check(format, "[1, 2]", "[1, 2]", &[]);
        check(format, "[TOOLS", "[TOOLS", &[]);
    }
}
