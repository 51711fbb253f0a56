//! What the grammars of answers allow next, computed for all of them at once before a step is planned; and what they leave no
//! choice of, suggested to the scheduler.
//!
//! It must never decide what is drawn.
//!
//! Start reading at [`Engine::look_ahead`].

use std::io;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::available_parallelism;

use lm_grammar::GrammarState;
use lm_kernels::{Pool, flush_denormals};
use lm_scheduler::Sequence;
use lm_types::{SeqId, TokenId};

use crate::Engine;

/// More threads would mostly wait: masks take a fraction of a millisecond each.
const MOST_THREADS: usize = 8;
/// Fewer masks are computed on the engine's thread: waking another one takes as long as one of them.
const LEAST_SHARED: usize = 4;
/// What looking ahead along guesses takes, in masks.
const MASKS_PER_GUESSING: usize = 4;
/// Answers that guess in one step, for each thread: each takes up to nine masks and a copy of its grammar's state, and all
/// answers of the step wait for it.
const GUESSING_PER_THREAD: usize = 2;

/// The threads that compute masks, and draw.
#[derive(Debug)]
pub(crate) struct MaskPool {
    n_threads: usize,
    /// Started when it is needed for the first time.
    pool: Option<Pool>,
    /// The last answer that guessed; the next ones come first in the next step.
    last_guessing: SeqId,
}

/// An answer's grammar that looks ahead.
struct Job<'a> {
    grammar: &'a mut GrammarState,
    guesses: bool,
}

impl Engine {
    /// Computes the masks of the next tokens of all running answers that have a grammar, and suggests what those decide
    /// where guesses may pay.
    pub(crate) fn look_ahead(&mut self) {
        // The threads that share the work do, whatever the backend does.
        flush_denormals();
        let scheduler = &self.scheduler;
        let n_guessing = scheduler.n_may_guess().min(GUESSING_PER_THREAD * self.masks.n_threads);
        let has_slot = |id| scheduler.sequence(id).is_some_and(Sequence::is_running);
        let grammars = self.active.iter_mut().filter_map(|(&id, active)| {
            let is_thinking = active.is_thinking();
            let grammar = active.grammar.as_mut().filter(|_| !is_thinking)?;
            (!grammar.is_ahead(n_guessing > 0) && has_slot(id)).then_some((id, grammar))
        });
        self.masks.look_ahead(grammars.collect(), n_guessing);
        if n_guessing > 0 {
            for (&id, active) in &self.active {
                if let Some(grammar) = active.grammar.as_ref().filter(|_| !active.is_thinking()) {
                    let allowed = active.sampling.allowed_token_ids.as_deref();
                    let may_be_drawn = |token: &TokenId| {
                        allowed.is_none_or(|allowed| allowed.binary_search(token).is_ok())
                    };
                    let guesses = grammar.guesses().take_while(may_be_drawn);
                    self.scheduler.suggest(id, guesses, grammar.n_certain());
                }
            }
        }
    }
}

impl Default for MaskPool {
    fn default() -> Self {
        let n_cores = available_parallelism().map_or(1, NonZero::get);
        MaskPool { n_threads: n_cores.min(MOST_THREADS), pool: None, last_guessing: SeqId(0) }
    }
}

impl MaskPool {
    /// Lets all of them look ahead, and `n_guessing` of them, by turns, along guesses. They are sorted by their ids.
    fn look_ahead(&mut self, mut grammars: Vec<(SeqId, &mut GrammarState)>, n_guessing: usize) {
        let n_before = grammars.partition_point(|(id, _)| *id <= self.last_guessing);
        grammars.rotate_left(n_before);
        if let Some((id, _)) = grammars.iter().take(n_guessing).next_back() {
            self.last_guessing = *id;
        }
        let mut jobs: Vec<Job<'_>> = grammars
            .into_iter()
            .enumerate()
            .map(|(i, (_, grammar))| Job { grammar, guesses: i < n_guessing })
            .collect();
        let n_masks = |job: &Job<'_>| if job.guesses { MASKS_PER_GUESSING } else { 1 };
        if jobs.len() < 2 || jobs.iter().map(n_masks).sum::<usize>() < LEAST_SHARED {
            return jobs.iter_mut().for_each(Job::run);
        }
        self.threads().for_chunks(&mut jobs, 1, |_, chunk| chunk.iter_mut().for_each(Job::run));
    }

    /// The threads, the caller's counted.
    pub(crate) fn threads(&mut self) -> &mut Pool {
        self.pool(Pool::resting)
    }

    /// The pool, which `start` starts with so many threads. Its workers rest between jobs: the cores belong to the backend.
    fn pool(&mut self, start: impl FnOnce(usize) -> io::Result<Pool>) -> &mut Pool {
        let n_threads = self.n_threads;
        self.pool.get_or_insert_with(|| {
            start(n_threads).unwrap_or_else(|error| {
                tracing::warn!(%error, n_threads, "the engine's thread draws and computes masks alone");
                Pool::new(1)
            })
        })
    }
}

impl Job<'_> {
    fn run(&mut self) {
        // Whose grammar fails here hears of it when its next token is drawn.
        drop(catch_unwind(AssertUnwindSafe(|| self.grammar.look_ahead(self.guesses))));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use lm_grammar::GrammarCompiler;
    use lm_tokenizer::{Tokenizer, placeholder};
    use lm_types::AnswerForm;

    use super::*;

    fn states(n: usize) -> Vec<GrammarState> {
        let compiler =
            GrammarCompiler::new(&Tokenizer::placeholder(), placeholder::VOCAB_SIZE).unwrap();
        let grammar = compiler.compile(&AnswerForm::Regex("(0123456789){8}".into())).unwrap();
        (0..n).map(|_| grammar.start()).collect()
    }

    /// Which of `states` have guesses after one more look ahead.
    fn guessing(masks: &mut MaskPool, states: &mut [GrammarState], n_guessing: usize) -> Vec<bool> {
        let ids = (0..).map(SeqId);
        masks.look_ahead(ids.zip(states.iter_mut()).collect(), n_guessing);
        states.iter().map(|state| state.guesses().next().is_some()).collect()
    }

    #[test]
    fn as_many_guess_as_may_and_the_others_in_their_turn() {
        let (mut masks, mut states) = (MaskPool::default(), states(5));
        assert_eq!(guessing(&mut masks, &mut states, 0), [false; 5]);
        assert!(states.iter().all(|state| state.is_ahead(false)));
        let first = guessing(&mut masks, &mut states, 2);
        assert_eq!(first.iter().filter(|guesses| **guesses).count(), 2);
        let second = guessing(&mut masks, &mut states, 2);
        assert_eq!(second.iter().filter(|guesses| **guesses).count(), 4);
        assert_eq!(guessing(&mut masks, &mut states, 2), [true; 5]);
    }

    #[test]
    fn without_another_thread_masks_are_computed_all_the_same() {
        let (mut masks, mut states) = (MaskPool::default(), states(8));
        let pool = masks.pool(|_| Err(io::Error::from(io::ErrorKind::WouldBlock)));
        assert_eq!(pool.n_threads(), 1);
        guessing(&mut masks, &mut states, 0);
        assert!(states.iter().all(|state| state.is_ahead(false)));
    }
}
