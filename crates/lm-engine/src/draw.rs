//! The draws of a step: what each row of logits gives, several rows at once where they take long.
//!
//! It must never let what one row gives depend on other rows.
//!
//! Start reading at [`Engine::sample`].

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lm_backend::LogitsBuf;
use lm_grammar::{GrammarError, GrammarState};
use lm_kernels::Pool;
use lm_sampler::{History, SampleError, Sampled, Sampler};
use lm_scheduler::{ScheduledRow, Sequence};
use lm_tokenizer::Tokenizer;
use lm_types::{GenerateError, Outcome, PromptLogprob, SeqId, TokenId, TokenLogprobs};

use crate::Engine;
use crate::active::Active;
use crate::draw_room::{Job, emptied};
use crate::thinking::Thinking;

/// Sequences whose whole rows are looked through by more than one thread: those of fewer are done before another one is awake.
const LEAST_SHARED_ROWS: usize = 4;
/// So are rows of fewer logits in all. Tests, whose vocabulary is small, share theirs.
const LEAST_SHARED_LOGITS: usize = if cfg!(test) { 1 } else { 1 << 16 };

thread_local! {
    /// The scratch memory of a thread that draws.
    static SAMPLER: RefCell<Option<Sampler>> = const { RefCell::new(None) };
}

/// What sampling one row gave.
pub(crate) struct Draw {
    pub(crate) seq: SeqId,
    /// The place of the drawn token in its sequence.
    pub(crate) position: usize,
    pub(crate) sampled: Result<Sampled, NotDrawn>,
    /// Whether the answer's grammar says that the answer is complete with it.
    pub(crate) is_complete: Result<bool, GrammarError>,
}

/// Why a row gave no token.
#[derive(Debug)]
pub(crate) enum NotDrawn {
    /// Nothing that is allowed may be drawn.
    NothingLeft,
    /// Something broke.
    Failed(String),
}

impl From<SampleError> for NotDrawn {
    fn from(error: SampleError) -> Self {
        match error {
            SampleError::NothingLeft => NotDrawn::NothingLeft,
            SampleError::NotFinite => NotDrawn::Failed(error.to_string()),
        }
    }
}

/// A sequence's rows of logits.
pub(crate) struct Rows<'a> {
    pub(crate) row: &'a ScheduledRow,
    /// The first of them.
    pub(crate) first: usize,
    pub(crate) seq: &'a Sequence,
    pub(crate) active: &'a mut Active,
}

/// What all draws of a step have in common.
struct Step<'a> {
    logits: &'a LogitsBuf,
    tokenizer: &'a Tokenizer,
    vocab_size: usize,
    max_model_len: usize,
}

impl Engine {
    /// Draws from the step's logits.
    pub(crate) fn sample(&mut self) {
        self.draws.clear();
        let (logits, tokenizer) = (&self.logits, &*self.parts.tokenizer);
        let (vocab_size, max_model_len) = self.draw_room.sampler_room;
        let step = Step { logits, tokenizer, vocab_size, max_model_len };
        let is_whole = |(_, first): &(usize, usize)| logits.greatest(*first).is_none();
        let n_whole = places(&self.rows).filter(is_whole).count();
        if n_whole >= LEAST_SHARED_ROWS && n_whole * vocab_size >= LEAST_SHARED_LOGITS {
            let room = &mut self.draw_room;
            let jobs = room.jobs(&self.rows, &self.scheduler, &mut self.active);
            let done = step.share(jobs, self.masks.threads(), &mut self.draws);
            return room.take_back(done);
        }
        for (i, first) in places(&self.rows) {
            let row = &self.rows[i];
            let seq = self.scheduler.sequence(row.seq).expect("a scheduled sequence is known");
            let active = self.active.get_mut(&row.seq).expect("a scheduled sequence is active");
            let mut rows = Rows { row, first, seq, active };
            step.draw(&mut rows, &mut |draw| self.draws.push(draw));
        }
    }

    /// Ends an answer for which the draw at `position` of its sequence gave no token.
    pub(crate) fn end_undrawn(&mut self, id: SeqId, position: usize, why: NotDrawn) {
        let seq = self.scheduler.sequence(id).expect("a drawn-for sequence is known");
        let outcome = match why {
            NotDrawn::NothingLeft => self.active[&id].nothing_left(seq, position),
            NotDrawn::Failed(message) => Active::fault(message),
        };
        self.end(id, outcome);
    }

    /// Tells of the prompts that are complete with this step, before their answers begin.
    pub(crate) fn tell_prompts(&mut self) {
        for row in self.rows.iter().filter(|row| row.samples) {
            let (Some(seq), Some(active)) =
                (self.scheduler.sequence(row.seq), self.active.get_mut(&row.seq))
            else {
                continue;
            };
            if std::mem::take(&mut active.prompt_is_due) {
                let mut scored: Vec<PromptLogprob> = std::mem::take(&mut active.prompt_logprobs);
                if let Some(guard) = &active.guard {
                    let tokenizer = &self.parts.tokenizer;
                    scored.iter_mut().for_each(|one| guard.present(&mut one.top, tokenizer));
                }
                active.output.push_prompt(&seq.tokens()[..seq.n_prompt()], scored);
            }
        }
    }
}

impl Draw {
    /// Whether its answer may go on, as far as is known here.
    fn may_go_on(&self) -> bool {
        self.sampled.is_ok() && self.is_complete == Ok(false)
    }
}

/// The rows of a step that have logits, each with where those begin.
pub(crate) fn places(rows: &[ScheduledRow]) -> impl Iterator<Item = (usize, usize)> {
    let mut end = 0;
    let places = rows.iter().enumerate().map(move |(i, row)| {
        end += row.n_logits;
        (i, end - row.n_logits, row.n_logits)
    });
    places.filter(|(.., n_logits)| *n_logits > 0).map(|(i, first, _)| (i, first))
}

impl Step<'_> {
    /// Scores what there is of a sequence's prompt, and draws, on this thread.
    fn draw(&self, rows: &mut Rows<'_>, put: &mut dyn FnMut(Draw)) {
        SAMPLER.with_borrow_mut(|sampler| {
            let sampler =
                sampler.get_or_insert_with(|| Sampler::new(self.vocab_size, self.max_model_len));
            rows.run(self.logits, sampler, self.tokenizer, put);
        });
    }

    /// Draws on all `threads`, and computes the masks of the next draws while those are awake.
    fn share<'a>(
        &self,
        mut jobs: Vec<Job<'_>>,
        threads: &mut Pool,
        draws: &mut Vec<Draw>,
    ) -> Vec<Job<'a>> {
        threads.for_chunks(&mut jobs, 1, |_, jobs| {
            for (rows, slots) in jobs {
                let mut n = 0;
                self.draw(rows, &mut |draw| {
                    slots[n] = Some(draw);
                    n += 1;
                });
                if slots[..n].last().is_some_and(|draw| draw.as_ref().is_some_and(Draw::may_go_on))
                {
                    rows.look_ahead(n);
                }
            }
        });
        jobs.sort_unstable_by_key(|(rows, _)| rows.first);
        for (_, slots) in &mut jobs {
            draws.extend(slots.iter_mut().map_while(Option::take));
        }
        emptied(jobs)
    }
}

impl Rows<'_> {
    /// Scores what there is of the prompt, and draws.
    fn run(
        &mut self,
        logits: &LogitsBuf,
        sampler: &mut Sampler,
        tokenizer: &Tokenizer,
        put: &mut dyn FnMut(Draw),
    ) {
        let n_drawn = if self.row.samples { self.row.n_drafts + 1 } else { 0 };
        let n_scored = self.row.n_logits - n_drawn;
        match self.score(n_scored, logits, sampler) {
            Ok(()) if self.row.samples => self.draw(n_scored, logits, sampler, tokenizer, put),
            Ok(()) => {}
            Err(message) => {
                let (seq, position) = (self.row.seq, self.row.start + self.row.n_tokens);
                let (sampled, is_complete) = (Err(NotDrawn::Failed(message)), Ok(false));
                put(Draw { seq, position, sampled, is_complete });
            }
        }
    }

    /// Draws after the sequence's last token, and after each draft for as long as drafts are right: what is drawn is
    /// what would be drawn without them. The first `n_scored` rows are not for draws.
    fn draw(
        &mut self,
        n_scored: usize,
        logits: &LogitsBuf,
        sampler: &mut Sampler,
        tokenizer: &Tokenizer,
        put: &mut dyn FnMut(Draw),
    ) {
        let Rows { row, first, seq, active } = self;
        if active.max_new_tokens == 0 {
            return;
        }
        let known = seq.tokens().len();
        for position in known..=known + row.n_drafts {
            let i = *first + n_scored + position - known;
            let draw = || -> Result<(Sampled, Result<bool, GrammarError>), NotDrawn> {
                let forced = active.thinking.as_ref().and_then(Thinking::forced);
                let sampled = match (forced, logits.greatest(i)) {
                    (Some(token), _) => active.put(sampler, token, || logits.row(i))?,
                    (None, Some(greatest)) => Sampler::greedy(greatest.token, greatest.logit)?,
                    (None, None) => active.sample(sampler, logits.row(i), seq, position)?,
                };
                // Guesses after it are verified under the grammar as it is then.
                let is_complete = active.advance(sampled.token, tokenizer);
                Ok((sampled, is_complete))
            };
            let drawn = match catch_unwind(AssertUnwindSafe(draw)) {
                Ok(drawn) => drawn,
                Err(panic) => Err(NotDrawn::Failed(panic_message(&*panic))),
            };
            let (sampled, is_complete) = match drawn {
                Ok((sampled, is_complete)) => (Ok(sampled), is_complete),
                Err(why) => (Err(why), Ok(false)),
            };
            let token = sampled.as_ref().ok().map(|sampled| sampled.token);
            let ends = token.is_none_or(|token| active.end_tokens.contains(&token));
            let goes_on = !ends && is_complete == Ok(false);
            put(Draw { seq: row.seq, position, sampled, is_complete });
            if !goes_on || seq.tokens_and_drafts().get(position).copied() != token {
                return;
            }
        }
    }

    /// Looks up how likely the prompt's tokens were that follow the first `n` rows.
    fn score(&mut self, n: usize, logits: &LogitsBuf, sampler: &mut Sampler) -> Result<(), String> {
        if n == 0 {
            return Ok(());
        }
        let Rows { row, first, seq, active } = self;
        let n_top = active.request.report.logprobs.unwrap_or(0) as usize;
        let from = row.start + row.n_tokens - row.n_logits + 1;
        let mut score = || -> Result<(), String> {
            for (i, &token) in seq.tokens().iter().skip(from).take(n).enumerate() {
                let row = logits.row(*first + i);
                let scored = sampler.score(row, token, n_top).map_err(|error| error.to_string())?;
                active.prompt_logprobs.push(scored);
            }
            Ok(())
        };
        match catch_unwind(AssertUnwindSafe(&mut score)) {
            Ok(scored) => scored,
            Err(panic) => Err(panic_message(&*panic)),
        }
    }

    /// Computes the mask of the next draw while this thread is awake, if `n_drawn` were not the last ones. Whose grammar fails here
    /// hears of it then. An answer that overrides guard may yet turn back from what was drawn: its mask can wait for the next step.
    fn look_ahead(&mut self, n_drawn: usize) {
        let Rows { seq, active, .. } = self;
        let ends = active.carried + seq.n_generated() + n_drawn >= active.max_new_tokens;
        if ends || active.is_thinking() || active.guard.is_some() {
            return;
        }
        if let Some(grammar) = &mut active.grammar {
            drop(catch_unwind(AssertUnwindSafe(|| grammar.look_ahead(false))));
        }
    }
}

impl Active {
    /// Draws from a row of logits as its parameters and its grammar have it.
    fn sample(
        &mut self,
        sampler: &mut Sampler,
        logits: &[f32],
        seq: &Sequence,
        position: usize,
    ) -> Result<Sampled, NotDrawn> {
        let is_thinking = self.is_thinking();
        if let Some(grammar) = self.grammar.as_mut().filter(|_| !is_thinking) {
            grammar.update().map_err(|error| NotDrawn::Failed(error.to_string()))?;
        }
        let grammar = self.grammar.as_ref().filter(|_| !is_thinking);
        let mask = grammar.map(GrammarState::mask);
        let history = History { mask, ..self.history(seq, position) };
        sampler.sample(logits, &self.sampling, history, position).map_err(NotDrawn::from)
    }

    /// What the reader and the observer hear when nothing may be drawn at `position`. That is the request's doing
    /// where it forbids anything there, else the model's.
    fn nothing_left(&self, seq: &Sequence, position: usize) -> Outcome {
        let (request, sampling) = (&self.request, &self.sampling);
        let n_generated = self.history(seq, position).generated.len();
        let fields = [
            (!sampling.processors.is_empty()).then_some("logits_processors"),
            request.constraint.as_ref().map(|asked| asked.field),
            sampling.allowed_token_ids.is_some().then_some("allowed_token_ids"),
            (!sampling.bad_words.is_empty()).then_some("bad_words"),
            (n_generated < request.stop.min_tokens as usize).then_some("min_tokens"),
        ];
        let fields: Vec<&'static str> = fields.into_iter().flatten().collect();
        let Some(&field) = fields.first() else {
            return Active::fault(SampleError::NothingLeft.to_string());
        };
        let fields = fields.join(", ");
        Outcome::Failed(GenerateError::NothingAllowed { field, fields, n_generated })
    }

    /// A token that is put in the place of a draw, with how likely it was in `row` where that is asked for.
    fn put<'a>(
        &self,
        sampler: &mut Sampler,
        token: TokenId,
        row: impl FnOnce() -> &'a [f32],
    ) -> Result<Sampled, NotDrawn> {
        let Some(n_top) = self.sampling.logprobs else {
            return Ok(Sampled { token, logprobs: None });
        };
        let scored = sampler.score(row(), token, n_top as usize);
        let PromptLogprob { token, logprob, top, .. } = scored?;
        Ok(Sampled { token, logprobs: Some(TokenLogprobs { token, logprob, top }) })
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked without a message".to_owned())
}
