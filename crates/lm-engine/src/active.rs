//! One answer while the engine works on it: its text, its stop rules, its times and its cost.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lm_grammar::{GrammarError, GrammarState};
use lm_sampler::{History, Sampled};
use lm_scheduler::{NewSequence, Sequence};
use lm_tokenizer::{DecodeStream, StopMatcher, StopScan, Tokenizer};
use lm_types::{
    Finish, FinishReason, GenerateError, GenerateRequest, LogitProcessor, Outcome, PromptLogprob,
    ReleaseHash, RequestEvent, SamplingParams, SeqId, Task, Timestamp, Timings, TokenId, Usage,
};

use crate::chronicle::Story;
use crate::guard::{Before, Guard};
use crate::submit::QueuePlace;
use crate::thinking::Thinking;
use crate::{EngineStats, NewSubmission, OutputWriter, ServedAdapter};

/// One answer while the engine works on it.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) request: Arc<GenerateRequest>,
    pub(crate) choice: u32,
    pub(crate) sampling: SamplingParams,
    /// Held for as long as the answer is computed with it.
    pub(crate) adapter: Option<Arc<ServedAdapter>>,
    pub(crate) max_new_tokens: usize,
    /// Tokens that end the answer; banned until `min_tokens` were generated.
    pub(crate) end_tokens: Vec<TokenId>,
    pub(crate) decode: DecodeStream,
    stop: StopMatcher,
    /// The form that the answer must have, and how far it is.
    pub(crate) grammar: Option<GrammarState>,
    /// What changes its logits before all else.
    processors: Vec<Arc<dyn LogitProcessor>>,
    /// What it thinks first, when the model does.
    pub(crate) thinking: Option<Thinking>,
    /// Text that may still turn out to begin a stop string or a banned phrase.
    pub(crate) held_back: String,
    pub(crate) text: String,
    /// What overrides forbid it to hold.
    pub(crate) guard: Option<Guard>,
    /// Tokens of the answer that stand in its sequence's prompt, because it turned back.
    pub(crate) carried: usize,
    /// Tokens of the answer that its grammar took.
    pub(crate) n_in_grammar: usize,
    /// What is known of its sequence before it turned back for the first time.
    pub(crate) before: Option<Before>,
    pub(crate) output: OutputWriter,
    /// Whether its reader is to hear of the prompt, and did not yet.
    pub(crate) prompt_is_due: bool,
    /// How likely the prompt's tokens were, from the second on.
    pub(crate) prompt_logprobs: Vec<PromptLogprob>,
    /// Held until first scheduled.
    queue_place: Option<QueuePlace>,
    arrival: Timestamp,
    pub(crate) arrived_at: SystemTime,
    predicted_ttft: Duration,
    first_token: Option<Timestamp>,
    last_token: Timestamp,
    pub(crate) cpu_seconds: f64,
    /// Nothing is left of its allowance.
    pub(crate) is_spent: bool,
    /// What happened to it so far.
    pub(crate) story: Story,
    /// `None` as soon as a part of it could not be read.
    pub(crate) joules: Option<f64>,
}

/// What becomes of an answer with a token that was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    GoesOn,
    Ends(FinishReason),
    /// It goes on another way from this byte of its text.
    TurnsBack {
        cut: usize,
    },
}

impl Active {
    pub(crate) fn new(
        new: NewSubmission,
        queue_place: QueuePlace,
        arrival: Timestamp,
        tokenizer: &Tokenizer,
    ) -> Self {
        let rules = &new.request.stop;
        let mut end_tokens = rules.stop_token_ids.clone();
        if !rules.ignore_eos {
            end_tokens.extend_from_slice(tokenizer.eog_ids());
        }
        let steering = &new.request.steering;
        let guard = steering.rules.as_ref();
        let guard = guard.map(|rules| Guard::new(Arc::clone(rules), &steering.before));
        let mut held_back = String::with_capacity(4 * StopMatcher::MAX_STOP_BYTES);
        held_back.push_str(&steering.opening);
        let mut sampling = new.request.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(u64::from(new.choice));
        Active {
            sampling,
            adapter: new.adapter,
            choice: new.choice,
            max_new_tokens: new.max_new_tokens,
            end_tokens,
            decode: DecodeStream::new(),
            held_back,
            guard,
            carried: 0,
            n_in_grammar: 0,
            before: None,
            stop: new.stop,
            grammar: new.grammar,
            processors: new.processors,
            thinking: new.thinking.map(|plan| Thinking::new(plan, &steering.opening)),
            text: String::with_capacity(8 * new.max_new_tokens.min(1024)),
            output: new.output,
            prompt_is_due: new.request.report.is_wanted(),
            prompt_logprobs: Vec::new(),
            predicted_ttft: queue_place.predicted_ttft,
            queue_place: Some(queue_place),
            arrival,
            arrived_at: new.arrived_at,
            first_token: None,
            last_token: arrival,
            cpu_seconds: 0.0,
            is_spent: false,
            story: Story::new(arrival),
            joules: None,
            request: new.request,
        }
    }

    /// What computes it: the model, or the model with an adapter.
    pub(crate) fn served_by<'a>(&'a self, model: &'a ServedBy) -> &'a ServedBy {
        self.adapter.as_ref().map_or(model, |adapter| &adapter.served_by)
    }

    /// It left the queue.
    pub(crate) fn admitted(&mut self, now: Timestamp, stats: &EngineStats) {
        if self.queue_place.take().is_some() {
            stats.queue_wait.record(now - self.arrival);
        }
    }

    /// Whether a draw may change any logit.
    pub(crate) fn must_see_all(&self, seq: &Sequence) -> bool {
        let position = seq.tokens().len();
        self.grammar.is_some() || !self.history(seq, position).banned.is_empty()
    }

    /// What a draw at `position` of this answer's sequence looks back at. Its grammar's mask is not in it.
    pub(crate) fn history<'a>(&'a self, seq: &'a Sequence, position: usize) -> History<'a> {
        let before = &seq.tokens_and_drafts()[..position];
        let (prompt, generated) = before.split_at(seq.n_prompt() - self.carried);
        // What must have a form has not begun while it is thought about.
        let ends_too_early = generated.len() < self.request.stop.min_tokens as usize
            || (self.grammar.is_some() && self.is_thinking());
        let at_cut = self.guard.as_ref().and_then(|guard| guard.banned_at(generated.len()));
        let banned: &[TokenId] = match at_cut {
            Some(banned) => banned,
            None if ends_too_early => &self.end_tokens,
            None => &[],
        };
        History { prompt, generated, banned, mask: None, processors: &self.processors }
    }

    /// Takes a drawn token in; `n_generated` counts it, and `is_complete` is what the grammar says of it. Says whether and
    /// why the answer is complete.
    ///
    /// # Errors
    /// The answer's grammar cannot go on.
    pub(crate) fn accept(
        &mut self,
        Sampled { token, logprobs }: Sampled,
        is_complete: Result<bool, GrammarError>,
        n_generated: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Accepted, GrammarError> {
        let (mut n_safe, mut reason) = (0, None);
        if self.end_tokens.contains(&token) {
            self.decode.finish(&mut self.held_back);
            reason = Some(FinishReason::Stop);
        } else {
            self.decode.push(tokenizer.token_bytes(token), &mut self.held_back);
            // What is thought about a stop string does not end the answer.
            let is_thought = self.carried + n_generated <= self.n_thought();
            match self.stop.scan(&self.held_back) {
                _ if is_thought => n_safe = self.held_back.len(),
                StopScan::Safe(bytes) => n_safe = bytes,
                StopScan::Found { at, .. } => {
                    self.held_back.truncate(at);
                    reason = Some(FinishReason::Stop);
                }
            }
        }
        if reason.is_none() && is_complete? {
            self.decode.finish(&mut self.held_back);
            reason = Some(FinishReason::Stop);
        }
        if reason.is_none() && self.carried + n_generated >= self.max_new_tokens {
            self.decode.finish(&mut self.held_back);
            reason = Some(FinishReason::Length);
        }
        if reason.is_none() && self.is_spent {
            self.decode.finish(&mut self.held_back);
            reason = Some(FinishReason::Budget);
        }
        if reason.is_some() {
            n_safe = self.held_back.len();
        }
        if self.guard.is_some() {
            return Ok(self.guarded(token, logprobs, n_safe, reason, tokenizer));
        }
        if let Some(drawn) = &logprobs {
            self.story.handed_out(drawn.logprob);
        }
        self.text.push_str(&self.held_back[..n_safe]);
        self.output.push(token, &self.held_back[..n_safe], logprobs);
        self.held_back.drain(..n_safe);
        Ok(reason.map_or(Accepted::GoesOn, Accepted::Ends))
    }

    /// The sequence that computes it, from `prompt` on.
    pub(crate) fn sequence(&self, id: SeqId, prompt: Vec<TokenId>) -> NewSequence {
        let request = &self.request;
        // Who turned back has begun.
        let start_by = request.max_queue.filter(|_| self.before.is_none());
        NewSequence {
            id,
            prompt,
            // What is asked for its prompt alone computes that, and draws nothing.
            max_new_tokens: (self.max_new_tokens - self.carried).max(1),
            priority: request.priority,
            tenant: request.tenant,
            arrived: self.arrival,
            start_by: start_by.map(|limit| self.arrival + limit),
            deadline: request.deadline.map(|limit| self.arrival + limit),
            cache_salt: match &self.adapter {
                Some(adapter) => adapter.cache_salt(request.tenant),
                None => request.tenant.0,
            },
            scores_prompt: self.prompt_is_due
                && self.choice == 0
                && request.report.logprobs.is_some(),
        }
    }

    /// Notes when a token came.
    pub(crate) fn clock_token(&mut self, now: Timestamp, stats: &EngineStats) {
        if self.first_token.is_none() {
            self.first_token = Some(now);
            let ttft = now - self.arrival;
            stats.ttft.record(ttft);
            stats.ttft_error.record(ttft.abs_diff(self.predicted_ttft));
        } else {
            stats.itl.record(now - self.last_token);
        }
        self.last_token = now;
        self.story.token(now);
    }

    /// What is worth remembering of it, and what its reader is to be told, in this order: whoever
    /// reads the end finds the answer recorded.
    pub(crate) fn end(
        self,
        seq: Option<&Sequence>,
        outcome: Outcome,
        now: Timestamp,
        served_by: &ServedBy,
    ) -> (RequestEvent, EndSignal) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let served_by = self.served_by(served_by).clone();
        let n_thought = self.n_thought();
        // What never left the queue took nothing.
        let computed = seq.filter(|seq| seq.first_scheduled().is_some());
        let before = self.before.or_else(|| computed.map(Before::of));
        let kept = self.guard.as_ref().and_then(Guard::n_kept);
        let answer = computed.map_or(&[][..], |seq| &seq.tokens()[seq.n_prompt() - self.carried..]);
        let answer = &answer[..kept.unwrap_or(answer.len()).min(answer.len())];
        let usage = before.as_ref().map_or(Usage::default(), |before| Usage {
            prompt_tokens: count(before.n_prompt),
            completion_tokens: count(answer.len()),
            cached_tokens: count(before.n_cached),
            reasoning_tokens: count(n_thought.min(answer.len())),
        });
        let scheduled = before.as_ref().map(|before| before.first_scheduled);
        let scheduled = scheduled.unwrap_or_else(|| seq.and_then(Sequence::first_scheduled));
        let (n_drafted, n_accepted) = seq.map_or((0, 0), Sequence::n_drafted_accepted);
        let timings = Timings {
            queue_wait: scheduled.unwrap_or(now) - self.arrival,
            ttft: self.first_token.map_or_else(Default::default, |t| t - self.arrival),
            e2e: now - self.arrival,
            cpu_seconds: self.cpu_seconds,
            joules: self.joules,
            n_preemptions: seq.map_or(0, Sequence::n_preemptions),
            n_drafted,
            n_accepted,
            n_cached_blocks: before.as_ref().map_or(0, |before| count(before.n_cached_blocks)),
            first_miss: before.as_ref().and_then(|before| before.first_miss),
            computed_by: None,
        };
        // Rules of the request count once, however many answers it has.
        let mut hits = match self.choice {
            0 => self.request.steering.hits.clone(),
            _ => Vec::new(),
        };
        hits.extend(self.guard.map(Guard::into_hits).into_iter().flatten());
        let end = match &outcome {
            Outcome::Finished(reason) => Ok(Finish { reason: *reason, usage, timings }),
            Outcome::Failed(error) => Err(error.clone()),
        };
        let prompt = seq.map_or(&[][..], |seq| &seq.tokens()[..seq.n_prompt() - self.carried]);
        let event = RequestEvent {
            request: Arc::unwrap_or_clone(self.request),
            task: Task::Generate,
            choice: self.choice,
            model: served_by.model,
            release: served_by.release,
            arrived_at: self.arrived_at,
            outcome,
            output_text: self.text,
            prompt_tokens: prompt.to_vec(),
            output_tokens: answer.to_vec(),
            hits,
            usage,
            timings,
            mean_logprob: self.story.mean_logprob(),
            timeline: self.story.timeline,
        };
        (event, EndSignal { output: self.output, end })
    }

    /// What the reader and the observer hear when a time limit has passed.
    pub(crate) fn too_late(&self, by_deadline: bool, n_generated: usize) -> Outcome {
        let (field, limit) = match by_deadline {
            true => ("deadline_ms", self.request.deadline),
            false => ("max_queue_ms", self.request.max_queue),
        };
        let limit_ms = limit.unwrap_or_default().as_millis() as u64;
        Outcome::Failed(GenerateError::DeadlineExceeded { field, limit_ms, n_generated })
    }

    /// What the reader and the observer hear when this sequence alone is at fault.
    pub(crate) fn fault(message: impl Into<String>) -> Outcome {
        Outcome::Failed(GenerateError::Sequence { message: message.into() })
    }
}

/// What the engine serves, as it stands in every record.
#[derive(Clone, Debug)]
pub struct ServedBy {
    /// The model's name as served.
    pub model: String,
    /// What produces the answers.
    pub release: ReleaseHash,
}

/// The end of an answer, not yet told to its reader.
#[derive(Debug)]
pub(crate) struct EndSignal {
    output: OutputWriter,
    end: Result<Finish, GenerateError>,
}

impl EndSignal {
    pub(crate) fn end(&self) -> &Result<Finish, GenerateError> {
        &self.end
    }

    pub(crate) fn send(self) {
        self.output.end(self.end);
    }
}
