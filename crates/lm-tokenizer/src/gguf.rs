//! A tokenizer from GGUF metadata: checks it, sorts the tokens by kind, and picks the algorithm.
//!
//! It must never know files: another crate reads the metadata.
//!
//! Start reading at [`build`].

use crate::TokenizerError;
use crate::bpe::{Bpe, alphabet_to_byte, bytes_of};
use crate::end_tokens::EndTokens;
use crate::fim::{FimFinder, FimTokens};
use crate::merge::NONE;
use crate::pre_tokenizer::Rule;
use crate::special::SpecialMatcher;
use crate::spm::{SPACE, Spm, parse_byte};
use crate::token_table::{MAX_TOKENS, TokenTable};
use crate::tokenizer::{Model, Tokenizer};
use crate::vocab::GgufVocab;
use crate::wordpiece::WordPiece;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Text that encoding may produce.
    Text,
    /// Text that is looked for before all else.
    UserDefined,
    /// No text; found only on request.
    Control,
    /// One byte, in SentencePiece vocabularies.
    Byte,
}

/// Builds the tokenizer that `vocab` describes.
pub(crate) fn build(vocab: &GgufVocab) -> Result<Tokenizer, TokenizerError> {
    check_shape(vocab)?;
    let (is_bpe, is_wordpiece) = match vocab.model.as_str() {
        "gpt2" => (true, false),
        "llama" => (false, false),
        "bert" => (false, true),
        _ => return Err(TokenizerError::UnknownModel { model: vocab.model.clone() }),
    };
    let (kinds, mut eog) = sort_tokens(vocab);
    let table = build_table(vocab, &kinds, is_bpe)?;
    let special = build_special(vocab, &kinds)?;
    let is_text = |id: u32| matches!(kinds[id as usize], Kind::Text | Kind::UserDefined);
    let (model, add_bos) = if is_bpe {
        let rule = Rule::named(vocab.pre.as_deref())?;
        (Model::Bpe(Bpe::new(vocab, rule, &table, is_text)?), rule.add_bos)
    } else if is_wordpiece {
        (Model::WordPiece(WordPiece::new(vocab, is_text)?), true)
    } else {
        (Model::Spm(Spm::new(vocab, byte_ids(vocab, &kinds)?, is_text)?), true)
    };
    let prefix = match (vocab.add_bos, vocab.bos) {
        (Some(false), _) | (None, None) => Vec::new(),
        (Some(true), None) => {
            let (flag, token) = ("add_bos_token", "bos_token_id");
            return Err(TokenizerError::MissingSpecial { flag, token });
        }
        (Some(true), Some(bos)) => vec![bos],
        (None, Some(bos)) => Vec::from_iter(add_bos.then_some(bos)),
    };
    let suffix = match (vocab.add_eos.unwrap_or(is_wordpiece), vocab.eos) {
        (false, _) => Vec::new(),
        (true, Some(eos)) => vec![eos],
        (true, None) => {
            let (flag, token) = ("add_eos_token", "eos_token_id");
            return Err(TokenizerError::MissingSpecial { flag, token });
        }
    };
    let (bos, fim, fingerprint) = (vocab.bos, fim(vocab, &mut eog), fingerprint(vocab));
    Ok(Tokenizer { model, special, table, prefix, suffix, bos, eog, fim, fingerprint })
}

fn check_shape(vocab: &GgufVocab) -> Result<(), TokenizerError> {
    let n_tokens = vocab.tokens.len();
    if !(1..=MAX_TOKENS).contains(&n_tokens) {
        return Err(TokenizerError::VocabSize { n_tokens, limit: MAX_TOKENS });
    }
    for (field, len) in [("scores", vocab.scores.len()), ("token_type", vocab.token_types.len())] {
        if len != 0 && len != n_tokens {
            return Err(TokenizerError::LengthMismatch { field, len, n_tokens });
        }
    }
    let named = [
        ("bos_token_id", vocab.bos),
        ("eos_token_id", vocab.eos),
        ("eot_token_id", vocab.eot),
        ("unknown_token_id", vocab.unk),
        ("padding_token_id", vocab.pad),
        ("fim_pre_token_id", vocab.fim_pre),
        ("fim_suf_token_id", vocab.fim_suf),
        ("fim_mid_token_id", vocab.fim_mid),
    ];
    let eog = vocab.eog.iter().map(|&id| ("eog", id));
    let eog = eog.chain(vocab.fim_ends.iter().map(|&id| ("fim_ends", id)));
    let named = named.into_iter().filter_map(|(field, id)| Some((field, id?)));
    for (field, id) in named.chain(eog) {
        if id as usize >= n_tokens {
            return Err(TokenizerError::IdOutOfRange { field, id, n_tokens });
        }
    }
    Ok(())
}

/// The kind of each token, and the ids that end a generation.
fn sort_tokens(vocab: &GgufVocab) -> (Vec<Kind>, Vec<u32>) {
    let mut ends = EndTokens::default();
    let types = vocab.token_types.iter().copied().chain(std::iter::repeat(1));
    let kinds = (0..).zip(vocab.tokens.iter().zip(types)).map(|(id, (text, token_type))| {
        let kind = match token_type {
            2 | 3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            _ => Kind::Text,
        };
        // A token that ends a generation is a control token, whatever the file calls it.
        if ends.see(id, text, token_type == 3) { Kind::Control } else { kind }
    });
    let kinds = kinds.collect();
    let named = [vocab.eos, vocab.eot].into_iter().flatten().chain(vocab.eog.iter().copied());
    (kinds, ends.finish(named))
}

/// The tokens that make a model fill a gap; what ends that goes to `eog`.
fn fim(vocab: &GgufVocab, eog: &mut Vec<u32>) -> Option<FimTokens> {
    let mut finder = FimFinder::default();
    (0..).zip(&vocab.tokens).for_each(|(id, text)| finder.see(id, text));
    let named = [vocab.fim_pre, vocab.fim_suf, vocab.fim_mid];
    finder.finish(named, &vocab.fim_ends, eog)
}

fn build_table(
    vocab: &GgufVocab,
    kinds: &[Kind],
    is_bpe: bool,
) -> Result<TokenTable, TokenizerError> {
    let mut table = TokenTable::with_capacity(vocab.tokens.len());
    let to_byte = alphabet_to_byte();
    let mut bytes = Vec::new();
    for (text, kind) in vocab.tokens.iter().zip(kinds) {
        match (kind, is_bpe) {
            (Kind::Control, _) => table.push_control(text),
            (Kind::UserDefined, _) => table.push(text.as_bytes())?,
            (Kind::Byte, _) => table.push(parse_byte(text).as_slice())?,
            (Kind::Text, true) => {
                bytes_of(text, &to_byte, &mut bytes);
                table.push(&bytes)?;
            }
            (Kind::Text, false) => table.push(text.replace(SPACE, " ").as_bytes())?,
        }
    }
    Ok(table)
}

fn build_special(vocab: &GgufVocab, kinds: &[Kind]) -> Result<SpecialMatcher, TokenizerError> {
    let of_kind = |wanted: Kind| -> Vec<(&[u8], u32)> {
        (0..)
            .zip(vocab.tokens.iter().zip(kinds))
            .filter(|(_, (_, kind))| **kind == wanted)
            .map(|(id, (text, _))| (text.as_bytes(), id))
            .collect()
    };
    SpecialMatcher::new(&of_kind(Kind::UserDefined), &of_kind(Kind::Control))
}

/// The token of each byte, for a SentencePiece vocabulary. \[256\]
fn byte_ids(vocab: &GgufVocab, kinds: &[Kind]) -> Result<Vec<u32>, TokenizerError> {
    let mut ids = vec![NONE; 256];
    for (id, (text, _)) in
        (0..).zip(vocab.tokens.iter().zip(kinds)).filter(|(_, (_, kind))| **kind == Kind::Byte)
    {
        let byte = parse_byte(text)
            .ok_or_else(|| TokenizerError::BadByteToken { id, text: text.clone() })?;
        ids[usize::from(byte)] = id;
    }
    let n_byte_tokens = ids.iter().filter(|&&id| id != NONE).count();
    if n_byte_tokens < 256 && vocab.unk.is_none() {
        return Err(TokenizerError::NoFallback { n_byte_tokens });
    }
    Ok(ids)
}

/// A digest of everything that decides how text is encoded and decoded.
fn fingerprint(vocab: &GgufVocab) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    // Every text is preceded by its length, so that no two vocabularies write the same bytes.
    let text = |hasher: &mut blake3::Hasher, text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    text(&mut hasher, &vocab.model);
    text(&mut hasher, vocab.pre.as_deref().unwrap_or("default"));
    for list in [&vocab.tokens, &vocab.merges] {
        hasher.update(&(list.len() as u64).to_le_bytes());
        list.iter().for_each(|entry| text(&mut hasher, entry));
    }
    let scores = vocab.scores.iter().map(|score| score.to_bits());
    let numbers: Vec<u8> = scores
        .chain(vocab.token_types.iter().copied())
        .chain(vocab.eog.iter().copied())
        .flat_map(u32::to_le_bytes)
        .collect();
    hasher.update(&numbers);
    let ids = [vocab.bos, vocab.eos, vocab.eot, vocab.unk, vocab.pad];
    let flags = [vocab.add_bos, vocab.add_eos, vocab.add_space_prefix];
    text(&mut hasher, &format!("{ids:?} {flags:?}"));
    let fim = [vocab.fim_pre, vocab.fim_suf, vocab.fim_mid];
    // Those without any keep the digest that they had before there were these.
    if fim.iter().any(Option::is_some) || !vocab.fim_ends.is_empty() {
        text(&mut hasher, &format!("{fim:?} {:?}", vocab.fim_ends));
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}
