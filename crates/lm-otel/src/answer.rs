//! What is kept of an answer for its spans: numbers and names, no text of a prompt or an answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lm_types::{
    AnswerForm, ArmTag, Constraint, FinishReason, Loss, Outcome, Priority, Prompt, ReleaseHash,
    RequestEvent, RequestId, Stall, Task, TenantId, Timings, TraceParent, Usage,
};

/// An answer that ended, on its way to the collector.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) request: RequestId,
    /// The sender's span, where it named one.
    pub(crate) parent: Option<TraceParent>,
    pub(crate) choice: u32,
    pub(crate) model: String,
    pub(crate) release: ReleaseHash,
    pub(crate) tenant: TenantId,
    pub(crate) route: &'static str,
    pub(crate) arm: Option<Arc<ArmTag>>,
    pub(crate) adapter: Option<String>,
    /// Ids of the overrides that changed it.
    pub(crate) rules: Vec<Arc<str>>,
    pub(crate) operation: Operation,
    pub(crate) asked: Asked,
    pub(crate) arrived_at: SystemTime,
    /// Why it ended, or the code of its error.
    pub(crate) end: Result<FinishReason, &'static str>,
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
    pub(crate) phases: Vec<Phase>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) stalls: Vec<Stall>,
    pub(crate) n_steps: u32,
    pub(crate) n_chunks: u32,
    pub(crate) most_rows: u32,
}

/// What was asked for, besides the prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) n: u32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) top_k: u32,
    pub(crate) frequency_penalty: f32,
    pub(crate) presence_penalty: f32,
    pub(crate) seed: u64,
    pub(crate) priority: Priority,
    /// `json` or `text`, by what the answer's form is.
    pub(crate) output_type: &'static str,
}

/// What was done, by the names of the GenAI conventions as far as they have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Chat,
    TextCompletion,
    Embeddings,
    Rank,
    Classify,
}

/// A part of an answer's life, from its request's arrival on: `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) start: Duration,
    pub(crate) end: Duration,
}

impl Answer {
    pub(crate) fn of(event: &RequestEvent) -> Self {
        let request = &event.request;
        let (sampling, timeline) = (&request.sampling, &event.timeline);
        Answer {
            request: request.id,
            parent: request.steering.trace,
            choice: event.choice,
            model: event.model.clone(),
            release: event.release,
            tenant: request.tenant,
            route: request.steering.route,
            arm: request.steering.arm.clone(),
            adapter: request.adapter.clone(),
            rules: event.hits.iter().map(|hit| Arc::clone(&hit.rule)).collect(),
            operation: Operation::of(event),
            asked: Asked {
                n: request.n,
                max_tokens: request.stop.max_tokens,
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                top_k: sampling.top_k,
                frequency_penalty: sampling.frequency_penalty,
                presence_penalty: sampling.presence_penalty,
                seed: sampling.seed,
                priority: request.priority,
                output_type: output_type(request.constraint.as_ref()),
            },
            arrived_at: event.arrived_at,
            // An error's message may quote the prompt; its code does not.
            end: match &event.outcome {
                Outcome::Finished(reason) => Ok(*reason),
                Outcome::Failed(error) => Err(error.code()),
            },
            usage: event.usage,
            timings: event.timings,
            phases: phases(event.task, &event.timings),
            losses: timeline.losses.clone(),
            stalls: timeline.stalls.clone(),
            n_steps: timeline.n_steps,
            n_chunks: timeline.n_chunks,
            most_rows: timeline.most_rows,
        }
    }

    /// Whether its trace is recorded: who sent it decides where it is part of theirs.
    pub(crate) fn is_sampled(&self) -> bool {
        self.parent.is_none_or(|parent| parent.is_sampled)
    }

    /// Spans that it becomes.
    pub(crate) fn n_spans(&self) -> usize {
        1 + self.phases.len()
    }
}

impl Operation {
    fn of(event: &RequestEvent) -> Self {
        // Long prompts of refused requests come as text, whatever they were.
        let route = event.request.steering.route;
        let is_chat = matches!(event.request.prompt, Prompt::Chat(_))
            || ["/chat", "/messages", "/responses"].iter().any(|word| route.contains(word));
        match event.task {
            Task::Generate if is_chat => Operation::Chat,
            Task::Generate => Operation::TextCompletion,
            Task::Embed => Operation::Embeddings,
            Task::Rank => Operation::Rank,
            Task::Classify => Operation::Classify,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Operation::Chat => "chat",
            Operation::TextCompletion => "text_completion",
            Operation::Embeddings => "embeddings",
            Operation::Rank => "rank",
            Operation::Classify => "classify",
        }
    }

    /// Whether tokens are drawn.
    pub(crate) fn generates(self) -> bool {
        matches!(self, Operation::Chat | Operation::TextCompletion)
    }
}

fn output_type(constraint: Option<&Constraint>) -> &'static str {
    match constraint.map(|constraint| &constraint.form) {
        Some(AnswerForm::JsonObject | AnswerForm::JsonSchema(_)) => "json",
        _ => "text",
    }
}

/// `queue`, `prefill` and `decode`, or `queue` and `encode`: side by side, and as many as it reached.
fn phases(task: Task, timings: &Timings) -> Vec<Phase> {
    let &Timings { queue_wait, ttft, e2e, .. } = timings;
    let mut phases = Vec::new();
    // It was refused at the door.
    if e2e.is_zero() {
        return phases;
    }
    let scheduled = queue_wait.min(e2e);
    phases.push(Phase { name: "queue", start: Duration::ZERO, end: scheduled });
    // It never left the queue.
    if scheduled == e2e && ttft.is_zero() {
        return phases;
    }
    if task != Task::Generate {
        phases.push(Phase { name: "encode", start: scheduled, end: e2e });
        return phases;
    }
    let first_token = if ttft.is_zero() { e2e } else { ttft.clamp(scheduled, e2e) };
    phases.push(Phase { name: "prefill", start: scheduled, end: first_token });
    if !ttft.is_zero() {
        phases.push(Phase { name: "decode", start: first_token, end: e2e });
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(task: Task, [queue_wait, ttft, e2e]: [u64; 3], expect: &[(&'static str, u64, u64)]) {
        let ms = Duration::from_millis;
        let timings = Timings {
            queue_wait: ms(queue_wait),
            ttft: ms(ttft),
            e2e: ms(e2e),
            ..Timings::default()
        };
        let found = phases(task, &timings);
        let expect: Vec<_> = expect
            .iter()
            .map(|&(name, start, end)| Phase { name, start: ms(start), end: ms(end) })
            .collect();
        assert_eq!(found, expect, "{timings:?}");
    }

    #[test]
    fn an_answer_has_the_phases_that_it_reached() {
        let whole = [("queue", 0, 3), ("prefill", 3, 8), ("decode", 8, 20)];
        check(Task::Generate, [3, 8, 20], &whole);
        check(Task::Generate, [0, 0, 0], &[]);
        check(Task::Generate, [7, 0, 7], &[("queue", 0, 7)]);
        check(Task::Generate, [3, 0, 9], &[("queue", 0, 3), ("prefill", 3, 9)]);
        let at_once = [("queue", 0, 0), ("prefill", 0, 5), ("decode", 5, 5)];
        check(Task::Generate, [0, 5, 5], &at_once);
        check(Task::Embed, [2, 0, 6], &[("queue", 0, 2), ("encode", 2, 6)]);
        check(Task::Rank, [6, 0, 6], &[("queue", 0, 6)]);
    }
}
