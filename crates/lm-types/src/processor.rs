//! Changes of logits that an embedding program brings along and that requests ask for by name.

use std::fmt::Debug;

use crate::TokenId;

/// A change of logits that requests ask for by its name, in `logits_processors`.
///
/// It must be pure: a row after the same tokens is always changed alike. Answers are guessed ahead, computed again
/// and replayed, and would differ otherwise.
pub trait LogitProcessor: Debug + Send + Sync {
    /// Its name on the wire; the first of those with the same name is meant.
    fn name(&self) -> &str;

    /// Changes a row, `[vocab_size]`, that is drawn from after these tokens. -infinity forbids a token; NaN and +infinity
    /// fail the answer, as does a panic. The grammar, bans and biases come after it. Threads call it at once, for the rows of a step.
    fn process(&self, logits: &mut [f32], prompt: &[TokenId], generated: &[TokenId]);
}
