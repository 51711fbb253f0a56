//! Which tokens make a model fill the gap between two texts ("fill in the middle"). Metadata names them, or they
//! are known by their texts, as llama.cpp knows them.
//!
//! It must never know vocabularies' formats.
//!
//! Start reading at [`FimTokens`], then [`Tokenizer::encode_infill`].

use crate::{EncodeOptions, Tokenizer, TokenizerError};

/// Texts of the three tokens, one line for each way to write them.
/// Source: the lists of `llama_vocab::impl::load` in llama.cpp.
const SPELLINGS: [[&str; 3]; 7] = [
    // Qwen, CodeGemma
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    // SantaCoder
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    // StarCoder, Granite
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    // DeepSeek
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    // CodeLlama
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    ["<PRE>", "<SUF>", "<MID>"],
    // GLM
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
];

/// Texts of tokens that end what fills a gap, control tokens or not.
const ENDS: [&str; 14] = [
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<repo_name>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
    "<file_sep>",
    "<|file_separator|>",
    "<EOT>",
    "▁<EOT>",
    "_<EOT>",
];

/// The tokens that make a model fill a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FimTokens {
    /// Stands before what precedes the gap.
    pub prefix: u32,
    /// Stands before what follows the gap.
    pub suffix: u32,
    /// Stands before what fills the gap.
    pub middle: u32,
}

/// Collects the tokens by their texts.
#[derive(Debug, Default)]
pub(crate) struct FimFinder {
    found: [[Option<u32>; 3]; SPELLINGS.len()],
    ends: Vec<u32>,
}

impl FimFinder {
    /// Looks at one token of the vocabulary.
    pub(crate) fn see(&mut self, id: u32, text: &str) {
        if !text.ends_with('>') {
            return;
        }
        for (spelling, found) in SPELLINGS.iter().zip(&mut self.found) {
            if let Some(place) = spelling.iter().position(|known| *known == text) {
                found[place] = Some(id);
            }
        }
        if ENDS.contains(&text) {
            self.ends.push(id);
        }
    }

    /// The tokens, where there are all three. `named` are those of the metadata, which go first: prefix, suffix
    /// and middle. What ends a middle, `ends` of the metadata among it, ends every generation, as in llama.cpp: it
    /// goes to `eog`, which is ascending.
    pub(crate) fn finish(
        self,
        named: [Option<u32>; 3],
        ends: &[u32],
        eog: &mut Vec<u32>,
    ) -> Option<FimTokens> {
        let mut whole = self.found.iter().filter(|found| found.iter().all(Option::is_some));
        let spelt = whole.next().copied().unwrap_or_default();
        let [Some(prefix), Some(suffix), Some(middle)] =
            [0, 1, 2].map(|place| named[place].or(spelt[place]))
        else {
            return None;
        };
        eog.extend(self.ends.iter().chain(ends));
        eog.sort_unstable();
        eog.dedup();
        Some(FimTokens { prefix, suffix, middle })
    }
}

impl Tokenizer {
    /// The tokens that make a model fill a gap; `None` where the vocabulary has none.
    #[must_use]
    pub fn fim(&self) -> Option<FimTokens> {
        self.fim
    }

    /// Encodes what stands before and after a gap, in the order in which models learn it: prefix, suffix, and the
    /// token after which the middle is written. With `add_special` it begins as a text does; it never ends as one.
    /// `None` where [`Self::fim`] is.
    ///
    /// # Errors
    /// As [`Self::encode`], for each of both texts.
    pub fn encode_infill(
        &self,
        before: &str,
        after: &str,
        opts: EncodeOptions,
    ) -> Result<Option<Vec<u32>>, TokenizerError> {
        let Some(fim) = self.fim else { return Ok(None) };
        let text = EncodeOptions { add_special: false, ..opts };
        let mut ids = if opts.add_special { self.prefix.clone() } else { Vec::new() };
        ids.push(fim.prefix);
        ids.extend(self.encode(before, text)?);
        ids.push(fim.suffix);
        // No space is put before what goes on within a line.
        ids.extend(self.encode_from(after, text, None, false)?);
        ids.push(fim.middle);
        Ok(Some(ids))
    }
}
