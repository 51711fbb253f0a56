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
    bans: Vec<Ban>,
    /// The phrases in lower case, sorted, so that those that go on as a text does stand side by side.
    sorted: Vec<Box<[char]>>,
    /// Which of the bans each of these is of.
    order: Vec<usize>,
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

/// What [`OutputRules::look`] found at one place.
#[derive(Default)]
struct Seen {
    /// Where the first phrase that is complete ends, and which of the bans it is of.
    whole: Option<(usize, usize)>,
    /// Whether some phrase may go on.
    is_open: bool,
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

    /// What answers must not hold, the most important bans first.
    #[must_use]
    pub fn new(bans: Vec<Ban>) -> Self {
        let folded = |ban: &Ban| ban.phrase.chars().map(fold).collect::<Box<[char]>>();
        let mut all: Vec<(Box<[char]>, usize)> = bans.iter().map(folded).zip(0..).collect();
        all.sort();
        let (sorted, order) = all.into_iter().unzip();
        OutputRules { bans, sorted, order }
    }

    /// The bans, the most important first.
    #[must_use]
    pub fn bans(&self) -> &[Ban] {
        &self.bans
    }

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
        let ways = ways(pending);
        for (at, _) in pending.char_indices() {
            for &with_escapes in ways {
                let seen = self.look(pending, at, with_escapes, n_before);
                let whole = seen.whole.map(|(end, ban)| (end, at, ban));
                first = first.into_iter().chain(whole).min();
                if seen.is_open {
                    safe = safe.min(at);
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
        let ways = ways(tail);
        let is_open = |at: usize| {
            ways.iter().any(|&with_escapes| self.look(tail, at, with_escapes, 0).is_open)
        };
        let first = tail.char_indices().map(|(at, _)| at).find(|&at| is_open(at));
        &tail[first.unwrap_or(tail.len())..]
    }

    /// What is at byte `at`; of complete phrases those that end behind `n_before`. Phrases that go on as the text does
    /// are few, and found by halving: the time does not grow with how many there are.
    fn look(&self, text: &str, at: usize, with_escapes: bool, n_before: usize) -> Seen {
        let (mut from, mut to, mut end) = (0, self.sorted.len(), at);
        let mut seen = Seen::default();
        let fit = |i: usize| self.bans[self.order[i]].fit(text, at, with_escapes);
        for depth in 0.. {
            // Those that are complete stand before those that go on.
            while from < to && self.sorted[from].len() == depth {
                if let (Fit::Whole(end), None) = (fit(from), seen.whole)
                    && end > n_before
                {
                    seen.whole = Some((end, self.order[from]));
                }
                from += 1;
            }
            if from == to {
                break;
            }
            let (c, n_bytes) = match character(&text[end..], with_escapes) {
                Unescaped::Char(c, n_bytes) => (fold(c), n_bytes),
                Unescaped::Open => {
                    seen.is_open = (from..to).any(|i| matches!(fit(i), Fit::Open));
                    break;
                }
                Unescaped::No => break,
            };
            let going_on = &self.sorted[from..to];
            let low = going_on.partition_point(|phrase| phrase[depth] < c);
            let high = going_on.partition_point(|phrase| phrase[depth] <= c);
            (from, to) = (from + low, from + high);
            end += n_bytes;
        }
        seen
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
            let (found, n_bytes) = match character(&text[end..], with_escapes) {
                Unescaped::Char(c, n_bytes) => (c, n_bytes),
                Unescaped::Open => return Fit::Open,
                Unescaped::No => return Fit::No,
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

/// The ways to read a text: as it stands, and where there may be escapes without them.
fn ways(text: &str) -> &'static [bool] {
    if text.contains('\\') { &[false, true] } else { &[false] }
}

/// The same for characters that are the same in some case.
fn fold(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

/// The character that `text` begins with, and its bytes.
fn character(text: &str, with_escapes: bool) -> Unescaped {
    match text.chars().next() {
        None => Unescaped::Open,
        Some('\\') if with_escapes => unescaped(text),
        Some(c) => Unescaped::Char(c, c.len_utf8()),
    }
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
mod tests;
