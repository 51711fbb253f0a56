//! The tokenizer: one type over every kind of vocabulary.
//!
//! It must never know requests or templates. It holds no state between calls, so threads share it.
//!
//! Start reading at [`Tokenizer::encode`].

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use crate::bpe::Bpe;
use crate::fim::FimTokens;
use crate::hf::Hf;
use crate::merge::Merger;
use crate::special::{Fragment, SpecialMatcher};
use crate::spm::Spm;
use crate::token_table::TokenTable;
use crate::wordpiece::WordPiece;
use crate::{GgufVocab, TokenizerError, gguf, hf, placeholder};

/// Text to token ids, and token ids to bytes.
pub struct Tokenizer {
    pub(crate) model: Model,
    pub(crate) special: SpecialMatcher,
    pub(crate) table: TokenTable,
    /// Put before a text when special tokens are added.
    pub(crate) prefix: Vec<u32>,
    /// Put after a text when special tokens are added.
    pub(crate) suffix: Vec<u32>,
    pub(crate) bos: Option<u32>,
    /// Ascending.
    pub(crate) eog: Vec<u32>,
    pub(crate) fim: Option<FimTokens>,
    pub(crate) fingerprint: [u8; 16],
}

/// How the text between special tokens is encoded.
#[derive(Debug)]
pub(crate) enum Model {
    Bpe(Bpe),
    Spm(Spm),
    WordPiece(WordPiece),
    Hf(Box<Hf>),
    Placeholder(SpecialMatcher),
}

/// What [`Tokenizer::encode`] does besides encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the tokens that begin and end a text, as far as the model wants them.
    pub add_special: bool,
    /// Read the names of control tokens, such as `<|im_end|>`, as these tokens. Never for text of a
    /// user: with it off, no text becomes a control token.
    pub parse_special: bool,
}

impl Tokenizer {
    /// Adds tokens that end a generation: files beside the tokenizer's own may name some.
    pub fn add_eog(&mut self, ids: &[u32]) {
        for &id in ids {
            if let Err(place) = self.eog.binary_search(&id) {
                self.eog.insert(place, id);
            }
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.fingerprint);
        for id in &self.eog {
            hasher.update(&id.to_le_bytes());
        }
        self.fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    }

    /// Has the control tokens of these names add their names to the text, as other tokens do: marks that are a part of what
    /// a model says, such as `[TOOL_CALLS]`. Reading them stays as it is, and what ends a generation stays silent.
    pub fn voice(&mut self, names: &[&str]) {
        let eog = &self.eog;
        let is_meant = |id: u32, name: &str| names.contains(&name) && !eog.contains(&id);
        if self.table.voice(is_meant) {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.fingerprint);
            for name in names {
                hasher.update(name.as_bytes()).update(&[0]);
            }
            self.fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        }
    }

    /// The longest text that is encoded at once: 16 MiB.
    pub const MAX_TEXT_BYTES: usize = 16 << 20;

    /// The tokenizer of a GGUF file: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) or `bert` (WordPiece).
    ///
    /// # Errors
    /// `UnknownModel`, `UnknownPre`, and what else does not fit together in the metadata.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self, TokenizerError> {
        gguf::build(vocab)
    }

    /// The tokenizer of a `tokenizer.json`; `bos_token`, `eos_token` and `add_bos_token` are those
    /// of `tokenizer_config.json` when it is given. At most 64 MiB are read of each file.
    ///
    /// # Errors
    /// `ReadFile`, `FileTooLarge`, `ParseFile`, or `UnknownDecoder` when the bytes of a token
    /// cannot be told from the file.
    pub fn from_tokenizer_json(
        tokenizer_json: &Path,
        tokenizer_config_json: Option<&Path>,
    ) -> Result<Self, TokenizerError> {
        hf::build(tokenizer_json, tokenizer_config_json)
    }

    /// The tokenizer of the placeholder backend: no files, 512 tokens; see [`placeholder`].
    #[must_use]
    pub fn placeholder() -> Self {
        placeholder::build().expect("the placeholder's own vocabulary is whole: this is a bug")
    }

    /// Encodes any text; the empty one gives no tokens but those that `add_special` adds.
    ///
    /// Bytes that a byte-level vocabulary cannot spell are left out, as everywhere:
    /// [`Self::unspelled_bytes`] counts them.
    ///
    /// # Errors
    /// `TextTooLong` above [`Self::MAX_TEXT_BYTES`]; `Encode` when the tokenizer of a
    /// `tokenizer.json` fails.
    pub fn encode(&self, text: &str, opts: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, opts, None)
    }

    /// Encodes what follows another text, without special tokens: no space is put before its first word, as some vocabularies
    /// do at a beginning. A `tokenizer.json` cannot be asked for that.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_continuing(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_from(text, EncodeOptions::default(), None, false)
    }

    /// The names of control tokens, in the vocabulary or added to it.
    pub(crate) fn control_names(&self) -> &SpecialMatcher {
        match &self.model {
            Model::Hf(hf) => hf.names(),
            Model::Bpe(_) | Model::Spm(_) | Model::WordPiece(_) | Model::Placeholder(_) => {
                &self.special
            }
        }
    }

    /// Encodes; between control tokens `guard` is taken out of the text.
    pub(crate) fn encode_with(
        &self,
        text: &str,
        opts: EncodeOptions,
        guard: Option<char>,
    ) -> Result<Vec<u32>, TokenizerError> {
        self.encode_from(text, opts, guard, true)
    }

    /// Encodes; what does not begin a text has no space put before its first word.
    pub(crate) fn encode_from(
        &self,
        text: &str,
        opts: EncodeOptions,
        guard: Option<char>,
        mut begins: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > Self::MAX_TEXT_BYTES {
            let (bytes, limit) = (text.len(), Self::MAX_TEXT_BYTES);
            return Err(TokenizerError::TextTooLong { bytes, limit });
        }
        let mut ids = Vec::with_capacity(text.len() / 4 + 4);
        if opts.add_special {
            ids.extend_from_slice(&self.prefix);
        }
        let mut merger = Merger::default();
        for fragment in self.special.split(text, opts.parse_special) {
            if let Fragment::Token(id) = fragment {
                ids.push(id);
                begins = true;
                continue;
            }
            let Fragment::Text(text) = fragment else { continue };
            let clean = guard.map_or(Cow::Borrowed(text), |guard| text.replace(guard, "").into());
            match (&self.model, guard) {
                (Model::Bpe(bpe), _) => bpe.encode(&clean, &mut merger, &mut ids),
                (Model::Spm(spm), _) => spm.encode(&clean, begins, &mut merger, &mut ids),
                (Model::WordPiece(pieces), _) => pieces.encode(&clean, &mut ids)?,
                (Model::Hf(hf), None) => hf.encode(text, opts.parse_special, &mut ids)?,
                (Model::Hf(hf), Some(guard)) => hf.encode_guarded(text, guard, &mut ids)?,
                (Model::Placeholder(words), _) => placeholder::encode(words, &clean, &mut ids),
            }
            begins = false;
        }
        if opts.add_special {
            ids.extend_from_slice(&self.suffix);
        }
        Ok(ids)
    }

    /// The tokens that end a text.
    #[must_use]
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    /// The tokens that an encoder reads of a text or of a pair of texts, with those around them, and of each
    /// token whether it is of the first text or the second: 0 or 1. No text becomes a special token.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_pair(
        &self,
        first: &str,
        second: Option<&str>,
    ) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
        let bytes = first.len() + second.map_or(0, str::len);
        if bytes > Self::MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes, limit: Self::MAX_TEXT_BYTES });
        }
        if let Model::Hf(hf) = &self.model {
            return hf.encode_pair(first, second);
        }
        let with_special = EncodeOptions { add_special: true, parse_special: false };
        let mut ids = self.encode(first, with_special)?;
        let mut types = vec![0; ids.len()];
        if let Some(second) = second {
            ids.extend(self.encode(second, EncodeOptions::default())?);
            ids.extend_from_slice(&self.suffix);
            types.resize(ids.len(), 1);
        }
        Ok((ids, types))
    }

    /// How many bytes of `text` the vocabulary cannot spell, so that [`Self::encode`] leaves them
    /// out: some byte-level vocabularies lack rare control characters. A `tokenizer.json` does not
    /// tell; there it is 0.
    #[must_use]
    pub fn unspelled_bytes(&self, text: &str) -> usize {
        match &self.model {
            Model::Bpe(bpe) => text.bytes().filter(|&byte| !bpe.spells(byte)).count(),
            Model::Spm(_) | Model::WordPiece(_) | Model::Hf(_) | Model::Placeholder(_) => 0,
        }
    }

    /// How many token ids there are. A model's logits may have more columns; those are no tokens.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// The token that begins a text.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether `add_special` puts [`Self::bos`] first.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.bos.is_some() && self.prefix.first().copied() == self.bos
    }

    /// Whether this token ends a generation.
    #[must_use]
    pub fn is_eog(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    /// The tokens that end a generation, ascending: those that the metadata names, and those known
    /// by their texts, such as `<|im_end|>`.
    #[must_use]
    pub fn eog_ids(&self) -> &[u32] {
        &self.eog
    }

    /// Whether this token stands for no text.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        self.table.is_control(id)
    }

    /// What this token adds to the text; may be a part of a character. Empty for control tokens, but for those of
    /// [`Self::voice`], and for ids outside of the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.table.bytes(id)
    }

    /// The token as people see it, control tokens by name; what is not UTF-8 alone is shown as
    /// U+FFFD. Empty for ids outside of the vocabulary.
    #[must_use]
    pub fn token_text(&self, id: u32) -> Cow<'_, str> {
        self.table.text(id)
    }

    /// A digest of everything that decides how text is encoded and decoded. Stable across runs.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eog", &self.eog)
            .finish_non_exhaustive()
    }
}
