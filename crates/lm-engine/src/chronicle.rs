//! What happens to each answer on its way, noted step by step: who was ahead of it, its chunks, and what
//! its tokens waited for.
//!
//! Start reading at [`Engine::note_step`].

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use lm_sampler::Sampled;
use lm_types::{
    AnswerBegun, Chunk, Gap, GapCause, Loss, Other, QueueStory, SeqId, Stall, StepEvent, StepRow,
    Timeline, Timestamp, TokenId,
};

use crate::active::Active;
use crate::{Engine, ServedBy};

/// Steps shorter than this are never told as slow: on a shared machine any of them may be.
const LEAST_STALL: Duration = Duration::from_millis(2);

/// What the engine remembers of all answers.
#[derive(Debug, Default)]
pub(crate) struct Chronicle {
    /// Steps so far.
    step: u64,
    /// Answers that began so far.
    n_began: u32,
    /// The last of them.
    last_began: VecDeque<Other>,
    /// Whether the observer wants to hear of steps.
    tells_steps: bool,
    /// What it hears of the last one. Reused.
    rows: Vec<StepRow>,
}

/// What happened to one answer so far.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) timeline: Timeline,
    arrival: Timestamp,
    n_began_before: u32,
    /// The last step that it took part in, and when it ended.
    last_step: Option<(u64, Timestamp)>,
    /// Since when it has no slot, or no blocks.
    away_since: Option<Timestamp>,
    n_tokens: u32,
    last_token: Option<Timestamp>,
    gap: GapParts,
    /// Of the tokens that were handed out with their log-probabilities: how many, and the sum.
    logprobs: (u32, f64),
}

/// What the time since the last token went into.
#[derive(Debug, Default)]
struct GapParts {
    prompts: Duration,
    largest: Option<(Other, u32)>,
    n_prompt_tokens: u32,
    lost: Duration,
    lost_to: Option<Other>,
    left_out: Duration,
    elsewhere: Duration,
    slow: Duration,
    n_rows: u32,
}

/// One step, as all of its answers saw it.
#[derive(Clone, Copy)]
struct StepFacts {
    number: u64,
    asked: Timestamp,
    started: Timestamp,
    ended: Timestamp,
    predicted: Duration,
    n_rows: u32,
    n_tokens: u32,
    n_prompt_tokens: u32,
}

impl Story {
    pub(crate) fn new(arrival: Timestamp) -> Self {
        // A warm step must not allocate.
        let timeline = Timeline {
            chunks: Vec::with_capacity(4),
            tokens: Vec::with_capacity(Timeline::MAX_TOKENS),
            gaps: Vec::with_capacity(Timeline::MAX_GAPS),
            stalls: Vec::with_capacity(Timeline::MAX_GAPS),
            ..Timeline::default()
        };
        Story {
            timeline,
            arrival,
            n_began_before: 0,
            last_step: None,
            away_since: None,
            n_tokens: 0,
            last_token: None,
            gap: GapParts::default(),
            logprobs: (0, 0.0),
        }
    }

    fn lost(&mut self, now: Timestamp, lost_blocks: bool, by: Option<Other>) {
        self.timeline.n_losses += 1;
        self.gap.lost_to = self.gap.lost_to.or(by);
        self.away_since = self.away_since.or(Some(now));
        if self.timeline.losses.len() < Timeline::MAX_LOSSES {
            let at = now - self.arrival;
            self.timeline.losses.push(Loss { at, away: None, lost_blocks, by });
        }
    }

    /// It took part in a step. `prompt` is its first position and its tokens, where those are of a prompt or
    /// computed again; `other` is the largest prompt in the step that is not its own.
    fn step(&mut self, step: &StepFacts, prompt: Option<(u32, u32)>, other: Option<(Other, u32)>) {
        let took = step.ended - step.started;
        let at = step.started - self.arrival;
        let timeline = &mut self.timeline;
        timeline.least_rows = match timeline.n_steps {
            0 => step.n_rows,
            _ => timeline.least_rows.min(step.n_rows),
        };
        timeline.most_rows = timeline.most_rows.max(step.n_rows);
        timeline.sum_rows += u64::from(step.n_rows);
        timeline.n_steps += 1;
        let was_away = self.away_since.take();
        if let Some(since) = was_away {
            let back = timeline.losses.iter_mut().rev().take_while(|loss| loss.away.is_none());
            back.for_each(|loss| loss.away = Some(at.saturating_sub(loss.at)));
            self.gap.lost += step.started - since;
        }
        if let Some((number, ended)) = self.last_step {
            let before = step.started - ended;
            let elsewhere = (step.started - step.asked).min(before);
            self.gap.elsewhere += elsewhere;
            if number + 1 != step.number && was_away.is_none() {
                self.gap.left_out += before - elsewhere;
            }
        }
        self.last_step = Some((step.number, step.ended));
        self.gap.n_rows = self.gap.n_rows.max(step.n_rows);
        let is_again = self.last_token.is_some();
        if let Some((start, n_tokens)) = prompt {
            timeline.n_chunks += 1;
            if timeline.chunks.len() < Timeline::MAX_CHUNKS {
                let (n_rows, step) = (step.n_rows, step.number);
                timeline.chunks.push(Chunk { at, took, start, n_tokens, n_rows, step, is_again });
            }
        }
        let share = f64::from(step.n_prompt_tokens) / f64::from(step.n_tokens.max(1));
        match prompt {
            Some(_) if is_again => self.gap.lost += took,
            _ => {
                self.gap.prompts += took.mul_f64(share);
                self.gap.n_prompt_tokens += step.n_prompt_tokens;
                let largest = self.gap.largest.map_or(0, |(_, n)| n);
                self.gap.largest = other.filter(|(_, n)| *n > largest).or(self.gap.largest);
            }
        }
        let is_slow = !step.predicted.is_zero() && took > 2 * step.predicted && took > LEAST_STALL;
        if is_slow {
            let (predicted, n_rows, n_tokens) = (step.predicted, step.n_rows, step.n_tokens);
            // Prompts may be slow to predict; that is still theirs.
            self.gap.slow += (took - predicted).mul_f64(1.0 - share);
            self.timeline.note_stall(Stall { at, took, predicted, n_rows, n_tokens });
        }
    }

    /// A token came.
    pub(crate) fn token(&mut self, now: Timestamp) {
        let at = now - self.arrival;
        let gap = std::mem::take(&mut self.gap);
        if let Some(last) = self.last_token.replace(now) {
            let took = now - last;
            let because = gap.cause(took);
            self.timeline.note_gap(Gap { at, took, before_token: self.n_tokens, because });
        }
        self.timeline.note_token(self.n_tokens, at);
        self.n_tokens += 1;
    }

    /// A token whose log-probability was asked for is the reader's. What a rule cut away never is, so that this and what
    /// the reader can work out are the same.
    pub(crate) fn handed_out(&mut self, logprob: f32) {
        let (n, sum) = &mut self.logprobs;
        (*n, *sum) = (*n + 1, *sum + f64::from(logprob));
    }

    /// `None` where none was asked for, or a grammar forced what the model excludes.
    pub(crate) fn mean_logprob(&self) -> Option<f64> {
        let (n, sum) = self.logprobs;
        (n > 0 && sum.is_finite()).then(|| sum / f64::from(n))
    }
}

impl GapParts {
    /// What took most of a gap of this length.
    fn cause(&self, took: Duration) -> GapCause {
        let prompt = self.largest.map(|(of, _)| {
            let because = GapCause::Prompt { of, n_tokens: self.n_prompt_tokens };
            (self.prompts, because)
        });
        let causes = [
            Some((self.lost, GapCause::Lost { by: self.lost_to })),
            Some((self.left_out, GapCause::LeftOut)),
            Some((self.elsewhere, GapCause::OtherModel)),
            Some((self.slow, GapCause::Slow)),
            prompt,
        ];
        let most = causes.into_iter().flatten().max_by_key(|(time, _)| *time);
        match most {
            // What explains less than a third of it is not why it was long.
            Some((time, because)) if 3 * time >= took && !time.is_zero() => because,
            _ => GapCause::Step { n_rows: self.n_rows },
        }
    }
}

impl Engine {
    /// An answer came: what it finds.
    pub(crate) fn note_arrival(&mut self, id: SeqId) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let Some(active) = self.active.get_mut(&id) else { return };
        let config = self.scheduler.config();
        let n_prompt = self.scheduler.sequence(id).map_or(0, |seq| seq.n_prompt());
        active.story.n_began_before = self.chronicle.n_began;
        active.story.timeline.queue = QueueStory {
            // It waits itself by now.
            n_waiting: count(self.scheduler.n_waiting().saturating_sub(1)),
            n_running: count(self.scheduler.n_running()),
            n_slots: count(config.max_num_seqs),
            n_free_blocks: count(self.scheduler.blocks().n_free()),
            n_prompt_blocks: count(n_prompt.div_ceil(config.block_size)),
            ..QueueStory::default()
        };
        let Some(sequence) = self.scheduler.sequence(id) else { return };
        let (observer, served_by) = (&self.parts.observer, &self.parts.served_by);
        if self.chronicle.tells_steps {
            let tell = || observer.began(&active.begun(sequence.tokens(), served_by));
            self.chronicle.tells_steps = catch_unwind(AssertUnwindSafe(tell)).is_ok();
        }
    }

    /// Tells the observer of the step. One that panics hears of no more.
    fn tell_step(&mut self, step: &StepFacts) {
        if !self.chronicle.tells_steps {
            return;
        }
        self.chronicle.rows.clear();
        let mut draws = self.draws.iter().peekable();
        for row in &self.rows {
            let Some(active) = self.active.get(&row.seq) else { continue };
            let mut next = || draws.next_if(|draw| draw.seq == row.seq);
            let sampled = |draw: &'_ crate::draw::Draw| draw.sampled.as_ref().ok().cloned();
            let first = next().and_then(sampled);
            self.chronicle.rows.push(active.step_row(row.n_tokens, first.as_ref()));
            // Tokens that were drawn with the first one; what they took is in its row.
            while let Some(draw) = next() {
                self.chronicle.rows.push(active.step_row(0, draw.sampled.as_ref().ok()));
            }
        }
        let event = StepEvent {
            number: step.number,
            took: step.ended - step.started,
            n_free_blocks: self.scheduler.blocks().n_free() as u32,
            n_prompt_tokens: step.n_prompt_tokens,
            rows: &self.chronicle.rows,
        };
        let observer = &self.parts.observer;
        let told = catch_unwind(AssertUnwindSafe(|| observer.stepped(&event)));
        if told.is_err() {
            tracing::error!("the observer panicked; it hears of no more steps");
            self.chronicle.tells_steps = false;
        }
    }

    /// Whom the step that was planned takes slots or blocks from.
    pub(crate) fn note_displaced(&mut self, now: Timestamp) {
        for displaced in &self.scheduler.step().displaced {
            let by = displaced.by.and_then(|by| self.active.get(&by)).map(|by| by.other());
            if let Some(active) = self.active.get_mut(&displaced.id) {
                active.story.lost(now, displaced.lost_blocks, by);
            }
        }
    }

    /// A step was computed and drawn from. It was `asked` for before other engines had their turn.
    pub(crate) fn note_step(&mut self, asked: Timestamp, started: Timestamp) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (scheduler, active) = (&self.scheduler, &mut self.active);
        let prompt_of = |row: &lm_scheduler::ScheduledRow| {
            let n_prompt = scheduler.sequence(row.seq).map_or(0, |seq| seq.n_prompt());
            let n_tokens = row.n_tokens - row.n_drafts;
            let is_prompt = n_tokens > 1 || row.start < n_prompt;
            is_prompt.then(|| (count(row.start), count(n_tokens)))
        };
        // The two largest prompts: each answer's largest other one is among them.
        let (mut first, mut second) = (None::<(SeqId, u32)>, None::<(SeqId, u32)>);
        let mut n_prompt_tokens = 0;
        for row in &self.rows {
            let Some((_, n)) = prompt_of(row) else { continue };
            n_prompt_tokens += n;
            if first.is_none_or(|(_, most)| n > most) {
                (second, first) = (first, Some((row.seq, n)));
            } else if second.is_none_or(|(_, most)| n > most) {
                second = Some((row.seq, n));
            }
        }
        let named = |largest: Option<(SeqId, u32)>| {
            largest.and_then(|(id, n)| Some((id, (active.get(&id)?.other(), n))))
        };
        let (first, second) = (named(first), named(second));
        self.chronicle.step += 1;
        let step = StepFacts {
            number: self.chronicle.step,
            asked,
            started,
            ended: self.stats.now(),
            predicted: Duration::try_from_secs_f64(scheduler.step().predicted_seconds)
                .unwrap_or_default(),
            n_rows: count(self.rows.len()),
            n_tokens: count(scheduler.step().n_tokens()),
            n_prompt_tokens,
        };
        for row in &self.rows {
            let Some(active) = active.get_mut(&row.seq) else { continue };
            if active.story.last_step.is_none() {
                let own = active.other();
                self.chronicle.begins(&mut active.story, own);
            }
            let is_other = |(id, _): &(SeqId, (Other, u32))| *id != row.seq;
            let other = first.filter(is_other).or(second.filter(is_other)).map(|(_, other)| other);
            active.story.step(&step, prompt_of(row), other);
        }
        self.tell_step(&step);
    }
}

impl Chronicle {
    pub(crate) fn new(tells_steps: bool, n_seqs: usize) -> Self {
        let rows = Vec::with_capacity(if tells_steps { n_seqs } else { 0 });
        let last_began = VecDeque::with_capacity(Timeline::MAX_NAMED);
        Chronicle { tells_steps, rows, last_began, ..Chronicle::default() }
    }

    /// An answer takes part in its first step.
    fn begins(&mut self, story: &mut Story, own: Other) {
        story.timeline.queue.n_began = self.n_began.wrapping_sub(story.n_began_before);
        let n_named = self.last_began.len().min(story.timeline.queue.n_began as usize);
        let named = self.last_began.iter().skip(self.last_began.len() - n_named);
        story.timeline.queue.behind = named.copied().collect();
        self.n_began = self.n_began.wrapping_add(1);
        if self.last_began.len() == Timeline::MAX_NAMED {
            self.last_began.pop_front();
        }
        self.last_began.push_back(own);
    }
}

impl Active {
    /// How others name it.
    pub(crate) fn other(&self) -> Other {
        Other { request: self.request.id, tenant: self.request.tenant }
    }

    /// How an observer hears that it was taken in.
    pub(crate) fn begun<'a>(
        &'a self,
        prompt: &'a [TokenId],
        served_by: &'a ServedBy,
    ) -> AnswerBegun<'a> {
        let served_by = self.served_by(served_by);
        AnswerBegun {
            request: &self.request,
            choice: self.choice,
            prompt,
            model: &served_by.model,
            release: served_by.release,
            arrived_at: self.arrived_at,
        }
    }

    /// Its part of a step.
    pub(crate) fn step_row(&self, n_tokens: usize, drawn: Option<&Sampled>) -> StepRow {
        StepRow {
            request: self.request.id,
            choice: self.choice,
            n_tokens: n_tokens as u32,
            token: drawn.map(|drawn| drawn.token),
            logprob: drawn.and_then(|drawn| Some(drawn.logprobs.as_ref()?.logprob)),
        }
    }
}
