//! What overrides do to an answer: the text it begins with, and the phrases that it must not hold.

use std::sync::Arc;

use crate::{Prompt, RequestId, TraceParent};

/// How a request came, and what overrides do to its answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// The route that it came by, such as `/v1/chat/completions`; empty within a program.
    pub route: &'static str,
    /// The override that its sender asked for.
    pub asked: Option<String>,
    /// Its answers begin with this text, which no token is drawn for.
    pub opening: String,
    /// What its answers must not hold.
    pub rules: Option<Arc<OutputRules>>,
    /// Rules that were applied before it was admitted.
    pub hits: Vec<RuleHit>,
    /// The experiment that it is part of.
    pub arm: Option<Arc<ArmTag>>,
    /// What rules read in the place of a prompt that is tokens.
    pub read_as: Option<Arc<ReadAs>>,
    /// It computes a recorded answer again: what it takes is counted, but it is nobody's request.
    pub again: bool,
    /// Where its sender's trace stands.
    pub trace: Option<TraceParent>,
}

/// What rules read in the place of a prompt that is tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAs {
    /// What the tokens say; where an answer is edited, the prompt that was answered.
    pub prompt: Prompt,
    /// What users wrote into the answer, edit by edit; empty where nothing was edited.
    pub changes: Vec<String>,
    /// The route that the edited answer came by; empty where nothing was edited.
    pub route: String,
    /// The answer as far as it stays, with the last change; empty where nothing was edited.
    pub answer: String,
}

/// A request's place in an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArmTag {
    /// The experiment's name.
    pub experiment: String,
    /// Which side answers.
    pub arm: Arm,
    /// A salted hash of the unit that keeps to its arm.
    pub unit: String,
    /// The candidate's share when it was assigned, in percent.
    pub percent: u8,
    /// The digest of what answers: model, system prompt and parameters.
    pub variant: String,
    /// The request that a shadow is a copy of.
    pub shadow_of: Option<RequestId>,
}

/// A side of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arm {
    /// What answered before.
    Primary,
    /// What may answer from now on.
    Candidate,
    /// The candidate again, for a copy of a request that the primary answered.
    Shadow,
}

impl Arm {
    /// A stable word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Arm::Primary => "primary",
            Arm::Candidate => "candidate",
            Arm::Shadow => "shadow",
        }
    }

    /// By its stable word.
    #[must_use]
    pub fn of(word: &str) -> Option<Arm> {
        [Arm::Primary, Arm::Candidate, Arm::Shadow].into_iter().find(|arm| arm.as_str() == word)
    }
}

/// A rule that changed something about an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleHit {
    /// The rule's id.
    pub rule: Arc<str>,
    /// What it did, in a stable word.
    pub action: &'static str,
}

/// What answers must not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct OutputRules {
    /// First things first: of phrases that are complete at the same place, the longest and then the first counts.
    pub bans: Vec<Ban>,
}

/// A phrase that must not leave the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ban {
    /// The rule's id.
    pub rule: Arc<str>,
    /// Not empty.
    pub phrase: String,
    /// Whether `Acme` is `acme`.
    pub ignore_case: bool,
    /// What then.
    pub then: OnHit,
}

/// What becomes of an answer in which a banned phrase would have come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OnHit {
    /// It ends before the phrase.
    Stop,
    /// It ends before the phrase, with this text.
    Replace(String),
    /// It goes on from before the phrase, another way.
    Resubmit,
}

/// What [`OutputRules::scan`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhraseScan {
    /// No phrase is complete. The first so many bytes are part of none and may be handed out.
    Safe(usize),
    /// A phrase begins at byte `at`.
    Found {
        /// Where it begins, in bytes.
        at: usize,
        /// Which of the bans it is of.
        ban: usize,
    },
}

/// How far a phrase goes at one place.
enum Fit {
    /// To this byte.
    Whole(usize),
    /// Beyond the end of the text, as far as one can see.
    Open,
    No,
}

impl OutputRules {
    /// Longest phrase, in bytes.
    pub const MAX_PHRASE_BYTES: usize = 256;

    /// Looks at `pending`: what earlier scans did not call safe, with the new text appended. A phrase is found as it stands
    /// and with its characters written as JSON's escapes, as they may be within a call's arguments. What is found does not
    /// depend on where the text was cut into pieces.
    #[must_use]
    pub fn scan(&self, pending: &str) -> PhraseScan {
        let mut first: Option<(usize, usize, usize)> = None;
        let mut safe = pending.len();
        for (at, c) in pending.char_indices() {
            for (i, ban) in self.bans.iter().enumerate() {
                let may_begin =
                    c == '\\' || ban.phrase.chars().next().is_some_and(|p| ban.same(p, c));
                if !may_begin {
                    continue;
                }
                for with_escapes in [false, true] {
                    match ban.fit(pending, at, with_escapes) {
                        Fit::Whole(end) => {
                            first = first.into_iter().chain([(end, at, i)]).min();
                        }
                        Fit::Open => safe = safe.min(at),
                        Fit::No => {}
                    }
                }
            }
        }
        match first {
            Some((_, at, ban)) => PhraseScan::Found { at, ban },
            None => PhraseScan::Safe(safe),
        }
    }

    /// Whether `text` holds a phrase, whole.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        matches!(self.scan(text), PhraseScan::Found { .. })
    }
}

impl Ban {
    fn fit(&self, text: &str, at: usize, with_escapes: bool) -> Fit {
        let mut end = at;
        for wanted in self.phrase.chars() {
            let rest = &text[end..];
            let (found, n_bytes) = match rest.chars().next() {
                None => return Fit::Open,
                Some('\\') if with_escapes => match unescaped(rest) {
                    Unescaped::Char(c, n_bytes) => (c, n_bytes),
                    Unescaped::Open => return Fit::Open,
                    Unescaped::No => return Fit::No,
                },
                Some(c) => (c, c.len_utf8()),
            };
            if !self.same(wanted, found) {
                return Fit::No;
            }
            end += n_bytes;
        }
        Fit::Whole(end)
    }

    fn same(&self, a: char, b: char) -> bool {
        a == b || (self.ignore_case && a.to_lowercase().eq(b.to_lowercase()))
    }
}

/// One of JSON's escapes.
enum Unescaped {
    Char(char, usize),
    /// Its end has not come.
    Open,
    No,
}

/// Reads the escape that `text` begins with.
fn unescaped(text: &str) -> Unescaped {
    let simple = match text.as_bytes().get(1) {
        None => return Unescaped::Open,
        Some(b'u') => None,
        Some(c @ (b'"' | b'\\' | b'/')) => Some(char::from(*c)),
        Some(b'b') => Some('\u{8}'),
        Some(b'f') => Some('\u{c}'),
        Some(b'n') => Some('\n'),
        Some(b'r') => Some('\r'),
        Some(b't') => Some('\t'),
        Some(_) => return Unescaped::No,
    };
    if let Some(c) = simple {
        return Unescaped::Char(c, 2);
    }
    let high = match code_unit(text.as_bytes()) {
        Ok(unit) => unit,
        Err(open) => return open,
    };
    if !(0xd800..0xdc00).contains(&high) {
        return char::from_u32(high).map_or(Unescaped::No, |c| Unescaped::Char(c, 6));
    }
    match code_unit(&text.as_bytes()[6..]) {
        Ok(low @ 0xdc00..0xe000) => {
            let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            char::from_u32(code).map_or(Unescaped::No, |c| Unescaped::Char(c, 12))
        }
        Ok(_) => Unescaped::No,
        Err(open) => open,
    }
}

/// The number of `\uXXXX` at the beginning.
fn code_unit(bytes: &[u8]) -> Result<u32, Unescaped> {
    let mut unit = 0;
    for i in 0..6 {
        match (i, bytes.get(i)) {
            (_, None) => return Err(Unescaped::Open),
            (0, Some(b'\\')) | (1, Some(b'u')) => {}
            (2.., Some(&digit)) => {
                let digit = char::from(digit).to_digit(16).ok_or(Unescaped::No)?;
                unit = unit << 4 | digit;
            }
            _ => return Err(Unescaped::No),
        }
    }
    Ok(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(phrases: &[&str], ignore_case: bool) -> OutputRules {
        let ban = |phrase: &&str| Ban {
            rule: "r".into(),
            phrase: (*phrase).to_owned(),
            ignore_case,
            then: OnHit::Stop,
        };
        OutputRules { bans: phrases.iter().map(ban).collect() }
    }

    /// What a stream hands out before a phrase comes, if one comes.
    fn stream(rules: &OutputRules, pieces: &[&str]) -> (String, bool) {
        let (mut pending, mut out) = (String::new(), String::new());
        for piece in pieces {
            pending.push_str(piece);
            match rules.scan(&pending) {
                PhraseScan::Safe(n) => out.extend(pending.drain(..n)),
                PhraseScan::Found { at, .. } => return (out + &pending[..at], true),
            }
        }
        (out + &pending, false)
    }

    /// Whole, character by character, and in three pieces cut at every two places.
    #[track_caller]
    fn check(rules: &OutputRules, text: &str, expect: &str, found: bool) {
        let expect = (expect.to_owned(), found);
        assert_eq!(stream(rules, &[text]), expect, "{text:?} whole");
        let cuts: Vec<usize> = (0..=text.len()).filter(|&i| text.is_char_boundary(i)).collect();
        let chars: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        assert_eq!(stream(rules, &chars), expect, "{text:?} by character");
        for (i, &a) in cuts.iter().enumerate() {
            for &b in &cuts[i..] {
                let pieces = [&text[..a], &text[a..b], &text[b..]];
                assert_eq!(stream(rules, &pieces), expect, "{pieces:?}");
            }
        }
    }

    #[test]
    fn a_phrase_is_found_however_the_text_is_cut() {
        let bad = rules(&["bad word", "😀é"], false);
        check(&bad, "a bad word here", "a ", true);
        check(&bad, "a bad wordless", "a ", true);
        check(&bad, "a bad wor", "a bad wor", false);
        check(&bad, "bbad word", "b", true);
        check(&bad, "Bad Word", "Bad Word", false);
        check(&bad, "x😀éy", "x", true);
        check(&bad, "x😀e", "x😀e", false);
        let any_case = rules(&["Straße"], true);
        check(&any_case, "die STRAßE", "die ", true);
        check(&rules(&["abab", "ba"], false), "xabab", "xa", true);
        check(&rules(&["aab"], false), "aaaab", "aa", true);
        check(&rules(&["longer phrase", "phrase"], false), "a longer phrase", "a ", true);
    }

    #[test]
    fn escapes_of_json_hide_nothing() {
        let bad = rules(&["bad", "a\"b", "😀"], false);
        check(&bad, r#"{"x": "b\u0061d"}"#, r#"{"x": ""#, true);
        check(&bad, r#"{"x": "\u0062ad"}"#, r#"{"x": ""#, true);
        check(&bad, r#"{"x": "a\"b"}"#, r#"{"x": ""#, true);
        check(&bad, r#"{"x": "\ud83d\ude00"}"#, r#"{"x": ""#, true);
        check(&bad, r#"{"x": "\ud83d\u0061"}"#, r#"{"x": "\ud83d\u0061"}"#, false);
        check(&bad, r"b\u0063d \x \", r"b\u0063d \x \", false);
        check(&rules(&[r"C:\new"], false), r"at C:\new", "at ", true);
        check(&rules(&[r"C:\new"], false), r"at C:\\new", "at ", true);
    }

    #[test]
    fn no_more_is_held_back_than_may_begin_a_phrase() {
        let bad = rules(&["bad word"], false);
        assert_eq!(bad.scan("nothing"), PhraseScan::Safe(7));
        assert_eq!(bad.scan("a bad w"), PhraseScan::Safe(2));
        assert_eq!(bad.scan("a bad x"), PhraseScan::Safe(7));
        assert_eq!(bad.scan(r"path\"), PhraseScan::Safe(4));
        assert_eq!(bad.scan(r"path\x"), PhraseScan::Safe(6));
    }
}
