//! What a model thinks before it answers: text between `<think>` and `</think>`, at the beginning of its answer.
//!
//! It must never take a tag for one that stands anywhere else: what an answer says about `<think>` is text.
//!
//! Start reading at [`ReasoningScanner::push`].

/// Where an answer begins, as its prompt left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasoningStart {
    /// The answer may begin with the opening tag.
    Closed,
    /// The prompt ends within the tags: the answer begins with reasoning.
    Open,
}

/// More of an answer: what was thought comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Reasoning, without the blanks beside the tags.
    pub reasoning: String,
    /// Text for people, without the blanks after the closing tag.
    pub text: String,
}

/// Reads one answer as it comes. Text that may turn out to be a tag is held back.
#[derive(Clone, Debug)]
pub struct ReasoningScanner {
    state: State,
    /// Not told yet: blanks, and what may be the beginning of a tag.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but blanks was seen; the opening tag may come.
    Begin(ReasoningStart),
    /// Within the tags, after their first blanks if something was said.
    Thinks { has_begun: bool },
    /// After the closing tag, before any text.
    Thought,
    /// What comes is text.
    Says,
}

impl ReasoningScanner {
    /// What opens reasoning.
    pub const OPEN: &'static str = "<think>";
    /// What closes it.
    pub const CLOSE: &'static str = "</think>";

    /// A scanner of an answer.
    #[must_use]
    pub fn new(start: ReasoningStart) -> Self {
        ReasoningScanner { state: State::Begin(start), held: String::new() }
    }

    /// Whether what comes next is reasoning, as far as can be told.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::Begin(ReasoningStart::Open) | State::Thinks { .. })
    }

    /// Whether the rest of the answer is text.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Thought | State::Says)
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Split {
        let mut split = Split::default();
        if self.state == State::Says {
            split.text.push_str(text);
            return split;
        }
        self.held.push_str(text);
        while self.advance(&mut split) {}
        split
    }

    /// The answer is over: what was held back is what it is by now.
    pub fn finish(&mut self) -> Split {
        let is_thinking = self.is_thinking();
        if self.state == State::Begin(ReasoningStart::Open) {
            self.drop_blanks();
        }
        let held = std::mem::take(&mut self.held);
        self.state = State::Says;
        match is_thinking {
            true => Split { reasoning: held.trim_end().to_owned(), text: String::new() },
            false => Split { reasoning: String::new(), text: held },
        }
    }

    /// Takes one step; `false` when more text is needed.
    fn advance(&mut self, split: &mut Split) -> bool {
        match self.state {
            State::Begin(start) => self.begin(start),
            State::Thinks { has_begun } => self.think(has_begun, split),
            State::Thought => {
                self.drop_blanks();
                if self.held.is_empty() {
                    return false;
                }
                self.state = State::Says;
                true
            }
            State::Says => {
                split.text.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }

    fn begin(&mut self, start: ReasoningStart) -> bool {
        let rest = self.held.trim_start();
        if let Some(inside) = rest.strip_prefix(Self::OPEN) {
            self.held = inside.to_owned();
            self.state = State::Thinks { has_begun: false };
        } else if Self::OPEN.starts_with(rest) {
            return false;
        } else {
            self.state = match start {
                ReasoningStart::Closed => State::Says,
                ReasoningStart::Open => State::Thinks { has_begun: false },
            };
        }
        true
    }

    fn think(&mut self, has_begun: bool, split: &mut Split) -> bool {
        if !has_begun {
            self.drop_blanks();
        }
        let found = self.held.find(Self::CLOSE);
        let n_tag = |n: &usize| self.held.ends_with(&Self::CLOSE[..*n]);
        let n_partial = (1..Self::CLOSE.len()).rev().find(n_tag).unwrap_or(0);
        let inside = &self.held[..found.unwrap_or(self.held.len() - n_partial)];
        let n_solid = inside.trim_end().len();
        split.reasoning.push_str(&inside[..n_solid]);
        match found {
            Some(at) => {
                self.held.drain(..at + Self::CLOSE.len());
                self.state = State::Thought;
                true
            }
            None => {
                self.held.drain(..n_solid);
                self.state = State::Thinks { has_begun: has_begun || n_solid > 0 };
                false
            }
        }
    }

    fn drop_blanks(&mut self) {
        let n_blanks = self.held.len() - self.held.trim_start().len();
        self.held.drain(..n_blanks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same however the text is cut.
    #[track_caller]
    fn check(start: ReasoningStart, answer: &str, reasoning: &str, text: &str) {
        let characters: Vec<char> = answer.chars().collect();
        for size in (1..=9).chain([1000]) {
            let mut scanner = ReasoningScanner::new(start);
            let mut all = Split::default();
            let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
            let mut splits: Vec<Split> = pieces.map(|piece| scanner.push(&piece)).collect();
            splits.push(scanner.finish());
            for split in splits {
                // Once there is text, nothing is thought.
                assert!(all.text.is_empty() || split.reasoning.is_empty());
                all.reasoning.push_str(&split.reasoning);
                all.text.push_str(&split.text);
            }
            let expect = Split { reasoning: reasoning.to_owned(), text: text.to_owned() };
            assert_eq!(all, expect, "in pieces of {size}");
        }
        // In two pieces, wherever they part.
        for (at, _) in answer.char_indices() {
            let mut scanner = ReasoningScanner::new(start);
            let (before, after) = answer.split_at(at);
            let splits = [scanner.push(before), scanner.push(after), scanner.finish()];
            assert_eq!(splits.map(|split| split.reasoning).concat(), reasoning, "cut at {at}");
        }
    }

    #[test]
    fn what_stands_within_the_tags_is_reasoning() {
        let closed = ReasoningStart::Closed;
        check(closed, "<think>\nhm, ä\n\nso\n</think>\n\n4 is it\n", "hm, ä\n\nso", "4 is it\n");
        check(closed, "\n<think>a</think>b", "a", "b");
        check(closed, "<think>\n\n</think>\n\nb", "", "b");
        check(closed, "<think>a </thin </think >< /think>", "a </thin </think >< /think>", "");
        check(closed, "<think>cut off ", "cut off", "");
        check(closed, "<think>a</think>", "a", "");
        check(closed, "<think>a </thi", "a </thi", "");
    }

    #[test]
    fn a_prompt_may_have_opened_them() {
        let open = ReasoningStart::Open;
        check(open, "hm\n</think>\n\nyes", "hm", "yes");
        check(open, "\n<think>\nhm</think>yes", "hm", "yes");
        check(open, "<thin ice", "<thin ice", "");
        check(open, "</think>yes", "", "yes");
        check(open, "<thi", "<thi", "");
    }

    #[test]
    fn tags_that_come_later_are_text() {
        let closed = ReasoningStart::Closed;
        for text in ["Write <think>x</think>.", " <thinking>", "<thi", " \n", "", "</think>a"] {
            check(closed, text, "", text);
        }
        check(closed, "<think>a</think>b <think>c</think>", "a", "b <think>c</think>");
        check(ReasoningStart::Open, "a</think>b</think>", "a", "b</think>");
    }
}
