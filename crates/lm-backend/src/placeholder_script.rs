//! Answers that a placeholder gives instead of making them up: recorded ones, or ones of a schema.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use lm_types::{Prompt, TokenId};

/// An answer, and the prompt that gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptedAnswer {
    /// `None`: no prompt in particular.
    pub prompt: Option<Prompt>,
    /// Its text.
    pub answer: String,
}

/// What a placeholder answers in modes `replay` and `schema`, as text. A prompt that the script knows gets its own answer, the
/// last of them where there are several; any other gets the one that the prompt's hash picks.
#[derive(Clone, Default, PartialEq)]
pub struct PlaceholderScript(pub Arc<Vec<ScriptedAnswer>>);

/// The same in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptedTokens {
    answers: Vec<Vec<TokenId>>,
    /// By the tokens of the whole prompt.
    by_prompt: HashMap<Vec<TokenId>, usize>,
}

impl PlaceholderScript {
    /// Whether there is no answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Short, and another one for other answers: it becomes part of a release.
impl fmt::Debug for PlaceholderScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:?}", self.0);
        let digest =
            text.bytes().fold(0, |hash, byte| super::placeholder::mix(hash ^ u64::from(byte)));
        write!(f, "{} answers {digest:016x}", self.0.len())
    }
}

impl ScriptedTokens {
    /// Appends an answer.
    pub fn push(&mut self, prompt: Option<Vec<TokenId>>, answer: Vec<TokenId>) {
        if let Some(prompt) = prompt {
            self.by_prompt.insert(prompt, self.answers.len());
        }
        self.answers.push(answer);
    }

    /// The answer to `prompt`; `None` when there is no answer at all.
    pub(crate) fn answer(&self, prompt: &[TokenId]) -> Option<&[TokenId]> {
        let hash = |hash, token: &TokenId| super::placeholder::mix(hash ^ u64::from(*token));
        let known = self.by_prompt.get(prompt).copied();
        let any = || prompt.iter().fold(0, hash).checked_rem(self.answers.len() as u64);
        let i = known.or_else(|| any().map(|i| i as usize))?;
        Some(&self.answers[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_prompt_gets_its_own_answer_and_others_get_one_each_time_the_same() {
        let mut script = ScriptedTokens::default();
        assert_eq!(script.answer(&[1]), None);
        script.push(Some(vec![1, 2]), vec![10]);
        script.push(None, vec![11]);
        script.push(Some(vec![1, 3]), vec![12]);
        assert_eq!(script.answer(&[1, 2]), Some(&[10][..]));
        assert_eq!(script.answer(&[1, 3]), Some(&[12][..]));
        let mut found: Vec<_> = (0..60).map(|i| script.answer(&[7, i])).collect();
        assert_eq!(found[5], script.answer(&[7, 5]));
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), 3, "all are picked");
        script.push(Some(vec![1, 2]), vec![13]);
        assert_eq!(script.answer(&[1, 2]), Some(&[13][..]));
    }

    #[test]
    fn other_answers_are_another_release() {
        let script = |answer: &str| {
            let answer = answer.to_owned();
            PlaceholderScript(Arc::new(vec![ScriptedAnswer { prompt: None, answer }]))
        };
        assert_eq!(format!("{:?}", script("a")), format!("{:?}", script("a")));
        assert_ne!(format!("{:?}", script("a")), format!("{:?}", script("b")));
    }
}
