//! What the grammars of answers allow next, computed for all of them at once before a step is planned; and what they leave no
//! choice of, suggested to the scheduler.
//!
//! It must never decide what is drawn.
//!
//! Start reading at [`Engine::look_ahead`].

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::available_parallelism;

use lm_grammar::GrammarState;
use lm_kernels::Pool;
use lm_scheduler::Sequence;
use lm_types::TokenId;

use crate::Engine;

/// More threads would mostly wait: masks take a fraction of a millisecond each.
const MOST_THREADS: usize = 8;

/// The threads that compute masks, started when there are several to compute for the first time.
#[derive(Debug, Default)]
pub(crate) struct MaskPool(Option<Pool>);

impl Engine {
    /// Computes the masks of the next tokens of all running answers that have a grammar, and suggests what those decide
    /// where guesses may pay.
    pub(crate) fn look_ahead(&mut self) {
        let (guesses, scheduler) = (self.scheduler.may_guess(), &self.scheduler);
        let has_slot = |id| scheduler.sequence(id).is_some_and(Sequence::is_running);
        let grammars = self.active.iter_mut().filter_map(|(&id, active)| {
            let grammar = active.grammar.as_mut()?;
            (!grammar.is_ahead(guesses) && has_slot(id)).then_some(grammar)
        });
        let mut grammars: Vec<&mut GrammarState> = grammars.collect();
        self.masks.for_each(&mut grammars, |grammar| grammar.look_ahead(guesses));
        if guesses {
            for (&id, active) in &self.active {
                if let Some(grammar) = &active.grammar {
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

impl MaskPool {
    fn for_each(
        &mut self,
        grammars: &mut [&mut GrammarState],
        run: impl Fn(&mut GrammarState) + Sync,
    ) {
        let run = |grammar: &mut GrammarState| {
            // Whose grammar fails here hears of it when its next token is drawn.
            drop(catch_unwind(AssertUnwindSafe(|| run(grammar))));
        };
        match grammars {
            [] => {}
            [one] => run(one),
            several => {
                let pool = self.0.get_or_insert_with(|| {
                    let n_cores = available_parallelism().map_or(1, NonZero::get);
                    Pool::new(n_cores.min(MOST_THREADS))
                });
                pool.for_chunks(several, 1, |_, chunk| chunk.iter_mut().for_each(|one| run(one)));
            }
        }
    }
}
