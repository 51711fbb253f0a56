//! Where an answer is cut that its user changes.
//!
//! It must never cut within a character, unless the answer goes on as it was.
//!
//! Start reading at [`Cut::of`].

use lastmile::{Runtime, TokenId};
use lm_api::ApiError;

use crate::edit::{At, Edit};
use crate::panel;

/// Where an answer is cut.
pub(crate) struct Cut {
    /// Tokens that stay.
    pub(crate) n_kept: usize,
    /// The answer's text up to the cut.
    pub(crate) text: String,
    /// What of it is not in the tokens that stay: a token may hold several characters, or a part of one.
    pub(crate) rest: String,
}

impl Cut {
    pub(crate) fn of(runtime: &Runtime, tokens: &[TokenId], edit: &Edit) -> Result<Cut, ApiError> {
        // What ended the answer is no part of its text.
        let n_end = tokens.iter().rev().take_while(|t| runtime.token_bytes(**t).is_empty()).count();
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for token in &tokens[..tokens.len() - n_end] {
            bytes.extend_from_slice(runtime.token_bytes(*token));
            ends.push(bytes.len());
        }
        let n_text = ends.len() - 1;
        match edit.at {
            At::Token(n) if n > n_text => {
                let wanted = format!("at most {n_text}, the answer's tokens");
                Err(panel::invalid("at", &n.to_string(), wanted))
            }
            At::Token(n) => {
                let is_whole = |n: usize| !ends_within_a_character(&bytes[..ends[n]]);
                let is_resumed = edit.goes_on && edit.text.is_empty();
                if !is_whole(n) && !is_resumed {
                    let below = (0..n).rev().find(|n| is_whole(*n)).unwrap_or(0);
                    let wanted = format!("the end of a character, such as {below}");
                    return Err(panel::invalid("at", &n.to_string(), wanted));
                }
                let text = String::from_utf8_lossy(&bytes[..ends[n]]).into_owned();
                Ok(Cut { n_kept: n, text, rest: String::new() })
            }
            At::Char(n) => {
                let places = character_ends(&bytes);
                let Some(end) = places.get(n).copied() else {
                    let wanted = format!("at most {}, the answer's characters", places.len() - 1);
                    return Err(panel::invalid("at_char", &n.to_string(), wanted));
                };
                let fits = |n: &usize| {
                    ends[*n] <= end && std::str::from_utf8(&bytes[ends[*n]..end]).is_ok()
                };
                let n_kept = (0..=n_text).rev().find(fits).unwrap_or(0);
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let rest = text(&bytes[ends[n_kept]..end]);
                Ok(Cut { n_kept, text: text(&bytes[..end]), rest })
            }
        }
    }
}

fn ends_within_a_character(bytes: &[u8]) -> bool {
    let last = bytes.utf8_chunks().last();
    let invalid = last.map_or(&[][..], |chunk| chunk.invalid());
    std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

/// Where each character ends, from the beginning; what is no character counts as one.
fn character_ends(bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut at) = (vec![0], 0);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            at += c.len_utf8();
            ends.push(at);
        }
        if !chunk.invalid().is_empty() {
            at += chunk.invalid().len();
            ends.push(at);
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::{character_ends, ends_within_a_character};

    #[test]
    fn characters_and_what_is_none_are_counted_in_bytes() {
        assert_eq!(character_ends("a\u{e9}\u{1f600}b".as_bytes()), [0, 1, 3, 7, 8]);
        assert_eq!(character_ends(b"a\xff\xf0\x9f"), [0, 1, 2, 4]);
        assert_eq!(character_ends(b""), [0]);
        assert!(ends_within_a_character(b"a\xf0\x9f"));
        assert!(
            !ends_within_a_character(b"a\xffb") && !ends_within_a_character("\u{e9}".as_bytes())
        );
        assert!(!ends_within_a_character(b"a\xff"), "no byte could make it a character");
    }
}
