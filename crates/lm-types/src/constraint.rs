//! What form an answer must have, and the tokens that keep to it.

use std::borrow::Cow;
use std::iter::repeat;

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
    /// Calls of tools, or something else.
    MayCall(MayCall),
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
    /// Other calls that may be made: what stands before each in the place of `begin`, and the JSON schema of its document.
    pub others: Vec<(String, String)>,
}

/// Calls of tools where the model wants them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MayCall {
    /// How they are written. With at most one of them, an answer ends with it.
    pub calls: CallForm,
    /// The text of a control token that may stand before them; empty when there is none.
    pub marker: Cow<'static, str>,
    /// The form of an answer without calls; `None` is any text.
    pub otherwise: Option<Box<AnswerForm>>,
}

impl CallForm {
    fn size_bytes(&self) -> usize {
        let others = self.others.iter().map(|(begin, schema)| begin.len() + schema.len());
        self.schema.len() + others.sum::<usize>()
    }
}

impl AnswerForm {
    /// Whether any text that calls nothing is of this form.
    #[must_use]
    pub fn takes_any_text(&self) -> bool {
        matches!(self, AnswerForm::MayCall(MayCall { otherwise: None, .. }))
    }

    /// Bytes of its source text.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            AnswerForm::JsonObject => 0,
            AnswerForm::JsonSchema(text) | AnswerForm::Regex(text) | AnswerForm::Lark(text) => {
                text.len()
            }
            AnswerForm::Calls(calls) => calls.size_bytes(),
            AnswerForm::MayCall(MayCall { calls, otherwise, .. }) => {
                calls.size_bytes() + otherwise.as_ref().map_or(0, |form| form.size_bytes())
            }
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

    /// Whether `token` may be drawn.
    #[must_use]
    pub fn allows(&self, token: TokenId) -> bool {
        let word = self.words.get(token as usize / 32).copied().unwrap_or(0);
        word >> (token % 32) & 1 == 1
    }

    /// The tokens that may be drawn, in order of id.
    pub fn tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        let words = self.words.iter().zip((0..).step_by(32)).filter(|(word, _)| **word != 0);
        words.flat_map(|(&word, first): (&u32, TokenId)| {
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
        })
    }

    /// The token that must be drawn, where there is no other.
    #[must_use]
    pub fn only(&self) -> Option<TokenId> {
        let mut words = self.words.iter().zip((0..).step_by(32)).filter(|(word, _)| **word != 0);
        let (word, first): (&u32, TokenId) = words.next()?;
        let is_only = word.is_power_of_two() && words.next().is_none();
        is_only.then(|| first + word.trailing_zeros())
    }

    /// The words; tokens beyond them are forbidden.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Puts minus infinity in the place of the logits of forbidden tokens.
    pub fn forbid(&self, logits: &mut [f32]) {
        for (logits, word) in logits.chunks_mut(32).zip(self.words.iter().chain(repeat(&0))) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_tokens_and_those_beyond_the_mask_cannot_be_drawn() {
        let mask = TokenMask::from_words(vec![0b101, u32::MAX, 0]);
        let logits: Vec<f32> = (0..100_u8).map(f32::from).collect();
        let mut allowed = logits.clone();
        mask.forbid(&mut allowed);
        let expect: Vec<usize> = [0, 2].into_iter().chain(32..64).collect();
        let is_left = |t: &usize| allowed[*t] == logits[*t];
        assert_eq!((0..100).filter(is_left).collect::<Vec<_>>(), expect);
        assert_eq!(allowed.iter().filter(|logit| **logit == f32::NEG_INFINITY).count(), 66);
        assert_eq!((0..100).filter(|&t| mask.allows(t)).count(), expect.len());
        assert!(mask.tokens().map(|token| token as usize).eq(expect));
        assert!(!mask.allows(1000));
    }

    #[test]
    fn the_only_token_is_known_where_there_is_one() {
        let only = |words: &[u32]| TokenMask::from_words(words.to_vec()).only();
        assert_eq!(only(&[0, 0b1000, 0]), Some(35));
        assert_eq!(only(&[1 << 31]), Some(31));
        assert_eq!(only(&[0b101, 0]), None);
        assert_eq!(only(&[1, 0, 1]), None);
        assert_eq!(only(&[0, 0]), None);
        assert_eq!(only(&[]), None);
    }
}
