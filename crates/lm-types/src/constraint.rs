//! What form an answer must have, and the tokens that keep to it.

use std::borrow::Cow;

use crate::TokenId;

/// The form that an answer must have, and the field that asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Constraint {
    /// The field's name on the wire, for errors.
    pub field: &'static str,
    /// The form.
    pub form: AnswerForm,
}

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AnswerForm {
    /// Any JSON object.
    JsonObject,
    /// JSON that validates against this JSON schema, given as JSON text.
    JsonSchema(String),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of this grammar, in llguidance's variant of Lark.
    Lark(String),
    /// Calls of tools and nothing else.
    Calls(CallForm),
}

/// Calls of tools as a model writes them: JSON documents with fixed text around them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallForm {
    /// The JSON schema of one call, as JSON text.
    pub schema: String,
    /// Before all calls.
    pub open: Cow<'static, str>,
    /// Before each call.
    pub begin: Cow<'static, str>,
    /// After each call.
    pub end: Cow<'static, str>,
    /// Between two calls.
    pub between: Cow<'static, str>,
    /// After all calls.
    pub close: Cow<'static, str>,
    /// At least one call, and at most this many.
    pub max_calls: usize,
}

impl AnswerForm {
    /// Bytes of its source text.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            AnswerForm::JsonObject => 0,
            AnswerForm::JsonSchema(text) | AnswerForm::Regex(text) | AnswerForm::Lark(text) => {
                text.len()
            }
            AnswerForm::Calls(calls) => calls.schema.len(),
            AnswerForm::Choice(texts) => texts.iter().map(String::len).sum(),
        }
    }
}

/// The tokens that may be drawn, one bit each: bit `t % 32` of word `t / 32`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// Takes over `words`; tokens beyond them are forbidden.
    #[must_use]
    pub fn from_words(words: Vec<u32>) -> Self {
        TokenMask { words }
    }

    /// Replaces the bits, keeping the memory.
    pub fn copy_from(&mut self, words: &[u32]) {
        self.words.clear();
        self.words.extend_from_slice(words);
    }

    /// Whether `token` may be drawn.
    #[must_use]
    pub fn allows(&self, token: TokenId) -> bool {
        let word = self.words.get(token as usize / 32).copied().unwrap_or(0);
        word >> (token % 32) & 1 == 1
    }

    /// Sets the logits of forbidden tokens to minus infinity. `[vocab_size]`
    pub fn apply(&self, logits: &mut [f32]) {
        let beyond = std::iter::repeat(&0);
        for (block, &word) in logits.chunks_mut(32).zip(self.words.iter().chain(beyond)) {
            match word {
                0 => block.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                _ => forbid(block, word),
            }
        }
    }
}

fn forbid(block: &mut [f32], word: u32) {
    for (bit, logit) in block.iter_mut().enumerate() {
        if word >> bit & 1 == 0 {
            *logit = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_tokens_and_those_beyond_the_mask_cannot_be_drawn() {
        let mask = TokenMask::from_words(vec![0b101, u32::MAX, 0]);
        let mut logits = vec![1.0; 100];
        mask.apply(&mut logits);
        let left: Vec<usize> = (0..100).filter(|&t| logits[t] == 1.0).collect();
        let expect: Vec<usize> = [0, 2].into_iter().chain(32..64).collect();
        assert_eq!(left, expect);
        assert_eq!((0..100).filter(|&t| mask.allows(t)).count(), expect.len());
        assert!(!mask.allows(1000));
    }
}
