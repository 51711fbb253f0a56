//! One answer as it comes: to be iterated by a thread, or polled by a task.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use lm_engine::{Aborter, OutputReader};
use lm_types::{Finish, GenerateError, GenerateEvent, PromptLogprob, TokenId, TokenLogprobs};

/// One answer as it comes. An iterator for threads, a `Stream` for tasks. The last event is `Finished`
/// or `Failed`. Dropping it before that aborts the answer.
#[derive(Debug)]
pub struct GenerateStream {
    reader: OutputReader,
    warnings: Vec<String>,
    n_prompt: usize,
}

/// One whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What was generated.
    pub text: String,
    /// The prompt's tokens, when asked for.
    pub prompt_tokens: Vec<TokenId>,
    /// One entry per token of the prompt after the first, when asked for; of the first answer.
    pub prompt_logprobs: Vec<PromptLogprob>,
    /// Its tokens, the ending one included.
    pub tokens: Vec<TokenId>,
    /// One entry per token when asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// How it ended, and what it took.
    pub finish: Finish,
}

impl GenerateStream {
    pub(crate) fn new(reader: OutputReader, warnings: Vec<String>, n_prompt: usize) -> Self {
        GenerateStream { reader, warnings, n_prompt }
    }

    /// How many tokens the prompt has, before any of them is computed. 0 of an answer that no model gives.
    #[must_use]
    pub fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    /// What was changed about the request; the same for all of its answers.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Ends the answer from elsewhere; its reader then hears of the end.
    #[must_use]
    pub fn aborter(&self) -> Aborter {
        self.reader.aborter()
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// The answer ended early.
    pub fn collect_answer(self) -> Result<Answer, GenerateError> {
        let (mut whole, mut all_tokens, mut all_logprobs) = (String::new(), vec![], vec![]);
        let (mut prompt_tokens, mut prompt_logprobs) = (vec![], vec![]);
        for event in self {
            match event {
                GenerateEvent::Prompt { tokens, logprobs } => {
                    (prompt_tokens, prompt_logprobs) = (tokens, logprobs);
                }
                GenerateEvent::Delta { text, tokens, logprobs } => {
                    whole.push_str(&text);
                    all_tokens.extend(tokens);
                    all_logprobs.extend(logprobs);
                }
                GenerateEvent::Finished(finish) => {
                    let (text, tokens, logprobs) = (whole, all_tokens, all_logprobs);
                    return Ok(Answer {
                        text,
                        prompt_tokens,
                        prompt_logprobs,
                        tokens,
                        logprobs,
                        finish,
                    });
                }
                GenerateEvent::Failed(error) => return Err(error),
            }
        }
        Err(GenerateError::ShuttingDown)
    }
}

impl Iterator for GenerateStream {
    type Item = GenerateEvent;

    fn next(&mut self) -> Option<GenerateEvent> {
        self.reader.next_blocking()
    }
}

impl Stream for GenerateStream {
    type Item = GenerateEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<GenerateEvent>> {
        self.reader.poll_next(context)
    }
}
