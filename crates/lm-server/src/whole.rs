//! Answers that are sent when they are complete.
//!
//! It must never outlive the connection: when the client leaves, the handler is dropped, and with
//! it the running answers.
//!
//! Start reading at [`response`].

use axum::http::StatusCode;
use axum::response::Response;
use futures_util::StreamExt;
use lastmile::{AnswerPart, Finish, GenerateError, GenerateEvent, TokenLogprobs, Usage};
use lm_api::{
    ApiError, Choice, LogprobEntry, Spent, Style, Sureness, TextOffset, ToolCall, sum_usage,
};

use crate::ended_by::StopTail;
use crate::generate::{named, refused};
use crate::prompt_told::{ToldPrompt, echoed, scored};
use crate::reply;
use crate::request_log::RequestEntry;
use crate::running::Running;

/// One answer as far as it came.
#[derive(Default)]
struct Part {
    text: String,
    logprobs: Vec<TokenLogprobs>,
    finish: Option<Finish>,
    stops: StopTail,
    prompt: ToldPrompt,
}

/// Waits for all answers.
pub(crate) async fn response(
    entry: &RequestEntry,
    mut running: Running,
) -> Result<Response, ApiError> {
    let style = running.head.style;
    let mut parts: Vec<Part> = Vec::new();
    parts.resize_with(running.n_choices, Part::default);
    while let Some((index, event)) = running.events.next().await {
        let part = &mut parts[index];
        match event {
            GenerateEvent::Prompt { tokens, logprobs: scored } => {
                part.prompt = ToldPrompt { tokens, scored };
            }
            GenerateEvent::Delta { text, tokens, logprobs } => {
                part.stops.take(&running, &tokens);
                part.text.push_str(&text);
                part.logprobs.extend(logprobs);
            }
            GenerateEvent::Finished(finish) => part.finish = Some(finish),
            GenerateEvent::Failed(error) => return Err(refused(error, style)),
        }
    }
    let (mut choices, finishes) =
        choices(&running, parts).map_err(|error| refused(error, style))?;
    if style == Style::Chat {
        running.head.prompt_logprobs =
            choices.first_mut().and_then(|choice| choice.prompt_logprobs.take());
    }
    let usages: Vec<Usage> = finishes.iter().map(|finish| finish.usage).collect();
    let usage = sum_usage(&usages, running.n);
    let prices = running.prices.as_ref();
    running.head.spent = prices.map(|prices| Spent::of(&finishes, running.n, prices));
    entry.used(usage);
    Ok(reply::json(StatusCode::OK, running.head.whole(&choices, usage)))
}

fn choices(
    running: &Running,
    parts: Vec<Part>,
) -> Result<(Vec<Choice>, Vec<Finish>), GenerateError> {
    // What is known of a prompt came with the first of its answers.
    let n = running.n.max(1);
    let told: Vec<ToldPrompt> = parts.iter().step_by(n).map(|part| part.prompt.clone()).collect();
    let choice = |(index, mut part): (usize, Part)| {
        let told = &told[index / n];
        let mut finish = part.finish.take().ok_or(GenerateError::ShuttingDown)?;
        let (reasoning, tool_calls) = take_parts(running, index, &mut part, &mut finish);
        let logprobs = running.has_logprobs.then(|| entries(running, told, &part.logprobs));
        let mut sureness = Sureness::default();
        part.logprobs.iter().for_each(|one| sureness.push(one.logprob));
        let prompt_logprobs = running.has_prompt_logprobs.then(|| scored(&running.runtime, told));
        let echo = running.echo.as_ref().map_or("", |texts| &texts[index / n]);
        let choice = Choice {
            index: index as u32,
            text: format!("{echo}{}", part.text),
            reasoning,
            tool_calls,
            logprobs,
            prompt_logprobs,
            confidence: running.confidence(&sureness),
            finish_reason: finish.reason,
            stop_string: part.stops.ended(running, finish.reason).map(str::to_owned),
            request_id: running.own_id(index),
        };
        Ok((choice, finish))
    };
    parts.into_iter().enumerate().map(choice).collect()
}

/// The log-probabilities of an answer, and before it of a prompt that is echoed.
fn entries(running: &Running, told: &ToldPrompt, drawn: &[TokenLogprobs]) -> Vec<LogprobEntry> {
    let (runtime, mut text_offset) = (&running.runtime, TextOffset::default());
    let mut entries = match running.echo {
        Some(_) => echoed(runtime, told, running.n_top, &mut text_offset),
        None => Vec::new(),
    };
    entries.extend(named(runtime, drawn, &mut text_offset));
    entries
}

/// Takes what was thought and the calls of tools out of an answer's text.
fn take_parts(
    running: &Running,
    choice: usize,
    part: &mut Part,
    finish: &mut Finish,
) -> (Option<String>, Vec<ToolCall>) {
    let Some(mut reader) = running.answer_reader(choice) else { return (None, Vec::new()) };
    let mut parts = reader.push(&part.text);
    parts.extend(reader.finish());
    running.settle(choice, Some(&reader), finish);
    if reader.found().is_some() {
        // They name the tokens that are not told.
        part.logprobs.clear();
    }
    let text = &mut part.text;
    text.clear();
    let (mut reasoning, mut calls) = (None::<String>, Vec::<ToolCall>::new());
    for part in parts {
        match part {
            AnswerPart::Reasoning(more) => reasoning.get_or_insert_default().push_str(&more),
            AnswerPart::Text(more) => text.push_str(&more),
            AnswerPart::CallBegins { index, name } => {
                let (id, arguments) = (running.call_id(choice, index), String::new());
                calls.push(ToolCall { id, name, arguments });
            }
            AnswerPart::Arguments { index, json } => calls[index].arguments.push_str(&json),
        }
    }
    (reasoning, calls)
}
