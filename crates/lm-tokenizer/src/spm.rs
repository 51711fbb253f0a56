//! SentencePiece BPE as llama.cpp runs it: characters, joined by the score of what they make, and
//! bytes for the characters that the vocabulary lacks.
//!
//! It must never know special tokens: they are cut out before.
//!
//! Start reading at [`Spm::encode`]. Source: Kudo & Richardson 2018.

use ahash::AHashMap;

use crate::TokenizerError;
use crate::merge::{Joined, Merger, NONE};
use crate::vocab::GgufVocab;

/// What such vocabularies write for a space.
pub(crate) const SPACE: &str = "\u{2581}";

/// A vocabulary of pieces with scores.
#[derive(Debug)]
pub(crate) struct Spm {
    /// The pieces that text may become, as the vocabulary writes them.
    pieces: AHashMap<Box<[u8]>, Joined>,
    longest_piece: u32,
    /// The token of each byte, or [`NONE`]. \[256\]
    byte_ids: Vec<u32>,
    unk: u32,
    add_space_prefix: bool,
}

impl Spm {
    /// `is_text` says of each token whether text may become it; `byte_ids` are the tokens of
    /// bytes. \[256\]
    pub(crate) fn new(
        vocab: &GgufVocab,
        byte_ids: Vec<u32>,
        is_text: impl Fn(u32) -> bool,
    ) -> Result<Self, TokenizerError> {
        let n_tokens = vocab.tokens.len();
        if vocab.scores.len() != n_tokens {
            let len = vocab.scores.len();
            return Err(TokenizerError::LengthMismatch { field: "scores", len, n_tokens });
        }
        let pieces: AHashMap<Box<[u8]>, Joined> = (0..)
            .zip(vocab.tokens.iter().zip(&vocab.scores))
            .filter(|&(id, _)| is_text(id))
            .map(|(id, (text, &score))| (text.as_bytes().into(), Joined { rank: rank(score), id }))
            .collect();
        let longest_piece = pieces.keys().map(|piece| piece.len() as u32).max().unwrap_or(0);
        Ok(Spm {
            pieces,
            longest_piece,
            byte_ids,
            unk: vocab.unk.unwrap_or(NONE),
            add_space_prefix: vocab.add_space_prefix.unwrap_or(true),
        })
    }

    /// Appends the tokens of `text` to `out`. `begins` says that no text stands right before it.
    pub(crate) fn encode(&self, text: &str, begins: bool, merger: &mut Merger, out: &mut Vec<u32>) {
        let prefix = if self.add_space_prefix && begins { SPACE } else { "" };
        let text = [prefix, &text.replace(' ', SPACE)].concat();
        merger.clear();
        for character in text.chars() {
            merger.push(character.len_utf8() as u32, NONE);
        }
        merger.merge(|left, right| {
            let len = left.len + right.len;
            let range = left.start as usize..(left.start + len) as usize;
            let known = len <= self.longest_piece;
            known.then(|| self.pieces.get(&text.as_bytes()[range]).copied()).flatten()
        });
        for symbol in merger.symbols() {
            let start = symbol.start as usize;
            let piece = &text.as_bytes()[start..start + symbol.len as usize];
            self.push_piece(symbol.id, piece, out);
        }
    }

    /// Appends the token of a symbol; of one that was never joined, its own token or its bytes'.
    fn push_piece(&self, id: u32, piece: &[u8], out: &mut Vec<u32>) {
        let id_of = |byte: &u8| self.byte_ids[usize::from(*byte)];
        if id != NONE {
            out.push(id);
        } else if let Some(single) = self.pieces.get(piece) {
            out.push(single.id);
        } else if piece.iter().all(|byte| id_of(byte) != NONE) {
            out.extend(piece.iter().map(id_of));
        } else if self.unk != NONE {
            out.push(self.unk);
        }
    }
}

/// Higher scores join first: maps a score to a rank so that the order of ranks is the reverse of
/// the order of scores, and equal scores have equal ranks.
fn rank(score: f32) -> u32 {
    // Adding zero makes -0 and 0 the same score.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
    !ascending
}

/// The byte that `<0xNN>` stands for.
pub(crate) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let two = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    two.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_reverse_scores() {
        let scores = [f32::INFINITY, 5.0, 0.5, 0.0, -0.5, -3.0, -1000.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| rank(w[0]) < rank(w[1])));
        assert_eq!(rank(-0.0), rank(0.0));
    }

    #[test]
    fn byte_tokens_have_two_digits() {
        assert_eq!(parse_byte("<0x0A>"), Some(10));
        for text in ["<0xA>", "<0x+A>", "<0x0A", "0x0A", "<0x00A>", ""] {
            assert_eq!(parse_byte(text), None, "{text:?}");
        }
    }
}
