//! What was said of one answer so far, for all who read it.
//!
//! It must never take back a piece: who reads was told it.
//!
//! Start reading at [`Log::push`].

use lastmile::{GenerateEvent, PromptLogprob, TokenId, TokenLogprobs};

/// An answer's parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// What was told of the prompt, where it was asked for.
    pub(crate) prompt: Option<(Vec<TokenId>, Vec<PromptLogprob>)>,
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenId>,
    /// One for each token, where they were asked for.
    pub(crate) logprobs: Vec<TokenLogprobs>,
}

/// One answer as it comes. A computation that ended early may be followed by another one, which says the same again before
/// it says more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    said: Said,
    /// Where each piece ends: in bytes of text, and in tokens.
    pieces: Vec<(usize, usize)>,
    /// How much of it the computation that runs said: bytes and tokens.
    again: (usize, usize),
}

/// What was computed again is another answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Diverged;

impl Log {
    /// Another computation begins.
    pub(crate) fn begin_again(&mut self) {
        self.again = (0, 0);
    }

    pub(crate) fn push_prompt(&mut self, tokens: Vec<TokenId>, logprobs: Vec<PromptLogprob>) {
        self.said.prompt.get_or_insert((tokens, logprobs));
    }

    /// Takes in more of the answer; what was said already is compared.
    ///
    /// # Errors
    /// [`Diverged`].
    pub(crate) fn push(
        &mut self,
        text: &str,
        tokens: &[TokenId],
        logprobs: Vec<TokenLogprobs>,
    ) -> Result<(), Diverged> {
        let Said { text: all_text, tokens: all_tokens, logprobs: all_logprobs, .. } =
            &mut self.said;
        let (at_text, at_token) = self.again;
        let n_bytes = text.len().min(all_text.len() - at_text);
        let n_tokens = tokens.len().min(all_tokens.len() - at_token);
        let is_same = text.as_bytes()[..n_bytes] == all_text.as_bytes()[at_text..at_text + n_bytes]
            && tokens[..n_tokens] == all_tokens[at_token..at_token + n_tokens];
        // Equal bytes end with the same character, unless one of the two cuts it.
        let Some(new_text) = text.get(n_bytes..).filter(|_| is_same) else { return Err(Diverged) };
        all_text.push_str(new_text);
        all_tokens.extend_from_slice(&tokens[n_tokens..]);
        all_logprobs.extend(logprobs.into_iter().skip(n_tokens));
        self.again = (at_text + text.len(), at_token + tokens.len());
        let end = (self.said.text.len(), self.said.tokens.len());
        if self.pieces.last().copied().unwrap_or_default() != end {
            self.pieces.push(end);
        }
        Ok(())
    }

    /// Whether the computation that runs said all that was ever said.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.again == (self.said.text.len(), self.said.tokens.len())
    }

    pub(crate) fn n_pieces(&self) -> usize {
        self.pieces.len()
    }

    /// What is told of the prompt.
    pub(crate) fn prompt(&self) -> Option<GenerateEvent> {
        let (tokens, logprobs) = self.said.prompt.clone()?;
        Some(GenerateEvent::Prompt { tokens, logprobs })
    }

    /// The piece of this number, if it is there.
    pub(crate) fn piece(&self, i: usize) -> Option<GenerateEvent> {
        let &(end_text, end_token) = self.pieces.get(i)?;
        let (text, token) = i.checked_sub(1).map_or((0, 0), |before| self.pieces[before]);
        let Said { text: all_text, tokens, logprobs, .. } = &self.said;
        Some(GenerateEvent::Delta {
            text: all_text[text..end_text].to_owned(),
            tokens: tokens[token..end_token].to_vec(),
            logprobs: logprobs.get(token..end_token).map(<[_]>::to_vec).unwrap_or_default(),
        })
    }

    /// What the first `n` pieces say together.
    pub(crate) fn first(&self, n: usize) -> Said {
        let before = n.min(self.pieces.len()).checked_sub(1);
        let (text, token) = before.map_or((0, 0), |last| self.pieces[last]);
        let Said { prompt, text: all_text, tokens, logprobs } = &self.said;
        Said {
            prompt: prompt.clone(),
            text: all_text[..text].to_owned(),
            tokens: tokens[..token].to_vec(),
            logprobs: logprobs.get(..token).map(<[_]>::to_vec).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Diverged, Log};

    /// Pushes pieces, each a text and its tokens.
    fn log(pieces: &[(&str, &[u32])]) -> Log {
        let mut log = Log::default();
        for (text, tokens) in pieces {
            assert_eq!(log.push(text, tokens, Vec::new()), Ok(()));
        }
        log
    }

    #[test]
    fn a_second_computation_only_adds_what_is_new() {
        let mut log = log(&[("hé", &[1, 2]), ("l", &[3])]);
        log.begin_again();
        assert!(!log.is_caught_up());
        assert_eq!(log.push("h", &[1], Vec::new()), Ok(()));
        assert_eq!(log.push("éllo", &[2, 3, 4], Vec::new()), Ok(()));
        assert!(log.is_caught_up());
        let said = log.first(log.n_pieces());
        assert_eq!((said.text.as_str(), said.tokens.as_slice()), ("héllo", &[1, 2, 3, 4][..]));
        assert_eq!(log.n_pieces(), 3, "the pieces that were told stay");
        assert_eq!(log.first(1).text, "hé");
    }

    #[test]
    fn another_answer_is_noticed_by_token_and_by_text() {
        let again: [(&str, &[u32]); 4] =
            [("x", &[1]), ("h", &[9]), ("h\u{e8}", &[1, 2]), ("hx", &[1, 2])];
        for (text, tokens) in again {
            let mut log = log(&[("hé", &[1, 2])]);
            log.begin_again();
            assert_eq!(log.push(text, tokens, Vec::new()), Err(Diverged), "{text:?} {tokens:?}");
        }
    }
}
