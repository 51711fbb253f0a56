//! Tokens that are found in the raw text before anything else: control and user-defined ones.
//!
//! It must never know how the text between them is encoded.
//!
//! Start reading at [`SpecialMatcher::split`].

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::TokenizerError;

/// Finds special tokens in one pass, whatever their number; of those that begin at the same byte,
/// the longest.
#[derive(Debug)]
pub(crate) struct SpecialMatcher {
    user_defined: TokenFinder,
    with_control: TokenFinder,
    /// The first patterns of `with_control` are these many user-defined ones.
    n_user_defined: usize,
}

/// A part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'t> {
    /// Text without special tokens. Never empty.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

#[derive(Debug)]
struct TokenFinder {
    /// `None` when there is nothing to find.
    automaton: Option<AhoCorasick>,
    /// The token of each pattern.
    ids: Vec<u32>,
}

impl SpecialMatcher {
    /// `user_defined` tokens are always found, `control` tokens only on request. Empty texts are
    /// left out.
    pub(crate) fn new(
        user_defined: &[(&[u8], u32)],
        control: &[(&[u8], u32)],
    ) -> Result<Self, TokenizerError> {
        let user_defined_finder = TokenFinder::new(user_defined)?;
        Ok(SpecialMatcher {
            n_user_defined: user_defined_finder.ids.len(),
            user_defined: user_defined_finder,
            with_control: TokenFinder::new(&[user_defined, control].concat())?,
        })
    }

    /// Where `text` holds names of control tokens.
    pub(crate) fn control_ranges(&self, text: &str) -> impl Iterator<Item = Range<usize>> {
        let found = self.with_control.automaton.iter().flat_map(move |a| a.find_iter(text));
        let n_user_defined = self.n_user_defined;
        found.filter(move |m| m.pattern().as_usize() >= n_user_defined).map(|m| m.range())
    }

    /// Cuts `text` at its special tokens.
    pub(crate) fn split<'t>(
        &self,
        text: &'t str,
        parse_special: bool,
    ) -> impl Iterator<Item = Fragment<'t>> {
        let finder = if parse_special { &self.with_control } else { &self.user_defined };
        let found = finder.automaton.iter().flat_map(move |a| {
            a.find_iter(text).map(|m| (m.range(), Some(finder.ids[m.pattern().as_usize()])))
        });
        let end = (text.len()..text.len(), None);
        let mut done = 0;
        found.chain(std::iter::once(end)).flat_map(move |(range, id)| {
            let before = &text[done..range.start];
            done = range.end;
            let before = (!before.is_empty()).then_some(Fragment::Text(before));
            before.into_iter().chain(id.map(Fragment::Token))
        })
    }
}

impl TokenFinder {
    fn new(tokens: &[(&[u8], u32)]) -> Result<Self, TokenizerError> {
        let (patterns, ids): (Vec<&[u8]>, Vec<u32>) =
            tokens.iter().copied().filter(|(text, _)| !text.is_empty()).unzip();
        let build = || {
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns).map_err(
                |e| TokenizerError::Matcher { what: "special tokens", message: e.to_string() },
            )
        };
        let automaton = if patterns.is_empty() { None } else { Some(build()?) };
        Ok(TokenFinder { automaton, ids })
    }
}
