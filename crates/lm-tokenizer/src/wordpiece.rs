//! WordPiece as BERT uses it: lower case without accents, words and punctuation apart, and in each word the
//! longest pieces from the left. The `tokenizers` crate does the work.
//!
//! It must never know special tokens: they are cut out before.
//!
//! Start reading at [`WordPiece::encode`]. Source: Devlin et al. 2019.

use ahash::AHashMap;
use tokenizers::models::wordpiece::WordPiece as Pieces;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Model as _, Normalizer as _, OffsetType, PreTokenizedString, PreTokenizer as _};

use crate::TokenizerError;
use crate::spm::SPACE;
use crate::vocab::GgufVocab;

/// What begins a piece that goes on with a word, in the crate's spelling.
const GOES_ON: &str = "##";
/// A word of more characters is unknown as a whole.
const MAX_WORD_CHARS: usize = 100;

/// A vocabulary of pieces.
#[derive(Debug)]
pub(crate) struct WordPiece {
    normalizer: BertNormalizer,
    pieces: Pieces,
}

impl WordPiece {
    /// `is_text` says of each token whether text may become it. GGUF writes a space before pieces that begin a
    /// word, where BERT's own files write `##` before those that do not.
    pub(crate) fn new(
        vocab: &GgufVocab,
        is_text: impl Fn(u32) -> bool,
    ) -> Result<Self, TokenizerError> {
        let unk = vocab.unk.ok_or(TokenizerError::NoUnknown)?;
        let unk_token = vocab.tokens[unk as usize].clone();
        let texts = vocab.tokens.iter().zip(0..).filter(|&(_, id)| is_text(id));
        let mut pieces: AHashMap<String, u32> = texts
            .map(|(text, id)| match text.strip_prefix(SPACE) {
                Some(word) => (word.to_owned(), id),
                None => (format!("{GOES_ON}{text}"), id),
            })
            .collect();
        pieces.insert(unk_token.clone(), unk);
        let pieces = Pieces::builder()
            .vocab(pieces)
            .unk_token(unk_token)
            .continuing_subword_prefix(GOES_ON.to_owned())
            .max_input_chars_per_word(MAX_WORD_CHARS)
            .build()
            .map_err(|e| TokenizerError::Matcher { what: "pieces", message: e.to_string() })?;
        let normalizer = BertNormalizer::new(true, true, Some(true), true);
        Ok(WordPiece { normalizer, pieces })
    }

    /// Appends the tokens of `text` to `out`.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Encode { message: e.to_string() };
        let mut words = PreTokenizedString::from(text);
        words.normalize(|word| self.normalizer.normalize(word)).map_err(failed)?;
        BertPreTokenizer.pre_tokenize(&mut words).map_err(failed)?;
        self.pieces.tokenize_in_pretokenized(&mut words, None).map_err(failed)?;
        let encoding = words.into_encoding(None, 0, OffsetType::None).map_err(failed)?;
        out.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}
