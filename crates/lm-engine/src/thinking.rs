//! What an answer thinks before it says anything: how far it is, and the tags that are put in the place of draws.
//!
//! It must never look at a token twice: what decides a draw is what was drawn before it.
//!
//! Start reading at [`Thinking::forced`].

use lm_grammar::GrammarError;
use lm_tokenizer::{DecodeStream, Tokenizer};
use lm_types::{ReasoningScanner, ReasoningStart, TokenId};

use crate::active::Active;

/// How an answer may think, as its prompt and its request have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinkingPlan {
    /// Where the answer begins.
    pub start: ReasoningStart,
    /// The opening tag, when the answer must begin with it; else empty.
    pub open: Vec<TokenId>,
    /// The closing tag.
    pub close: Vec<TokenId>,
    /// At most this many tokens between the tags; then the closing tag follows.
    pub max_tokens: Option<usize>,
}

/// One answer's reasoning as far as it came.
#[derive(Debug)]
pub(crate) struct Thinking {
    plan: ThinkingPlan,
    scanner: ReasoningScanner,
    decode: DecodeStream,
    /// The text of one token, reused.
    text: String,
    /// The answer's tokens up to the closing tag, with the tags.
    n_tokens: usize,
    /// Those of them that came between the tags.
    n_inside: usize,
    /// Whether there was an opening tag.
    did_think: bool,
}

/// What a token is to what is thought.
enum Taken {
    /// A part of it.
    Whole,
    /// The end of the opening tag, of which nobody knew before that it would be one.
    Opened,
    /// Maybe the beginning of a tag, or text.
    Maybe,
}

impl Thinking {
    /// Of an answer that begins with the text `opening`, which no token is drawn for.
    pub(crate) fn new(plan: ThinkingPlan, opening: &str) -> Self {
        let mut scanner = ReasoningScanner::new(plan.start);
        scanner.push(opening);
        Thinking {
            did_think: scanner.is_thinking(),
            scanner,
            decode: DecodeStream::new(),
            text: String::new(),
            n_tokens: 0,
            n_inside: 0,
            plan,
        }
    }

    /// Whether the rest of the answer is text.
    pub(crate) fn is_over(&self) -> bool {
        self.scanner.is_over()
    }

    /// Whether the next token is no text, whatever it is.
    fn is_sure(&self) -> bool {
        !self.is_over() && (self.is_inside() || !self.plan.open.is_empty())
    }

    /// Whether the next token stands between the tags.
    pub(crate) fn is_inside(&self) -> bool {
        self.scanner.is_thinking()
    }

    /// How many of the answer's tokens are reasoning, with the tags.
    pub(crate) fn n_tokens(&self) -> usize {
        if self.did_think { self.n_tokens } else { 0 }
    }

    /// The next token, where there is no choice: of the opening tag, or of the closing one once the budget is used up.
    pub(crate) fn forced(&self) -> Option<TokenId> {
        if self.is_over() {
            return None;
        }
        if let Some(&token) = self.plan.open.get(self.n_tokens) {
            return Some(token);
        }
        let n_closing = self.n_inside.checked_sub(self.plan.max_tokens?)?;
        self.plan.close.get(n_closing).copied().filter(|_| self.is_inside())
    }

    /// Takes the next token, unless the rest is text. Says whether it did.
    pub(crate) fn take(&mut self, token: TokenId, tokenizer: &Tokenizer) -> bool {
        if self.is_over() {
            return false;
        }
        self.n_inside += usize::from(self.is_inside());
        self.n_tokens += 1;
        self.text.clear();
        self.decode.push(tokenizer.token_bytes(token), &mut self.text);
        // What is told apart here is told by the server once more: only where it parts counts.
        self.scanner.push(&self.text);
        self.did_think |= self.is_inside();
        true
    }

    fn take_in(&mut self, token: TokenId, tokenizer: &Tokenizer) -> Taken {
        let was_sure = self.is_sure();
        match self.take(token, tokenizer) {
            true if was_sure => Taken::Whole,
            true if self.is_inside() => Taken::Opened,
            _ => Taken::Maybe,
        }
    }

    /// Begins anew, as it is after the answer's tokens `kept`.
    pub(crate) fn rewind(&mut self, opening: &str, kept: &[TokenId], tokenizer: &Tokenizer) {
        *self = Thinking::new(self.plan.clone(), opening);
        for &token in kept {
            self.take(token, tokenizer);
        }
    }
}

impl Active {
    /// Whether what comes next is no text, whatever it is.
    pub(crate) fn is_thinking(&self) -> bool {
        self.thinking.as_ref().is_some_and(Thinking::is_sure)
    }

    /// How many of its tokens were thought.
    pub(crate) fn n_thought(&self) -> usize {
        self.thinking.as_ref().map_or(0, Thinking::n_tokens)
    }

    /// Takes a drawn token into what is thought, or else into the answer's grammar. Says whether the answer is complete
    /// with it.
    ///
    /// # Errors
    /// The grammar cannot go on.
    pub(crate) fn advance(
        &mut self,
        token: TokenId,
        tokenizer: &Tokenizer,
    ) -> Result<bool, GrammarError> {
        match self.thinking.as_mut().map(|thinking| thinking.take_in(token, tokenizer)) {
            Some(Taken::Whole) => return Ok(false),
            Some(Taken::Opened) => {
                let n_formed = std::mem::take(&mut self.n_in_grammar);
                return match &mut self.grammar {
                    Some(grammar) => grammar.rollback(n_formed).map(|()| false),
                    None => Ok(false),
                };
            }
            Some(Taken::Maybe) | None => {}
        }
        match &mut self.grammar {
            Some(grammar) if !self.end_tokens.contains(&token) => {
                self.n_in_grammar += 1;
                grammar.accept(token)
            }
            _ => Ok(false),
        }
    }

    /// Goes back to where the answer's tokens are `kept` and then `spelled`. `None` when its grammar cannot go on from
    /// there.
    pub(crate) fn rewind(
        &mut self,
        kept: &[TokenId],
        spelled: &[TokenId],
        tokenizer: &Tokenizer,
    ) -> Option<()> {
        let n_formed = kept.len().saturating_sub(self.n_thought());
        if let Some(thinking) = &mut self.thinking {
            thinking.rewind(&self.request.steering.opening, kept, tokenizer);
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.rollback(self.n_in_grammar.checked_sub(n_formed)?).ok()?;
            self.n_in_grammar = n_formed;
        }
        spelled.iter().try_for_each(|&token| self.advance(token, tokenizer).map(drop)).ok()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use lm_tokenizer::EncodeOptions;

    use super::*;

    fn tokens(text: &str) -> Vec<TokenId> {
        Tokenizer::placeholder().encode(text, EncodeOptions::default()).unwrap()
    }

    fn plan(start: ReasoningStart, max_tokens: Option<usize>) -> ThinkingPlan {
        let close = tokens(ReasoningScanner::CLOSE);
        ThinkingPlan { start, open: Vec::new(), close, max_tokens }
    }

    /// The answer when `drawn` is drawn, and how many of its tokens are reasoning.
    fn answer(plan: ThinkingPlan, drawn: &str) -> (String, usize) {
        let tokenizer = Tokenizer::placeholder();
        let mut thinking = Thinking::new(plan, "");
        let (mut all, mut left) = (Vec::new(), tokens(drawn).into_iter());
        while let Some(token) = thinking.forced().or_else(|| left.next()) {
            thinking.take(token, &tokenizer);
            all.push(token);
        }
        let bytes = all.iter().flat_map(|&token| tokenizer.token_bytes(token)).copied();
        (String::from_utf8(bytes.collect()).unwrap(), thinking.n_tokens())
    }

    #[test]
    fn the_budget_closes_what_is_open() {
        let (open, closed) = (ReasoningStart::Open, ReasoningStart::Closed);
        let n_close = tokens(ReasoningScanner::CLOSE).len();
        assert_eq!(answer(plan(open, Some(0)), "yes"), ("</think>yes".to_owned(), n_close));
        let n_open = tokens("<think>").len();
        let expect = ("<think></think>x y".to_owned(), n_open + n_close);
        assert_eq!(answer(plan(closed, Some(0)), "<think>x y"), expect);
        let (text, n) = answer(plan(closed, Some(3)), "<think>?!?!?!");
        assert_eq!((text.as_str(), n), ("<think>?!?</think>!?!", n_open + 3 + n_close));
        // What closes the tag in time, and what never opened it, is left alone.
        let text = "<think>?</think>!?!?";
        assert_eq!(answer(plan(closed, Some(20)), text).0, text);
        assert_eq!(answer(plan(closed, Some(0)), "a <think>"), ("a <think>".to_owned(), 0));
    }

    #[test]
    fn an_answer_may_have_to_think() {
        let plan = ThinkingPlan { open: tokens("<think>"), ..plan(ReasoningStart::Closed, None) };
        assert_eq!(answer(plan.clone(), "?</think>!").0, "<think>?</think>!");
        // Not where its beginning was given.
        let thinking = Thinking::new(plan, "Dear all,");
        assert_eq!((thinking.forced(), thinking.is_over(), thinking.n_tokens()), (None, true, 0));
    }

    #[test]
    fn it_goes_on_from_any_of_its_tokens() {
        let tokenizer = Tokenizer::placeholder();
        let all = tokens("<think>?!?</think>!");
        for n in 0..=all.len() {
            let mut thinking = Thinking::new(plan(ReasoningStart::Closed, Some(9)), "");
            all.iter().for_each(|&token| _ = thinking.take(token, &tokenizer));
            let whole = thinking.n_tokens();
            thinking.rewind("", &all[..n], &tokenizer);
            all[n..].iter().for_each(|&token| _ = thinking.take(token, &tokenizer));
            assert_eq!((thinking.n_tokens(), thinking.is_over()), (whole, true));
            assert_eq!(whole, all.len() - 1);
        }
    }
}
