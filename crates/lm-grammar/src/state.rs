//! How far one answer is in its grammar.
//!
//! Where a grammar decides how the text goes on, it looks ahead: the tokens that spell it are guessed, and their masks are
//! there before they are drawn. A guess decides nothing: what is drawn goes on from what was drawn.
//!
//! It must never be shared by answers.
//!
//! Start reading at [`GrammarState::look_ahead`].

use std::collections::VecDeque;
use std::fmt;

use llguidance::Matcher;
use llguidance::toktrie::{SimpleVob, TokEnv, TokTrie};
use lm_types::{TokenId, TokenMask};

use crate::GrammarError;
use crate::compiler::STEP_FUEL;
use crate::error::first_lines;

/// Tokens that are guessed ahead, at most.
const MOST_AHEAD: usize = 8;
/// Tokens that may begin a text that is decided, at most: one for each of its first bytes.
const MOST_SPELLINGS: usize = 32;
/// Right guesses in a row after which one more is guessed: a wrong one costs a copy of the state and masks for nothing.
const RIGHT_FOR_MORE: usize = 4;
/// Drawn tokens that a scout may have to catch up with; one that is further behind is made anew when it is needed.
const MOST_BEHIND: usize = 32;
/// What the lexers of the answer's own state, for its last mask, and of its scout may take together. The rest of a step's
/// fuel is a margin.
const MOST_FUEL: u64 = STEP_FUEL / 4 * 3;

/// How far one answer is in its grammar.
pub struct GrammarState {
    matcher: Matcher,
    vocabulary: TokEnv,
    /// The mask of the next token, and after each guess that of the token after it.
    known: VecDeque<Known>,
    /// Whether the last of those leaves a choice of how the text goes on.
    is_open: bool,
    /// What the lexer of `matcher` took since a mask last gave it fuel, as far as that is known; 0 where it took nothing.
    own_fuel: u64,
    /// Goes along guesses. Shares nothing with `matcher`, so that a guess that goes wrong harms nobody.
    scout: Option<Scout>,
    /// How many tokens are guessed: half as many after each wrong guess, none any more after four with few right ones
    /// between them.
    depth: usize,
    /// Right guesses since the last wrong one.
    n_right: usize,
}

/// What may be drawn somewhere.
struct Known {
    mask: TokenMask,
    /// What is guessed to be drawn.
    guess: Option<TokenId>,
    /// Whether nothing else can be.
    is_certain: bool,
}

struct Scout {
    matcher: Matcher,
    /// Tokens that it has yet to take.
    behind: Vec<TokenId>,
    /// What its lexer took since it was made: as much as `matcher` may need for the same tokens, whose masks it is spared.
    fuel: u64,
}

impl GrammarState {
    pub(crate) fn new(matcher: Matcher, vocabulary: TokEnv) -> Self {
        GrammarState {
            matcher,
            vocabulary,
            known: VecDeque::new(),
            is_open: false,
            own_fuel: 0,
            scout: None,
            depth: MOST_AHEAD,
            n_right: 0,
        }
    }

    /// Whether [`Self::look_ahead`] has nothing to do.
    #[must_use]
    pub fn is_ahead(&self, guesses: bool) -> bool {
        let has_guessed = self.is_open || self.known.len() > self.depth;
        !self.known.is_empty() && (!guesses || has_guessed)
    }

    /// Computes which tokens may come next; and where `guesses`, what is guessed to come, as far as the grammar decides
    /// it. What fails here fails in [`Self::update`], too.
    pub fn look_ahead(&mut self, guesses: bool) {
        if self.update().is_ok() && guesses {
            while !self.is_open && self.known.len() <= self.depth && self.guess() {}
        }
    }

    /// Computes which tokens may come next, unless that is known; those that end an answer only where the grammar may
    /// end.
    ///
    /// # Errors
    /// `Stuck` when it takes more than the budget of a token.
    pub fn update(&mut self) -> Result<(), GrammarError> {
        if self.known.is_empty() {
            if self.own_fuel > 0 {
                // One that it remembers would give it no fuel.
                self.matcher.invalidate_bias_cache();
            }
            let (mask, fuel) = compute_mask(&mut self.matcher)?;
            self.own_fuel = fuel;
            self.known.push_back(Known::new(mask));
        }
        Ok(())
    }

    /// What may come next.
    ///
    /// # Panics
    /// When [`Self::update`] was not called since the last token.
    #[must_use]
    pub fn mask(&self) -> &TokenMask {
        &self.known.front().expect("the mask was computed before: this is a bug").mask
    }

    /// The tokens that are guessed to come next.
    pub fn guesses(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.known.iter().map_while(|known| known.guess)
    }

    /// How many of the guesses, the first ones, are certain: nothing else may be drawn.
    #[must_use]
    pub fn n_certain(&self) -> usize {
        self.known.iter().take_while(|known| known.is_certain).count()
    }

    /// Goes on by a drawn token. Says whether the answer is complete: nothing may follow.
    ///
    /// # Errors
    /// `Stuck` when the token was not allowed, or it takes more than the budget of a token.
    pub fn accept(&mut self, token: TokenId) -> Result<bool, GrammarError> {
        // A mask gives the fuel for the token after it, also where nobody asked for one.
        self.update()?;
        self.matcher.consume_token(token).map_err(|error| stuck(&error))?;
        let guess = self.known.pop_front().and_then(|known| known.guess);
        if guess.is_some() {
            self.own_fuel = self.own_fuel.max(1);
        }
        match guess {
            Some(guess) if guess == token => {
                self.n_right += 1;
                if self.depth > 0 && self.n_right.is_multiple_of(RIGHT_FOR_MORE) {
                    self.depth = (self.depth + 1).min(MOST_AHEAD);
                }
            }
            Some(_) => {
                self.forget();
                self.guess_less();
            }
            None => {
                self.is_open = false;
                self.scout = self.scout.take().filter(|scout| scout.behind.len() < MOST_BEHIND);
                if let Some(scout) = &mut self.scout {
                    scout.behind.push(token);
                }
            }
        }
        Ok(self.matcher.is_stopped())
    }

    /// Takes the last `n_tokens` back.
    ///
    /// # Errors
    /// `Stuck` when it did not take so many.
    pub fn rollback(&mut self, n_tokens: usize) -> Result<(), GrammarError> {
        self.forget();
        self.matcher.rollback(n_tokens).map_err(|error| stuck(&error))?;
        // It knows a mask by a place in the text, where another text may come now.
        self.matcher.invalidate_bias_cache();
        Ok(())
    }

    /// Forgets what is known of the next tokens.
    fn forget(&mut self) {
        self.known.clear();
        self.is_open = false;
        self.scout = None;
    }

    fn guess_less(&mut self) {
        (self.depth, self.n_right) = (self.depth / 2, 0);
    }

    /// Guesses one more token, if the text after those that are guessed is decided. Says whether it is.
    fn guess(&mut self) -> bool {
        let Some(last) = self.known.back_mut() else { return false };
        let Some(token) = longest_spelling(&last.mask, self.vocabulary.tok_trie()) else {
            self.is_open = true;
            return false;
        };
        let scout = self.scout.get_or_insert_with(|| Scout {
            matcher: self.matcher.deep_clone(),
            behind: Vec::new(),
            fuel: 0,
        });
        match scout.go_on(token) {
            Ok(mask) if self.own_fuel + scout.fuel <= MOST_FUEL => {
                (last.guess, last.is_certain) = (Some(token), last.mask.only().is_some());
                self.known.push_back(Known::new(mask));
                true
            }
            // Its own state, which would pay for all of these tokens at once, computes the next mask itself.
            Ok(_) => {
                (self.scout, self.is_open) = (None, true);
                self.guess_less();
                false
            }
            // The answer's own state is as it was, and finds out for itself if it comes here.
            Err(_) => {
                (self.scout, self.depth) = (None, 0);
                false
            }
        }
    }
}

impl Known {
    fn new(mask: SimpleVob) -> Self {
        Known { mask: TokenMask::from_words(mask.into()), guess: None, is_certain: false }
    }
}

impl Scout {
    /// Takes a guessed token. Gives what may come after it.
    fn go_on(&mut self, token: TokenId) -> Result<SimpleVob, GrammarError> {
        self.behind.push(token);
        self.matcher.consume_tokens(&self.behind).map_err(|error| stuck(&error))?;
        self.behind.clear();
        // What one that it remembers took would not be counted.
        self.matcher.invalidate_bias_cache();
        let (mask, fuel) = compute_mask(&mut self.matcher)?;
        self.fuel += fuel;
        Ok(mask)
    }
}

impl fmt::Debug for GrammarState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarState").finish_non_exhaustive()
    }
}

/// The longest of the allowed tokens, where all others are how it begins: then how the text goes on is decided, and only
/// how it is cut into tokens is not. A tokenizer takes the longest one as a rule. None where the answer ends.
fn longest_spelling(mask: &TokenMask, vocabulary: &TokTrie) -> Option<TokenId> {
    let mut allowed = mask.tokens();
    let mut longest = allowed.next()?;
    for (n, token) in (2..).zip(allowed) {
        let (text, other) = (vocabulary.token(longest), vocabulary.token(token));
        if n > MOST_SPELLINGS || !(text.starts_with(other) || other.starts_with(text)) {
            return None;
        }
        if other.len() > text.len() {
            longest = token;
        }
    }
    (!vocabulary.eos_tokens().contains(&longest)).then_some(longest)
}

/// What may come next, and what the lexer took for it and for the tokens since the mask before.
fn compute_mask(matcher: &mut Matcher) -> Result<(SimpleVob, u64), GrammarError> {
    let mask = matcher.compute_mask_or_eos().map_err(|error| stuck(&error))?;
    let fuel = matcher.last_step_stats().map_err(|error| stuck(&error))?.lexer_cost;
    Ok((mask, fuel))
}

fn stuck(error: &dyn fmt::Display) -> GrammarError {
    GrammarError::Stuck { message: first_lines(error) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use lm_tokenizer::Tokenizer;
    use lm_types::AnswerForm;

    use super::*;
    use crate::GrammarCompiler;

    #[test]
    fn a_scout_that_falls_behind_is_not_kept() {
        let tokenizer = Tokenizer::placeholder();
        let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size()).unwrap();
        let form = AnswerForm::Regex("xyz[0-9]{60}xyz".into());
        let mut state = compiler.compile(&form).unwrap().start();
        state.look_ahead(true);
        let guessed: Vec<TokenId> = state.guesses().collect();
        assert!(guessed.len() == 3 && state.scout.is_some());
        for &token in &guessed {
            state.accept(token).unwrap();
        }
        for n in 1..=60 {
            state.look_ahead(true);
            let is_digit = |token: &TokenId| tokenizer.token_bytes(*token).len() == 1;
            let digit = state.mask().tokens().find(is_digit).unwrap();
            state.accept(digit).unwrap();
            assert_eq!(state.scout.is_some(), n <= MOST_BEHIND, "after {n} digits");
        }
        // It is made anew where it is needed.
        state.look_ahead(true);
        assert_eq!(state.guesses().collect::<Vec<_>>(), guessed);
    }
}
