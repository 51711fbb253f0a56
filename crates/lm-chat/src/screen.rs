//! Banned phrases in what an answer turns out to say, once its tags and calls are taken out and what was written as a
//! string within JSON is unescaped.
//!
//! It must never tell a phrase, whole: where one part of an answer is left for another, what may begin one is told, and
//! what would complete it is not.
//!
//! Start reading at [`Screen::pass`].

use std::sync::Arc;

use lm_types::{OnHit, OutputRules, PhraseScan};

use crate::AnswerPart;

/// What readers see as one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
    Arguments(usize),
}

/// One text as far as it came.
#[derive(Clone, Debug)]
struct Channel {
    kind: Kind,
    /// The end of what was told that may begin a phrase.
    open_end: String,
    /// What is not told yet, as it may be part of one.
    held: String,
}

/// Looks at all texts of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    rules: Arc<OutputRules>,
    channels: Vec<Channel>,
    /// The one that is told now.
    current: usize,
    found: Option<usize>,
}

impl Screen {
    /// A look at an answer whose text goes on with `before`.
    pub(crate) fn new(rules: Arc<OutputRules>, before: &str) -> Self {
        let (kind, open_end) = (Kind::Text, rules.open_end(before).to_owned());
        let text = Channel { kind, open_end, held: String::new() };
        Screen { rules, channels: vec![text], current: 0, found: None }
    }

    /// Which of the bans was met; nothing of the answer is told from there on.
    pub(crate) fn found(&self) -> Option<usize> {
        self.found
    }

    /// What may be told of more parts.
    pub(crate) fn pass(&mut self, parts: Vec<AnswerPart>) -> Vec<AnswerPart> {
        let mut told = Vec::new();
        for part in parts {
            if self.found.is_some() {
                break;
            }
            match part {
                AnswerPart::CallBegins { .. } => {
                    self.leave(&mut told);
                    told.push(part);
                }
                AnswerPart::Reasoning(text) => self.push(Kind::Reasoning, &text, &mut told),
                AnswerPart::Text(text) => self.push(Kind::Text, &text, &mut told),
                AnswerPart::Arguments { index, json } => {
                    self.push(Kind::Arguments(index), &json, &mut told);
                }
            }
        }
        told
    }

    /// The answer is over: what was held back holds no phrase.
    pub(crate) fn finish(&mut self) -> Vec<AnswerPart> {
        let mut told = Vec::new();
        if self.found.is_none() {
            self.leave(&mut told);
        }
        told
    }

    fn push(&mut self, kind: Kind, text: &str, told: &mut Vec<AnswerPart>) {
        if self.channels.get(self.current).is_some_and(|channel| channel.kind != kind) {
            self.leave(told);
        }
        let known = self.channels.iter().position(|channel| channel.kind == kind);
        self.current = known.unwrap_or(self.channels.len());
        if known.is_none() {
            self.channels.push(Channel { kind, open_end: String::new(), held: String::new() });
        }
        let channel = &mut self.channels[self.current];
        channel.held.push_str(text);
        let n_open = channel.open_end.len();
        let seen = format!("{}{}", channel.open_end, channel.held);
        match self.rules.scan_after(&seen, n_open) {
            PhraseScan::Safe(n) => channel.tell(n.saturating_sub(n_open), &self.rules, told),
            PhraseScan::Found { at, ban } => {
                channel.tell(at.saturating_sub(n_open), &self.rules, told);
                channel.held.clear();
                self.found = Some(ban);
                channel.replace(&self.rules.bans()[ban].then, &self.rules, told);
            }
        }
    }

    /// Tells what is held back of the text that is told now: it is not known when that goes on.
    fn leave(&mut self, told: &mut Vec<AnswerPart>) {
        if let Some(channel) = self.channels.get_mut(self.current) {
            channel.tell(channel.held.len(), &self.rules, told);
        }
    }
}

impl Channel {
    /// Tells so many bytes of what is held back.
    fn tell(&mut self, n_bytes: usize, rules: &OutputRules, told: &mut Vec<AnswerPart>) {
        if n_bytes == 0 {
            return;
        }
        let text: String = self.held.drain(..n_bytes).collect();
        self.open_end.push_str(&text);
        self.open_end = rules.open_end(&self.open_end).to_owned();
        told.push(match self.kind {
            Kind::Reasoning => AnswerPart::Reasoning(text),
            Kind::Text => AnswerPart::Text(text),
            Kind::Arguments(index) => AnswerPart::Arguments { index, json: text },
        });
    }

    /// Puts a rule's text in the place of a phrase, where people read it and unless it would complete another.
    fn replace(&mut self, then: &OnHit, rules: &OutputRules, told: &mut Vec<AnswerPart>) {
        let OnHit::Replace(text) = then else { return };
        let seen = format!("{}{text}", self.open_end);
        let is_free = matches!(rules.scan_after(&seen, self.open_end.len()), PhraseScan::Safe(_));
        if self.kind == Kind::Text && is_free {
            told.push(AnswerPart::Text(text.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use lm_types::{Ban, ReasoningStart};

    use crate::{AnswerReader, ToolCallParser, ToolFormat};

    use super::*;

    fn rules(phrase: &str, then: OnHit) -> Arc<OutputRules> {
        let phrase = phrase.to_owned();
        let ban = Ban { rule: "r".into(), phrase, ignore_case: false, then };
        Arc::new(OutputRules::new(vec![ban]))
    }

    /// What was thought and said, and the arguments of the calls, of an answer in these pieces; and whether it was cut.
    fn read(pieces: &[&str], then: &OnHit) -> (String, String, Vec<String>, bool) {
        read_on("", pieces, then)
    }

    fn read_on(before: &str, pieces: &[&str], then: &OnHit) -> (String, String, Vec<String>, bool) {
        let calls = ToolCallParser::new(ToolFormat::Hermes, vec!["f".to_owned()]);
        let reader = AnswerReader::new(Some(ReasoningStart::Closed), Some(calls));
        let reader = reader.expect("it has something to read");
        let mut reader = reader.screened(Some(rules("secret", then.clone())), before);
        let mut parts: Vec<AnswerPart> = pieces.iter().flat_map(|p| reader.push(p)).collect();
        parts.extend(reader.finish());
        let (mut thought, mut said, mut called) = (String::new(), String::new(), Vec::new());
        for part in parts {
            match part {
                AnswerPart::Reasoning(text) => thought.push_str(&text),
                AnswerPart::Text(text) => said.push_str(&text),
                AnswerPart::CallBegins { .. } => called.push(String::new()),
                AnswerPart::Arguments { index, json } => called[index].push_str(&json),
            }
        }
        (thought, said, called, reader.found().is_some())
    }

    /// The same however the answer is cut in two, and by character.
    #[track_caller]
    fn check(answer: &str, thought: &str, said: &str, called: &[&str], cut: bool) {
        let called: Vec<String> = called.iter().map(|&json| json.to_owned()).collect();
        let expect = (thought.to_owned(), said.to_owned(), called, cut);
        let ends = (0..=answer.len()).filter(|&at| answer.is_char_boundary(at));
        for at in ends.clone() {
            let pieces = [&answer[..at], &answer[at..]];
            assert_eq!(read(&pieces, &OnHit::Stop), expect, "{pieces:?}");
        }
        let ends: Vec<usize> = ends.collect();
        let each: Vec<&str> = ends.windows(2).map(|ends| &answer[ends[0]..ends[1]]).collect();
        assert_eq!(read(&each, &OnHit::Stop), expect, "{answer:?} by character");
    }

    fn call(arguments: &str) -> String {
        format!("<tool_call>{{\"name\": \"f\", \"arguments\": {arguments}}}</tool_call>")
    }

    #[test]
    fn a_phrase_around_a_call_is_never_complete() {
        let f = call("{}");
        check(&format!("so sec{f}ret and"), "", "so sec", &["{}"], true);
        check(&format!("so se{f}c{f}ret and"), "", "so sec", &["{}", "{}"], true);
        check(&format!("so sec{f}ond"), "", "so second", &["{}"], false);
        check(&format!("so sec{f}"), "", "so sec", &["{}"], false);
        check(&format!("<think>sec</think>ret {f}"), "sec", "ret", &["{}"], false);
        check(&format!("<think>a secre</think>sec{f}ret"), "a secre", "sec", &["{}"], true);
    }

    #[test]
    fn a_phrase_may_begin_in_what_the_answer_goes_on_with() {
        let answer = format!("<think>ret</think>{}ret and", call("{}"));
        let (thought, said, called, cut) = read_on("so sec", &[answer.as_str()], &OnHit::Stop);
        assert_eq!((thought.as_str(), said.as_str(), called.len(), cut), ("ret", "", 1, true));
        assert!(!read_on("so sec", &["ond"], &OnHit::Stop).3);
    }

    #[test]
    fn arguments_are_looked_at_as_they_are_told() {
        for hidden in ["secret", r"s\\u0065cret", r"\\u0073ecret", r"secre\\u0074"] {
            let f = call(&format!(r#""{{\"x\": \"{hidden}\"}}""#));
            check(&format!("so {f} and"), "", "so", &[r#"{"x": ""#], true);
        }
        check(
            &call(r#"{"x": "sec", "y": "ret"}"#),
            "",
            "",
            &[r#"{"x": "sec", "y": "ret"}"#],
            false,
        );
        let two = format!("{}{}", call(r#"{"x": "sec"}"#), call(r#"{"x": "ret"}"#));
        check(&two, "", "", &[r#"{"x": "sec"}"#, r#"{"x": "ret"}"#], false);
    }

    #[test]
    fn a_text_takes_the_place_of_a_phrase_where_it_completes_none() {
        let answer = format!("so sec{}ret and", call("{}"));
        let said = |text: &str| read(&[answer.as_str()], &OnHit::Replace(text.to_owned())).1;
        assert_eq!(said("[gone]"), "so sec[gone]");
        assert_eq!(said("ret"), "so sec");
    }
}
