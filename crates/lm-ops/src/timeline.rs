//! One request's way through the engine, as clients and operators see it.
//!
//! It must never name a request of one tenant to another.
//!
//! Start reading at [`TimelinePage::read`].

use lastmile::{RequestId, TenantId};
use lm_api::ApiError;
use lm_store::{
    Reader, StoreError, StoredAttempt, StoredCause, StoredChunk, StoredMiss, StoredOther,
    StoredQueue, StoredRequest, StoredTimeline,
};
use serde::Serialize;

use crate::Ops;
use crate::search::is_seen;

/// One request's way through the engine. `Display` renders it in plain words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelinePage {
    /// The request, a UUID.
    pub id: String,
    /// The model's name as served.
    pub model: String,
    /// Unix milliseconds. All other times count from here.
    pub arrived_at_ms: i64,
    /// `interactive`, `batch` or `background`.
    pub priority: String,
    /// The trace of who sent it, as 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The experiment that it was part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<ArmView>,
    /// Its answers, by choice.
    pub answers: Vec<AnswerTimeline>,
}

/// A request's place in an experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArmView {
    /// The experiment's name.
    pub experiment: String,
    /// `primary`, `candidate` or `shadow`.
    pub arm: &'static str,
    /// The candidate's share when it was assigned, in percent.
    pub percent: u8,
    /// The digest of model, system prompt and parameters.
    pub variant: String,
    /// The request that a shadow is a copy of.
    pub shadow_of: Option<String>,
}

/// One answer's way through the engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnswerTimeline {
    /// Which of the request's answers, from 0.
    pub choice: u32,
    /// How it ended: `stop`, `length`, `abort`, or the stable word of its error.
    pub state: String,
    /// Whether its way was recorded; older versions did not.
    pub is_recorded: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that came from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Until its first step.
    pub queue_wait_ms: f64,
    /// Until its first token; `None` when there was none.
    pub ttft_ms: Option<f64>,
    /// Until its end.
    pub ended_ms: f64,
    /// Its share of the process's CPU time.
    pub cpu_seconds: f64,
    /// What it waited for.
    pub ahead: StoredQueue,
    /// KV blocks of the prompt that came from the prefix cache.
    pub cached_blocks: u32,
    /// The first block that did not, and why.
    pub first_miss: Option<StoredMiss>,
    /// Steps that computed its prompt, or computed it again; the first of them.
    pub prefill: Vec<StoredChunk>,
    /// How many there were.
    pub n_prefill: u32,
    /// When every `tokens_every`-th token came.
    pub tokens_ms: Vec<f64>,
    /// Which tokens `tokens_ms` holds.
    pub tokens_every: u32,
    /// The longest gaps between tokens, the longest first.
    pub largest_gaps: Vec<GapView>,
    /// Steps that took more than twice as long as predicted, the worst first.
    pub stalls: Vec<StallView>,
    /// When it lost its slot or its blocks; the first of them.
    pub displaced: Vec<LossView>,
    /// How often.
    pub n_displaced: u32,
    /// Steps that it took part in.
    pub n_steps: u32,
    /// Answers in the smallest of those, in one of them on average, and in the largest.
    pub batch: Option<(u32, f64, u32)>,
    /// The request whose answer it is, when it came from the response cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computed_by: Option<String>,
}

/// A gap between two tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GapView {
    /// When it ended.
    pub at_ms: f64,
    /// How long it was.
    pub ms: f64,
    /// The token that ended it, from 0.
    pub before_token: u32,
    /// Why, in words.
    pub because: String,
    /// Why, for programs.
    pub cause: StoredCause,
}

/// A step that took much longer than predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StallView {
    /// When it began.
    pub at_ms: f64,
    /// How long it took.
    pub took_ms: f64,
    /// How long it was predicted to take.
    pub predicted_ms: f64,
    /// What was in it, in words.
    pub because: String,
}

/// A loss of slot or blocks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LossView {
    /// When.
    pub at_ms: f64,
    /// How long until its next step.
    pub away_ms: Option<f64>,
    /// `preempted` lost its blocks, `paused` only its slot.
    pub kind: String,
    /// For whom: a request's id, or `another key's request`.
    pub by: Option<String>,
}

impl TimelinePage {
    /// The timeline of a request. `sees` is whose requests may be seen; `None` is everybody's. `Ok(None)`
    /// when it is unknown, erased, or another tenant's.
    ///
    /// # Errors
    /// Why the store could not be read.
    pub fn read(
        reader: &Reader,
        id: RequestId,
        sees: Option<TenantId>,
    ) -> Result<Option<Self>, StoreError> {
        let Some(request) = reader.request(id)?.filter(|request| is_seen(request, sees)) else {
            return Ok(None);
        };
        let mut told = reader.recorded(id)?;
        let answers = request.attempts.iter().map(|attempt| {
            let own = told.iter_mut().find(|answer| answer.choice == attempt.choice);
            let mut timeline = own.and_then(|answer| answer.timeline.take());
            if let (Some(timeline), true) = (&mut timeline, sees.is_some()) {
                hide_others(timeline, &request);
            }
            answer(attempt, timeline)
        });
        let answers = answers.collect();
        let arm = reader.arm_of(id)?.map(|assigned| ArmView {
            experiment: assigned.tag.experiment,
            arm: assigned.tag.arm.as_str(),
            percent: assigned.tag.percent,
            variant: assigned.tag.variant,
            shadow_of: assigned.tag.shadow_of.map(|id| id.to_string()),
        });
        Ok(Some(TimelinePage {
            id: id.to_string(),
            arrived_at_ms: request.arrived_at_ms,
            answers,
            arm,
            model: request.model,
            priority: request.priority,
            trace_id: request.trace_id,
        }))
    }
}

impl Ops {
    /// The timeline of a request that is over. `sees` as of [`TimelinePage::read`].
    ///
    /// # Errors
    /// `RequestNotFound`; `Internal` when the store cannot be read.
    pub async fn timeline(
        &self,
        id: RequestId,
        sees: Option<TenantId>,
    ) -> Result<TimelinePage, ApiError> {
        let found = self.reading(move |ops| TimelinePage::read(ops.store.reader(), id, sees));
        found.await?.ok_or(ApiError::RequestNotFound { id })
    }
}

/// Takes out who is not of the request's own tenant.
fn hide_others(timeline: &mut StoredTimeline, request: &StoredRequest) {
    let hide = |other: &mut StoredOther| {
        if other.tenant != request.tenant {
            *other = StoredOther { request: None, tenant: None };
        }
    };
    timeline.queue.behind.iter_mut().for_each(hide);
    for gap in &mut timeline.gaps {
        match &mut gap.cause {
            StoredCause::Prompt { of, .. } => hide(of),
            StoredCause::Lost { by: Some(by) } => hide(by),
            _ => {}
        }
    }
    timeline.losses.iter_mut().filter_map(|loss| loss.by.as_mut()).for_each(hide);
}

fn answer(attempt: &StoredAttempt, timeline: Option<StoredTimeline>) -> AnswerTimeline {
    let is_recorded = timeline.is_some();
    let timeline = timeline.unwrap_or_default();
    let state = attempt.finish_reason.as_ref().or(attempt.error_code.as_ref());
    AnswerTimeline {
        choice: attempt.choice,
        state: state.cloned().unwrap_or_default(),
        is_recorded,
        prompt_tokens: attempt.prompt_tokens,
        cached_tokens: attempt.cached_tokens,
        completion_tokens: attempt.completion_tokens,
        queue_wait_ms: attempt.queue_wait_ms,
        ttft_ms: attempt.ttft_ms,
        ended_ms: attempt.e2e_ms,
        cpu_seconds: attempt.cpu_seconds,
        ahead: timeline.queue,
        cached_blocks: timeline.n_cached_blocks,
        first_miss: timeline.first_miss,
        prefill: timeline.chunks,
        n_prefill: timeline.n_chunks,
        tokens_ms: timeline.tokens_ms,
        tokens_every: timeline.tokens_every,
        largest_gaps: timeline.gaps.into_iter().map(gap_view).collect(),
        stalls: timeline.stalls.iter().map(stall_view).collect(),
        displaced: timeline.losses.into_iter().map(loss_view).collect(),
        n_displaced: timeline.n_losses,
        n_steps: timeline.n_steps,
        batch: (timeline.n_steps > 0).then_some(timeline.batch),
        computed_by: timeline.computed_by,
    }
}

fn gap_view(gap: lm_store::StoredGap) -> GapView {
    let because = match &gap.cause {
        StoredCause::Prompt { of, n_tokens } => {
            format!("{n_tokens} prompt tokens in the same steps, most of them of {}", name(of))
        }
        StoredCause::Lost { by: Some(by) } => format!("it made room for {}", name(by)),
        StoredCause::Lost { by: None } => "it lost its slot or its KV blocks".to_owned(),
        StoredCause::LeftOut => "more answers ran than fit the step: they took turns".to_owned(),
        StoredCause::OtherModel => {
            "another model's step or load went first, or KV blocks were copied".to_owned()
        }
        StoredCause::Slow => "the step took much longer than predicted".to_owned(),
        StoredCause::Step { n_rows: 1 } => "the step itself, alone".to_owned(),
        StoredCause::Step { n_rows } => format!("the step itself, with {n_rows} answers in it"),
    };
    let lm_store::StoredGap { at_ms, ms, before_token, cause } = gap;
    GapView { at_ms, ms, before_token, because, cause }
}

fn stall_view(stall: &lm_store::StoredStall) -> StallView {
    let lm_store::StoredStall { at_ms, took_ms, predicted_ms, batch, n_tokens } = *stall;
    let because = format!("a step of {n_tokens} tokens of {batch} answers");
    StallView { at_ms, took_ms, predicted_ms, because }
}

fn loss_view(loss: lm_store::StoredLoss) -> LossView {
    let lm_store::StoredLoss { at_ms, away_ms, kind, by } = loss;
    LossView { at_ms, away_ms, kind, by: by.as_ref().map(name) }
}

/// What somebody else's request is called.
pub(crate) fn name(other: &StoredOther) -> String {
    other.request.clone().unwrap_or_else(|| "another key's request".to_owned())
}
