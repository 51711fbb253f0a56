//! Answers that are sent when they are complete.
//!
//! It must never outlive the connection: when the client leaves, the handler is dropped, and with
//! it the running answers.
//!
//! Start reading at [`response`].

use axum::http::StatusCode;
use axum::response::Response;
use futures_util::StreamExt;
use lastmile::{AnswerPart, Finish, GenerateError, GenerateEvent, Usage};
use lm_api::{ApiError, Choice, LogprobEntry, Spent, TextOffset, ToolCall, sum_usage};

use crate::generate::{Running, named, refused};
use crate::reply;
use crate::request_log::RequestEntry;

/// One answer as far as it came.
#[derive(Default)]
struct Part {
    text: String,
    logprobs: Vec<LogprobEntry>,
    text_offset: TextOffset,
    finish: Option<Finish>,
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
            GenerateEvent::Delta { text, logprobs, .. } => {
                part.text.push_str(&text);
                part.logprobs.extend(named(&running.runtime, &logprobs, &mut part.text_offset));
            }
            GenerateEvent::Finished(finish) => part.finish = Some(finish),
            GenerateEvent::Failed(error) => return Err(refused(error, style)),
        }
    }
    let (choices, finishes) = choices(&running, parts).map_err(|error| refused(error, style))?;
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
    let choice = |(index, mut part): (usize, Part)| {
        let finish = part.finish.ok_or(GenerateError::ShuttingDown)?;
        let tool_calls = take_calls(running, index, &mut part.text);
        let choice = Choice {
            index: index as u32,
            text: part.text,
            tool_calls,
            logprobs: running.has_logprobs.then_some(part.logprobs),
            finish_reason: finish.reason,
            request_id: running.own_id(index),
        };
        Ok((choice, finish))
    };
    parts.into_iter().enumerate().map(choice).collect()
}

/// Takes the calls of tools out of an answer's text.
fn take_calls(running: &Running, choice: usize, text: &mut String) -> Vec<ToolCall> {
    let Some(mut parser) = running.call_parser() else { return Vec::new() };
    let mut parts = parser.push(text);
    parts.extend(parser.finish());
    text.clear();
    let mut calls: Vec<ToolCall> = Vec::new();
    for part in parts {
        match part {
            AnswerPart::Text(more) => text.push_str(&more),
            AnswerPart::CallBegins { index, name } => {
                let (id, arguments) = (running.call_id(choice, index), String::new());
                calls.push(ToolCall { id, name, arguments });
            }
            AnswerPart::Arguments { index, json } => calls[index].arguments.push_str(&json),
        }
    }
    calls
}
