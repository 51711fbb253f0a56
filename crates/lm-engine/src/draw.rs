//! The draws of a step: what each row of logits gives.
//!
//! It must never let what one row gives depend on other rows.
//!
//! Start reading at [`Engine::sample`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use lm_grammar::{GrammarError, GrammarState};
use lm_sampler::{History, SampleError, Sampled, Sampler};
use lm_scheduler::{ScheduledRow, Sequence};
use lm_types::{GenerateError, Outcome, PromptLogprob, SeqId, TokenId, TokenLogprobs};

use crate::Engine;
use crate::active::Active;
use crate::thinking::Thinking;

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

impl Engine {
    /// Draws from the step's logits.
    pub(crate) fn sample(&mut self) {
        self.draws.clear();
        let rows = std::mem::take(&mut self.rows);
        let mut first = 0;
        for row in &rows {
            let n_drawn = if row.samples { row.n_drafts + 1 } else { 0 };
            let n_scored = row.n_logits - n_drawn;
            match self.score(row, first, n_scored) {
                Ok(()) if row.samples => self.draw(row, first + n_scored),
                Ok(()) => {}
                Err(message) => {
                    let (seq, position) = (row.seq, row.start + row.n_tokens);
                    let (sampled, is_complete) = (Err(NotDrawn::Failed(message)), Ok(false));
                    self.draws.push(Draw { seq, position, sampled, is_complete });
                }
            }
            first += row.n_logits;
        }
        self.rows = rows;
    }

    /// Draws after a sequence's last token, and after each draft for as long as drafts are right: what is drawn is
    /// what would be drawn without them. `first` is its first row of logits.
    fn draw(&mut self, row: &ScheduledRow, first: usize) {
        let seq = self.scheduler.sequence(row.seq).expect("a scheduled sequence is known");
        let active = self.active.get_mut(&row.seq).expect("a scheduled sequence is active");
        if active.max_new_tokens == 0 {
            return;
        }
        let (sampler, logits, known) = (&mut self.sampler, &self.logits, seq.tokens().len());
        let tokenizer = &self.parts.tokenizer;
        for position in known..=known + row.n_drafts {
            let i = first + position - known;
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
            self.draws.push(Draw { seq: row.seq, position, sampled, is_complete });
            if !goes_on || seq.tokens_and_drafts().get(position).copied() != token {
                return;
            }
        }
    }

    /// Looks up how likely the prompt's tokens were that follow the first `n` of a row's logits.
    fn score(&mut self, row: &ScheduledRow, first: usize, n: usize) -> Result<(), String> {
        if n == 0 {
            return Ok(());
        }
        let seq = self.scheduler.sequence(row.seq).expect("a scheduled sequence is known");
        let active = self.active.get_mut(&row.seq).expect("a scheduled sequence is active");
        let n_top = active.request.report.logprobs.unwrap_or(0) as usize;
        let from = row.start + row.n_tokens - row.n_logits + 1;
        let (sampler, logits) = (&mut self.sampler, &self.logits);
        let mut score = || -> Result<(), String> {
            for (i, &token) in seq.tokens().iter().skip(from).take(n).enumerate() {
                let row = logits.row(first + i);
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
