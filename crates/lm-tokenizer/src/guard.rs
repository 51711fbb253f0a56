//! Names of control tokens that must stay text, in a text that also holds real ones: a chat template writes
//! `<|im_end|>` to end a message, and a message may hold these very characters.
//!
//! It must never know templates. The caller guards what clients wrote, puts it into the template, and encodes the
//! whole here.
//!
//! Start reading at [`Tokenizer::guarded`].

use std::borrow::Cow;

use crate::{EncodeOptions, Tokenizer, TokenizerError};

/// Characters that Unicode keeps out of texts: U+FDD0 and the 31 that follow.
const CANDIDATES: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

impl Tokenizer {
    /// A character that none of `texts` holds; `None` when they hold all that are thought of.
    pub fn guard_for<'t>(texts: impl Iterator<Item = &'t str> + Clone) -> Option<char> {
        CANDIDATES.into_iter().find(|&guard| texts.clone().all(|text| !text.contains(guard)))
    }

    /// Whether `text` holds the name of a control token, such as `<|im_end|>`.
    #[must_use]
    pub fn names_control(&self, text: &str) -> bool {
        self.control_names().control_ranges(text).next().is_some()
    }

    /// `text` with `guard` behind each character of each name of a control token, so that no name is left. Names
    /// of one character cannot be guarded.
    #[must_use]
    pub fn guarded<'t>(&self, text: &'t str, guard: char) -> Cow<'t, str> {
        let mut names = self.control_names().control_ranges(text).peekable();
        if names.peek().is_none() {
            return Cow::Borrowed(text);
        }
        let (mut out, mut done) = (String::with_capacity(2 * text.len()), 0);
        for name in names {
            out.push_str(&text[done..name.start]);
            for character in text[name.clone()].chars() {
                out.push(character);
                out.push(guard);
            }
            done = name.end;
        }
        out.push_str(&text[done..]);
        Cow::Owned(out)
    }

    /// Encodes a text that holds guarded parts: control tokens are read as such, guarded names as the text that
    /// they were, and nothing is added around.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_guarded(&self, text: &str, guard: char) -> Result<Vec<u32>, TokenizerError> {
        let options = EncodeOptions { add_special: false, parse_special: true };
        self.encode_with(text, options, Some(guard))
    }
}
