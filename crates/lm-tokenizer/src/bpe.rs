//! Byte-level BPE: words, then bytes, then merges by rank.
//!
//! It must never know special tokens: they are cut out before.
//!
//! Start reading at [`Bpe::encode`]; [`alphabet`] is how such vocabularies write bytes.
//! Source: Radford et al. 2019.

use ahash::AHashMap;

use crate::TokenizerError;
use crate::merge::{Joined, Merger, NONE};
use crate::pre_tokenizer::{PreTokenizer, Rule};
use crate::token_table::TokenTable;
use crate::vocab::GgufVocab;

/// A vocabulary of bytes, with the merges that build longer tokens of them.
#[derive(Debug)]
pub(crate) struct Bpe {
    words: PreTokenizer,
    /// The token of each byte, or [`NONE`]. \[256\]
    byte_ids: Vec<u32>,
    merges: AHashMap<(u32, u32), Joined>,
    /// Words that are tokens whatever the merges say; empty unless the rule wants it.
    whole_words: AHashMap<Box<[u8]>, u32>,
}

impl Bpe {
    /// `is_text` says of each token whether text may become it.
    pub(crate) fn new(
        vocab: &GgufVocab,
        rule: &Rule,
        table: &TokenTable,
        is_text: impl Fn(u32) -> bool,
    ) -> Result<Self, TokenizerError> {
        let ids: AHashMap<&str, u32> = vocab
            .tokens
            .iter()
            .map(String::as_str)
            .zip(0..)
            .filter(|&(_, id)| is_text(id))
            .collect();
        let mut buffer = [0; 4];
        let byte_ids = (0..=255)
            .map(|byte| ids.get(&*alphabet(byte).encode_utf8(&mut buffer)).copied().unwrap_or(NONE))
            .collect();
        let whole_words = if rule.ignore_merges {
            ids.values().map(|&id| (table.bytes(id).into(), id)).collect()
        } else {
            AHashMap::new()
        };
        Ok(Bpe {
            words: rule.compile()?,
            byte_ids,
            merges: read_merges(&vocab.merges, &ids)?,
            whole_words,
        })
    }

    /// Whether the vocabulary has a token for this byte.
    pub(crate) fn spells(&self, byte: u8) -> bool {
        self.byte_ids[usize::from(byte)] != NONE
    }

    /// Appends the tokens of `text` to `out`.
    pub(crate) fn encode(&self, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        for range in self.words.split(text) {
            let word = &text.as_bytes()[range];
            if let Some(&id) = self.whole_words.get(word) {
                out.push(id);
                continue;
            }
            merger.clear();
            for &byte in word {
                merger.push(1, self.byte_ids[usize::from(byte)]);
            }
            merger.merge(|left, right| self.merges.get(&(left.id, right.id)).copied());
            out.extend(merger.symbols().map(|s| s.id).filter(|&id| id != NONE));
        }
    }
}

/// The character that stands for `byte` in such vocabularies.
pub(crate) fn alphabet(byte: u8) -> char {
    let shown = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let byte = u32::from(byte);
    let code =
        if shown(byte) { byte } else { 0x100 + (0..byte).filter(|&b| !shown(b)).count() as u32 };
    char::from_u32(code).expect("codes end at 0x143: this is a bug")
}

/// From the alphabet's characters back to bytes.
pub(crate) fn alphabet_to_byte() -> AHashMap<char, u8> {
    (0..=255).map(|byte| (alphabet(byte), byte)).collect()
}

/// The bytes of a token that is written in the alphabet; of any other text, the text's own bytes.
pub(crate) fn bytes_of(text: &str, to_byte: &AHashMap<char, u8>, out: &mut Vec<u8>) {
    out.clear();
    for character in text.chars() {
        match to_byte.get(&character) {
            Some(&byte) => out.push(byte),
            None => {
                out.clear();
                out.extend_from_slice(text.as_bytes());
                return;
            }
        }
    }
}

fn read_merges(
    merges: &[String],
    ids: &AHashMap<&str, u32>,
) -> Result<AHashMap<(u32, u32), Joined>, TokenizerError> {
    let mut read = AHashMap::with_capacity(merges.len());
    let mut both = String::new();
    for (index, merge) in merges.iter().enumerate() {
        let bad = |problem| TokenizerError::BadMerge { index, merge: merge.clone(), problem };
        let (left, right) = merge.split_once(' ').ok_or_else(|| bad("it has no space"))?;
        both.clear();
        both.push_str(left);
        both.push_str(right);
        let id_of = |text: &str, problem| ids.get(text).copied().ok_or_else(|| bad(problem));
        let pair = (
            id_of(left, "its left side is no token")?,
            id_of(right, "its right side is no token")?,
        );
        let id = id_of(&both, "what it makes is no token")?;
        read.entry(pair).or_insert(Joined { rank: index as u32, id });
    }
    Ok(read)
}
