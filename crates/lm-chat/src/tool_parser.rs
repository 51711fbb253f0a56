//! From an answer's text, as it comes, to what is said and what is called.
//!
//! It must never change a text that calls nothing.
//!
//! Start reading at [`ToolCallParser::push`].

use crate::ToolFormat;
use crate::call_scanner::{CallScanner, Scan};

/// Where the arguments of a call must have begun: a name has at most 64 bytes, an id and two marks stand behind it.
const MAX_HEAD: usize = 160;

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
    /// A marker was read, and blanks: `opening`. What follows says how the call is written.
    Marked { opening: String },
    /// A call is being read; `opening` is what was read before it.
    Call { scanner: CallScanner, opening: String, n_sent: usize, is_named: bool },
    /// The arguments of a call are being read, whose name was before them.
    Arguments { scanner: CallScanner, n_sent: usize },
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
        match std::mem::replace(&mut self.state, State::Text) {
            State::Call { scanner, opening, is_named: false, .. } => {
                self.say(&format!("{opening}{}", scanner.raw()), &mut parts);
            }
            State::Marked { opening } => self.say(&opening, &mut parts),
            _ => {}
        }
        let held = std::mem::take(&mut self.held);
        self.say(&held, &mut parts);
        if self.n_calls == 0 {
            let blanks = std::mem::take(&mut self.blanks);
            push_text(&mut parts, &blanks);
        }
        parts
    }

    /// Takes one step; `false` when more text is needed.
    fn advance(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        match &mut self.state {
            State::Begin => self.begin(),
            State::Text => self.text(parts),
            State::Marked { .. } => self.marked(parts),
            State::Call { .. } => self.call(parts),
            State::Arguments { .. } => self.arguments(parts),
            State::After => self.after(),
        }
    }

    /// Some formats call without a marker at the beginning of an answer.
    fn begin(&mut self) -> bool {
        let n_blanks = self.held.len() - self.held.trim_start().len();
        self.blanks.extend(self.held.drain(..n_blanks));
        let Some(first) = self.held.chars().next() else { return false };
        let (held, markers) = (self.held.as_str(), self.format.markers());
        if self.format.bare() != Some(first) || markers.iter().any(|mark| held.starts_with(*mark)) {
            self.state = State::Text;
        } else if markers.iter().any(|mark| mark.starts_with(held)) {
            return false;
        } else {
            self.open(String::new(), usize::from(first == '['));
        }
        true
    }

    /// A call begins after `n` bytes of what is held, which follow `opening`.
    fn open(&mut self, mut opening: String, n: usize) {
        opening.extend(self.held.drain(..n));
        let n_blanks = self.held.len() - self.held.trim_start().len();
        opening.extend(self.held.drain(..n_blanks));
        let scanner = CallScanner::default();
        self.state = State::Call { scanner, opening, n_sent: 0, is_named: false };
    }

    fn text(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        let markers = self.format.markers();
        let places = markers.iter().filter_map(|mark| Some((self.held.find(*mark)?, mark.len())));
        if let Some((at, n)) = places.min() {
            let before: String = self.held.drain(..at).collect();
            self.say(&before, parts);
            self.state = State::Marked { opening: self.held.drain(..n).collect() };
            return true;
        }
        let begins = |mark: &str, n: usize| n < mark.len() && self.held.ends_with(&mark[..n]);
        let longest = markers.iter().map(|mark| mark.len()).max().unwrap_or(0);
        let n_kept = (1..longest).rev().find(|&n| markers.iter().any(|mark| begins(mark, n)));
        let n_sure = self.held.len() - n_kept.unwrap_or(0);
        let sure: String = self.held.drain(..n_sure).collect();
        self.say(&sure, parts);
        false
    }

    /// After a marker comes a list, a call, or where the format has it a name.
    fn marked(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        let State::Marked { opening } = &mut self.state else { return false };
        let n_blanks = self.held.len() - self.held.trim_start().len();
        opening.extend(self.held.drain(..n_blanks));
        let Some(first) = self.held.chars().next() else { return false };
        let opening = std::mem::take(opening);
        match first {
            '[' if self.format.has_lists() => self.open(opening, 1),
            first if first != '{' && self.format.has_heads() => return self.head(opening, parts),
            _ => self.open(opening, 0),
        }
        true
    }

    /// A name, and marks between it and the arguments.
    fn head(&mut self, opening: String, parts: &mut Vec<AnswerPart>) -> bool {
        let end = self.held.find('{');
        if end.is_none() && self.held.len() < MAX_HEAD {
            self.state = State::Marked { opening };
            return false;
        }
        let head = &self.held[..end.unwrap_or(0)];
        let name = head.split('[').next().unwrap_or_default();
        let marks = &head[name.len()..];
        let is_marked = marks.starts_with("[CALL_ID]") || marks.starts_with("[ARGS]");
        let name = name.trim().to_owned();
        if !self.names.contains(&name) || !(is_marked || marks.is_empty()) {
            self.state = State::Text;
            self.say(&opening, parts);
            return true;
        }
        self.held.drain(..end.unwrap_or(0));
        self.state = State::Arguments { scanner: CallScanner::default(), n_sent: 0 };
        parts.push(AnswerPart::CallBegins { index: self.n_calls, name });
        self.n_calls += 1;
        self.blanks.clear();
        true
    }

    fn arguments(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        let State::Arguments { scanner, n_sent } = &mut self.state else { return false };
        if self.held.is_empty() {
            return false;
        }
        let scan = scanner.push(&self.held);
        let json = scanner.raw()[*n_sent..].to_owned();
        *n_sent += json.len();
        if !json.is_empty() {
            parts.push(AnswerPart::Arguments { index: self.n_calls - 1, json });
        }
        match scan {
            Scan::Open => self.held.clear(),
            Scan::Done { taken } => drop(self.held.drain(..taken)),
            Scan::Broken => {}
        }
        let is_over = scan != Scan::Open;
        if is_over {
            self.state = State::After;
        }
        is_over
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
        let n_blanks = self.held.len() - self.held.trim_start().len();
        self.blanks.extend(self.held.drain(..n_blanks));
        let (held, closings) = (self.held.as_str(), self.format.closings());
        if closings.iter().any(|mark| held.len() < mark.len() && mark.starts_with(held)) {
            return false;
        }
        if let Some(closing) = closings.iter().find(|mark| held.starts_with(**mark)) {
            self.held.drain(..closing.len());
            self.blanks.clear();
            return !self.held.is_empty();
        }
        let first = held.as_bytes()[0];
        match first {
            b',' if self.format.has_lists() => self.open(String::new(), 1),
            b'{' if self.format == ToolFormat::Llama => self.open(String::new(), 0),
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

impl ToolFormat {
    /// What stands before calls.
    fn markers(self) -> &'static [&'static str] {
        match self {
            ToolFormat::Hermes => &["<tool_call>"],
            // A control token in the vocabulary; written out only by models that lost it.
            ToolFormat::Llama => &["<|python_tag|>"],
            ToolFormat::Mistral | ToolFormat::MistralArgs => &["[TOOL_CALLS]"],
            // Granite 3.1 writes the second one, as text.
            ToolFormat::Granite => &["<|tool_call|>", "<tool_call>"],
            ToolFormat::Phi => &["<|tool_call|>"],
        }
    }

    /// What stands behind calls, or behind all of them.
    fn closings(self) -> &'static [&'static str] {
        match self {
            ToolFormat::Hermes => &["</tool_call>"],
            ToolFormat::Llama => &[";"],
            ToolFormat::Mistral | ToolFormat::MistralArgs => &["]"],
            ToolFormat::Granite => &["]", "<|/tool_call|>", "</tool_call>"],
            ToolFormat::Phi => &["]", "<|/tool_call|>"],
        }
    }

    /// What begins calls without a marker, as the first character of an answer.
    fn bare(self) -> Option<char> {
        match self {
            ToolFormat::Hermes => None,
            ToolFormat::Llama => Some('{'),
            _ => Some('['),
        }
    }

    /// Whether calls may come in a list.
    fn has_lists(self) -> bool {
        self.bare() == Some('[')
    }

    /// Whether a call's name may stand before its arguments.
    fn has_heads(self) -> bool {
        matches!(self, ToolFormat::Mistral | ToolFormat::MistralArgs)
    }
}

fn push_text(parts: &mut Vec<AnswerPart>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(AnswerPart::Text(before)) => before.push_str(text),
        _ => parts.push(AnswerPart::Text(text.to_owned())),
    }
}
