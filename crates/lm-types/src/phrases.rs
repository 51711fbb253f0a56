//! Phrases that an answer must not hold, found however its text is cut.
//!
//! It must never depend on where the pieces of a text end.
//!
//! Start reading at [`OutputRules::scan`].

use std::sync::Arc;

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
        self.scan_after(pending, 0)
    }

    /// [`OutputRules::scan`] of a text whose first `n_before` bytes are told: a phrase may begin there, and one that ends
    /// there is none of the answer's.
    #[must_use]
    pub fn scan_after(&self, pending: &str, n_before: usize) -> PhraseScan {
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
                        Fit::Whole(end) if end <= n_before => {}
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

    /// The longest end of a text with which a phrase may begin, whatever stands before it.
    #[must_use]
    pub fn open_end<'a>(&self, text: &'a str) -> &'a str {
        // A character of a phrase takes up to twelve bytes as escapes.
        let most = 12 * Self::MAX_PHRASE_BYTES;
        let tail = &text[text.ceil_char_boundary(text.len().saturating_sub(most))..];
        let is_open = |at: usize| {
            let begins = |ban: &Ban| {
                [false, true].into_iter().any(|e| matches!(ban.fit(tail, at, e), Fit::Open))
            };
            self.bans.iter().any(begins)
        };
        let first = tail.char_indices().map(|(at, _)| at).find(|&at| is_open(at));
        &tail[first.unwrap_or(tail.len())..]
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
    fn a_phrase_may_begin_in_what_is_told() {
        let bad = rules(&["secret", "cr"], false);
        assert_eq!(bad.open_end("a secret sec"), "sec");
        assert_eq!(bad.open_end("a secre"), "secre");
        assert_eq!(bad.open_end(r"a s\u0065"), r"s\u0065");
        assert_eq!(bad.open_end("nothing"), "");
        assert_eq!(bad.open_end(""), "");
        assert_eq!(bad.scan_after("secre", 5), PhraseScan::Safe(0), "what is told is told");
        assert_eq!(bad.scan_after("secret", 5), PhraseScan::Found { at: 0, ban: 0 });
        assert_eq!(bad.scan_after("secrcr", 5), PhraseScan::Found { at: 4, ban: 1 });
        assert_eq!(bad.scan_after("second", 3), PhraseScan::Safe(6));
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
