//! The placeholder backend's vocabulary: 512 tokens, no files, and any text round-trips.
//!
//! It must never know the backend; the backend knows these ids.
//!
//! Start reading at the constants: five special tokens, then words, then the 256 bytes.

use crate::TokenizerError;
use crate::special::{Fragment, SpecialMatcher};
use crate::token_table::TokenTable;
use crate::tokenizer::{Model, Tokenizer};

/// How many tokens there are.
pub const VOCAB_SIZE: usize = 512;
/// `<|endoftext|>`: ends a generation.
pub const EOS: u32 = 0;
/// `<|bos|>`: begins a text.
pub const BOS: u32 = 1;
/// `<|im_start|>`: begins a turn.
pub const IM_START: u32 = 2;
/// `<|im_end|>`: ends a turn, and a generation.
pub const IM_END: u32 = 3;
/// `<|sep|>`: ends a text that is a prompt.
pub const SEP: u32 = 4;
/// The first token that is a word.
pub const FIRST_WORD: u32 = 5;
/// The token of byte 0; byte `b` is token `FIRST_BYTE + b`.
pub const FIRST_BYTE: u32 = 256;

/// The special tokens, by id.
const SPECIALS: [&str; 5] = ["<|endoftext|>", "<|bos|>", "<|im_start|>", "<|im_end|>", "<|sep|>"];

/// Pieces that are taken as they are.
const PIECES: [&str; 11] = ["\n\n", "...", " (", "'s", "n't", "ing", "ed", "ly", "er", "es", "ion"];

/// Words, each of which is a token with a space before it.
const WORDS: &str = "\
the of and to in a is that for it as was with be by on not he his but at are this have from or \
had an they which one you were her all she there would their we him been has when who will more \
no if out so said what up its about into than them can only other new some could time these two \
may then do first any my now such like our over man me even most made after also did many before \
must through back years where much your way well down should because each just those people too \
how little state good very make world still own see men work long get here between both life \
being under never day same another know while last might us great old year off come since \
against go came right used take three states himself few house use during without again place \
around however home small found thought went say part once general high upon school every don't \
does got united left number course war until always away something fact though water less public \
put thing almost hand enough far took head yet government system better set told nothing night \
end why called eyes find going look asked later knew point next program city business give group \
toward young let room days side social given hello yes thank please help answer question \
model word line";

/// Builds the tokenizer.
pub(crate) fn build() -> Result<Tokenizer, TokenizerError> {
    let words: Vec<String> = PIECES
        .into_iter()
        .map(str::to_owned)
        .chain(WORDS.split_whitespace().map(|word| format!(" {word}")))
        .collect();
    let mut table = TokenTable::with_capacity(VOCAB_SIZE);
    SPECIALS.iter().for_each(|name| table.push_control(name));
    words.iter().try_for_each(|word| table.push(word.as_bytes()))?;
    (0..=255).try_for_each(|byte| table.push(&[byte]))?;
    let words: Vec<(&[u8], u32)> = words.iter().map(String::as_bytes).zip(FIRST_WORD..).collect();
    let specials: Vec<(&[u8], u32)> =
        SPECIALS.iter().map(|name| name.as_bytes()).zip(EOS..).collect();
    let mut hasher = blake3::Hasher::new();
    for (text, id) in specials.iter().chain(&words) {
        hasher.update(&id.to_le_bytes()).update(text);
    }
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok(Tokenizer {
        model: Model::Placeholder(SpecialMatcher::new(&words, &[])?),
        special: SpecialMatcher::new(&[], &specials)?,
        table,
        prefix: vec![BOS],
        suffix: vec![SEP],
        bos: Some(BOS),
        eog: vec![EOS, IM_END],
        fim: None,
        fingerprint,
    })
}

/// Appends the tokens of `text` to `out`: the longest word at each place, else a byte.
pub(crate) fn encode(words: &SpecialMatcher, text: &str, out: &mut Vec<u32>) {
    for fragment in words.split(text, false) {
        match fragment {
            Fragment::Token(id) => out.push(id),
            Fragment::Text(rest) => out.extend(rest.bytes().map(|b| FIRST_BYTE + u32::from(b))),
        }
    }
}
