//! How far one answer is in its grammar.
//!
//! It must never be shared by answers.
//!
//! Start reading at [`GrammarState::update`].

use std::fmt;

use llguidance::Matcher;
use lm_types::{TokenId, TokenMask};

use crate::GrammarError;
use crate::error::first_lines;

/// How far one answer is in its grammar.
pub struct GrammarState {
    matcher: Matcher,
    mask: TokenMask,
}

impl GrammarState {
    pub(crate) fn new(matcher: Matcher) -> Self {
        GrammarState { matcher, mask: TokenMask::default() }
    }

    /// Computes which tokens may come next; those that end an answer only where the grammar may end.
    ///
    /// # Errors
    /// `Stuck` when it takes more than the budget of a token.
    pub fn update(&mut self) -> Result<(), GrammarError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| stuck(&error))?;
        self.mask.copy_from(mask.as_slice());
        Ok(())
    }

    /// What [`Self::update`] computed last.
    #[must_use]
    pub fn mask(&self) -> &TokenMask {
        &self.mask
    }

    /// Goes on by a drawn token. Says whether the answer is complete: nothing may follow.
    ///
    /// # Errors
    /// `Stuck` when the token was not allowed.
    pub fn accept(&mut self, token: TokenId) -> Result<bool, GrammarError> {
        self.matcher.consume_token(token).map_err(|error| stuck(&error))?;
        Ok(self.matcher.is_stopped())
    }

    /// Takes the last `n_tokens` back.
    ///
    /// # Errors
    /// `Stuck` when it did not take so many.
    pub fn rollback(&mut self, n_tokens: usize) -> Result<(), GrammarError> {
        self.matcher.rollback(n_tokens).map_err(|error| stuck(&error))
    }
}

impl fmt::Debug for GrammarState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarState").finish_non_exhaustive()
    }
}

fn stuck(error: &dyn fmt::Display) -> GrammarError {
    GrammarError::Stuck { message: first_lines(error) }
}
