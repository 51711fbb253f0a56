//! What may stand in the writer's queue, and what of a request is allowed into it.
//!
//! It must never know SQL.
//!
//! Start reading at [`Job`].

use std::time::SystemTime;

use crossbeam_channel::Sender;
use lm_types::{
    Dialog, GenerateRequest, Prompt, RequestEvent, SamplingParams, Steering, StopRules,
};

use crate::erase::{Erase, Erased};
use crate::{Feedback, FeedbackId, Privacy, Release, RunInfo, StoreError};

pub(crate) type Reply<T> = Sender<Result<T, StoreError>>;

/// One entry of the writer's queue. Entries are written in order.
pub(crate) enum Job {
    Event { event: Box<RequestEvent>, size_bytes: usize },
    Release(Release, Reply<()>),
    Feedback(Feedback, Reply<FeedbackId>),
    BeginRun(RunInfo, Reply<String>),
    Prune(SystemTime, Reply<()>),
    Erase(Erase, Reply<Erased>),
    MakeRoom(Reply<()>),
    Flush(Reply<()>),
    Close(Reply<()>),
}

/// The one place where an answer enters the store: what privacy withholds is not even copied.
pub(crate) fn admit(event: &RequestEvent, privacy: Privacy) -> Box<RequestEvent> {
    if privacy != Privacy::Off {
        return Box::new(event.clone());
    }
    let request = &event.request;
    Box::new(RequestEvent {
        request: GenerateRequest {
            id: request.id,
            prompt: Prompt::Text(String::new()),
            text: request.text,
            dialog: Dialog::default(),
            constraint: None,
            sampling: SamplingParams { bad_words: Vec::new(), ..request.sampling.clone() },
            stop: StopRules {
                stop_strings: Vec::new(),
                stop_token_ids: request.stop.stop_token_ids.clone(),
                ..request.stop
            },
            n: request.n,
            report: request.report,
            priority: request.priority,
            tenant: request.tenant,
            adapter: request.adapter.clone(),
            subject: request.subject.clone(),
            deadline: request.deadline,
            max_queue: request.max_queue,
            steering: Steering { opening: String::new(), rules: None, ..request.steering.clone() },
            allowance: None,
        },
        task: event.task,
        choice: event.choice,
        model: event.model.clone(),
        release: event.release,
        arrived_at: event.arrived_at,
        outcome: event.outcome.clone(),
        output_text: String::new(),
        prompt_tokens: Vec::new(),
        output_tokens: Vec::new(),
        hits: event.hits.clone(),
        usage: event.usage,
        timings: event.timings,
        timeline: event.timeline.clone(),
        mean_logprob: event.mean_logprob,
    })
}

/// Bytes that the event's prompt, stop strings and answer take in the queue.
pub(crate) fn size_bytes(event: &RequestEvent, privacy: Privacy) -> usize {
    if privacy == Privacy::Off {
        return 0;
    }
    let prompt = size_of_prompt(&event.request.prompt);
    let read_as = event.request.steering.read_as.as_deref().map_or(0, |read_as| {
        let changes: usize = read_as.changes.iter().map(String::len).sum();
        size_of_prompt(&read_as.prompt) + changes + read_as.answer.len()
    });
    let stop: usize = event.request.stop.stop_strings.iter().map(String::len).sum();
    let form = event.request.constraint.as_ref().map_or(0, |asked| asked.form.size_bytes());
    let tokens = size_of_val(event.prompt_tokens.as_slice());
    let tokens = tokens + size_of_val(event.output_tokens.as_slice());
    prompt
        + read_as
        + stop
        + form
        + tokens
        + event.request.dialog.size_bytes()
        + event.output_text.len()
}

fn size_of_prompt(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Infill { prefix, suffix } => prefix.len() + suffix.len(),
        Prompt::Tokens(tokens) => size_of_val(tokens.as_slice()),
        // Many small messages weigh more than their texts.
        Prompt::Chat(messages) => {
            let texts: usize = messages.iter().map(|m| m.content.len()).sum();
            size_of_val(messages.as_slice()) + texts
        }
    }
}
