//! A tokenizer from Hugging Face's `tokenizer.json`, run by the `tokenizers` crate.
//!
//! It must never know GGUF. The crate's own added tokens do the work of our special tokens here.
//!
//! Start reading at [`build`], then [`Hf::encode`].

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ahash::AHashMap;
use serde_json::Value;
use tokenizers::{
    AddedVocabulary, DecoderWrapper, Encoding, Model as _, OffsetType, PreTokenizer as _,
    Tokenizer as HfTokenizer,
};

use crate::TokenizerError;
use crate::bpe::{alphabet_to_byte, bytes_of};
use crate::end_tokens::EndTokens;
use crate::fim::FimFinder;
use crate::special::{Fragment, SpecialMatcher};
use crate::spm::{SPACE, parse_byte};
use crate::token_table::{MAX_TOKENS, TokenTable};
use crate::tokenizer::{Model, Tokenizer};

/// The most that is read of one file.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The crate's tokenizer, and its added tokens once more, with the special ones as plain text.
#[derive(Debug)]
pub(crate) struct Hf {
    tokenizer: HfTokenizer,
    plain: AddedVocabulary,
    /// The special ones by name.
    names: SpecialMatcher,
    /// Of the special ones that take white space beside them: whether before and behind.
    strips: AHashMap<u32, (bool, bool)>,
}

/// How a token's text tells its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    ByteLevel,
    SentencePiece,
    /// Pieces that go on within a word begin with `##`; the others begin one. Spaces are not told, so a text
    /// does not come back as it was.
    WordPiece,
}

impl Hf {
    /// The names of special tokens.
    pub(crate) fn names(&self) -> &SpecialMatcher {
        &self.names
    }

    /// As [`Self::encode`] with special tokens read, after which `guard` is taken out of the text between them.
    pub(crate) fn encode_guarded(
        &self,
        text: &str,
        guard: char,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let strips = |fragment: Option<&Fragment<'_>>| match fragment {
            Some(Fragment::Token(id)) => self.strips.get(id).copied().unwrap_or_default(),
            _ => (false, false),
        };
        let fragments: Vec<Fragment<'_>> = self.names.split(text, true).collect();
        for (i, fragment) in fragments.iter().enumerate() {
            match fragment {
                Fragment::Token(id) => out.push(*id),
                Fragment::Text(text) => {
                    let mut text = *text;
                    if i > 0 && strips(fragments.get(i - 1)).1 {
                        text = text.trim_start();
                    }
                    if strips(fragments.get(i + 1)).0 {
                        text = text.trim_end();
                    }
                    self.encode(&text.replace(guard, ""), false, out)?;
                }
            }
        }
        Ok(())
    }

    /// Appends the tokens of `text` to `out`, without those that begin or end a text.
    pub(crate) fn encode(
        &self,
        text: &str,
        parse_special: bool,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        out.extend_from_slice(self.pieces(text, parse_special)?.get_ids());
        Ok(())
    }

    /// The tokens of a text or of a pair with those around them, and of each token the text that it is of: 0
    /// or 1. No text becomes a special token.
    pub(crate) fn encode_pair(
        &self,
        first: &str,
        second: Option<&str>,
    ) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Encode { message: e.to_string() };
        let mut first = self.pieces(first, false)?;
        first.set_sequence_id(0);
        let second = second.map(|text| self.pieces(text, false)).transpose()?;
        let whole = self.tokenizer.post_process(first, second, true).map_err(failed)?;
        Ok((whole.get_ids().to_vec(), whole.get_type_ids().to_vec()))
    }

    fn pieces(&self, text: &str, parse_special: bool) -> Result<Encoding, TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Encode { message: e.to_string() };
        let added = if parse_special { self.tokenizer.get_added_vocabulary() } else { &self.plain };
        let mut pieces = added.extract_and_normalize(self.tokenizer.get_normalizer(), text);
        if let Some(words) = self.tokenizer.get_pre_tokenizer() {
            words.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        self.tokenizer.get_model().tokenize_in_pretokenized(&mut pieces, None).map_err(failed)?;
        pieces.into_encoding(None, 0, OffsetType::None).map_err(failed)
    }
}

/// Builds the tokenizer of `path`, with the special tokens of `config_path`.
pub(crate) fn build(path: &Path, config_path: Option<&Path>) -> Result<Tokenizer, TokenizerError> {
    let bad = |message: String| TokenizerError::ParseFile { path: path.to_owned(), message };
    let bytes = read_bounded(path)?;
    let mut tokenizer = HfTokenizer::from_bytes(&bytes).map_err(|e| bad(e.to_string()))?;
    tokenizer.with_truncation(None).map_err(|e| bad(e.to_string()))?.with_padding(None);
    let (config_bytes, config) = match config_path {
        Some(path) => read_config(path)?,
        None => (Vec::new(), Value::Null),
    };
    let spelling = spelling(&tokenizer, path)?;
    let (table, ends, fim) = build_table(&tokenizer, spelling)?;
    let (mut prefix, suffix) = added_around(&tokenizer).map_err(|e| bad(e.to_string()))?;
    let id_of = |field: &str| tokenizer.token_to_id(token_name(&config, field)?);
    let bos = id_of("bos_token").or_else(|| prefix.first().copied());
    match (config.get("add_bos_token").and_then(Value::as_bool), bos) {
        (Some(true), Some(bos)) if !prefix.contains(&bos) => prefix.insert(0, bos),
        (Some(false), Some(bos)) => prefix.retain(|&id| id != bos),
        _ => {}
    }
    let eos = id_of("eos_token");
    let mut eog = ends.finish(eos);
    let fim = fim.finish([None; 3], &[], &mut eog);
    let mut plain = tokenizer.get_added_vocabulary().clone();
    plain.set_encode_special_tokens(true);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes).update(&config_bytes);
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    let special = SpecialMatcher::new(&[], &[])?;
    let added = tokenizer.get_added_tokens_decoder();
    let added: Vec<_> = added.iter().filter(|(_, token)| token.special).collect();
    let names: Vec<_> = added.iter().map(|(id, token)| (token.content.as_bytes(), **id)).collect();
    let names = SpecialMatcher::new(&[], &names)?;
    let strips = added.iter().filter(|(_, token)| token.lstrip || token.rstrip);
    let strips = strips.map(|(id, token)| (**id, (token.lstrip, token.rstrip))).collect();
    let model = Model::Hf(Box::new(Hf { tokenizer, plain, names, strips }));
    Ok(Tokenizer { model, special, table, prefix, suffix, bos, eog, fim, fingerprint })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let failed = |source| TokenizerError::ReadFile { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TokenizerError::FileTooLarge { path: path.to_owned(), limit: MAX_FILE_BYTES });
    }
    Ok(bytes)
}

fn read_config(path: &Path) -> Result<(Vec<u8>, Value), TokenizerError> {
    let bytes = read_bounded(path)?;
    let config = serde_json::from_slice(&bytes)
        .map_err(|e| TokenizerError::ParseFile { path: path.to_owned(), message: e.to_string() })?;
    Ok((bytes, config))
}

/// A special token's text: a string, or an object with the field `content`.
fn token_name<'c>(config: &'c Value, field: &str) -> Option<&'c str> {
    let token = config.get(field)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The tokens that the file puts before and after a text.
fn added_around(tokenizer: &HfTokenizer) -> tokenizers::Result<(Vec<u32>, Vec<u32>)> {
    let bare = tokenizer.encode_fast("a", false)?;
    let whole = tokenizer.encode_fast("a", true)?;
    let (bare, whole) = (bare.get_ids(), whole.get_ids());
    let at = whole.windows(bare.len().max(1)).position(|w| w == bare).unwrap_or(0);
    let end = (at + bare.len()).min(whole.len());
    Ok((whole[..at].to_vec(), whole[end..].to_vec()))
}

fn spelling(tokenizer: &HfTokenizer, path: &Path) -> Result<Spelling, TokenizerError> {
    fn of(decoder: &DecoderWrapper) -> Option<Spelling> {
        match decoder {
            DecoderWrapper::ByteLevel(_) => Some(Spelling::ByteLevel),
            DecoderWrapper::ByteFallback(_) | DecoderWrapper::Metaspace(_) => {
                Some(Spelling::SentencePiece)
            }
            DecoderWrapper::WordPiece(_) => Some(Spelling::WordPiece),
            DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().find_map(of),
            _ => None,
        }
    }
    let decoder = tokenizer.get_decoder();
    decoder.and_then(of).ok_or_else(|| {
        let named = serde_json::to_value(decoder).unwrap_or_default();
        let name = named.get("type").and_then(Value::as_str).unwrap_or("nothing");
        TokenizerError::UnknownDecoder { path: path.to_owned(), decoder: name.to_owned() }
    })
}

/// The bytes of every id up to the highest; ids that no token has add nothing to the text.
fn build_table(
    tokenizer: &HfTokenizer,
    spelling: Spelling,
) -> Result<(TokenTable, EndTokens, FimFinder), TokenizerError> {
    let vocab = tokenizer.get_vocab(true);
    let n_tokens = vocab.values().max().map_or(0, |&id| id as usize + 1);
    if !(1..=MAX_TOKENS).contains(&n_tokens) {
        return Err(TokenizerError::VocabSize { n_tokens, limit: MAX_TOKENS });
    }
    let mut texts = vec![""; n_tokens];
    for (text, &id) in &vocab {
        texts[id as usize] = text;
    }
    let added = tokenizer.get_added_tokens_decoder();
    let to_byte = alphabet_to_byte();
    let (mut table, mut ends) = (TokenTable::with_capacity(n_tokens), EndTokens::default());
    let mut fim = FimFinder::default();
    let mut bytes = Vec::new();
    for (id, text) in (0..).zip(texts) {
        fim.see(id, text);
        let special = added.get(&id).is_some_and(|token| token.special);
        if ends.see(id, text, special) || special {
            table.push_control(text);
        } else if added.contains_key(&id) {
            table.push(text.as_bytes())?;
        } else if spelling == Spelling::ByteLevel {
            bytes_of(text, &to_byte, &mut bytes);
            table.push(&bytes)?;
        } else if spelling == Spelling::WordPiece {
            let begins_word = format!(" {text}");
            let piece = text.strip_prefix("##").unwrap_or(&begins_word);
            table.push(piece.as_bytes())?;
        } else if let Some(byte) = parse_byte(text) {
            table.push(&[byte])?;
        } else {
            table.push(text.replace(SPACE, " ").as_bytes())?;
        }
    }
    Ok((table, ends, fim))
}
