//! `lastmile run`: one prompt, one answer.

use std::io::{IsTerminal, Read, Write};

use anyhow::Context;
use lastmile::{
    ChatMessage, Finish, GenerateEvent, GenerateRequest, Prompt, RequestId, Role, Runtime,
};
use serde_json::json;
use uuid::Uuid;

use crate::args::{RunArgs, SamplingArgs};
use crate::model::{runtime_config, start};
use crate::outcome::{Outcome, WrongUse, print_json, refusal};

/// Longest prompt on standard input.
const MAX_STDIN_BYTES: u64 = 16 << 20;

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => read_stdin()?,
    };
    let runtime = start(runtime_config(&args.model.model, &args.model.run)?)?;
    let prompt = if args.raw {
        Prompt::Text(prompt)
    } else {
        if !runtime.info().has_chat_template {
            let name = &runtime.info().name;
            let why = format!("{name} has no chat template; --raw continues the prompt as it is");
            return Err(WrongUse(why).into());
        }
        Prompt::Chat(conversation(args.system.as_deref(), prompt))
    };
    let request = request(&runtime, prompt, &args.sampling);
    if args.json {
        let answer = runtime.complete(request).map_err(refusal)?.remove(0);
        print_json(&json!({
            "text": answer.text,
            "finish_reason": answer.finish.reason.as_str(),
            "usage": usage_json(&answer.finish),
            "timings": timings_json(&answer.finish),
        }))?;
    } else {
        stream_to_stdout(&runtime, request, || false)?;
    }
    Ok(Outcome::Done)
}

/// A request with the model's own defaults, changed by what was said on the command line.
pub(crate) fn request(runtime: &Runtime, prompt: Prompt, args: &SamplingArgs) -> GenerateRequest {
    let id = Uuid::now_v7().as_u128();
    let mut request = GenerateRequest::new(RequestId(id), prompt);
    let mut sampling = runtime.default_sampling();
    sampling.temperature = args.temperature.unwrap_or(sampling.temperature);
    sampling.top_k = args.top_k.unwrap_or(sampling.top_k);
    sampling.top_p = args.top_p.unwrap_or(sampling.top_p);
    // The low bits of a UUID of version 7 are random.
    sampling.seed = args.seed.unwrap_or(id as u64);
    request.sampling = sampling;
    request.stop.max_tokens = args.max_tokens;
    request
}

/// Prints an answer as it comes, until `is_enough`, and gives what came.
pub(crate) fn stream_to_stdout(
    runtime: &Runtime,
    request: GenerateRequest,
    is_enough: impl Fn() -> bool,
) -> anyhow::Result<String> {
    let mut out = std::io::stdout().lock();
    let mut whole = String::new();
    for event in runtime.generate(request).map_err(refusal)?.remove(0) {
        match event {
            GenerateEvent::Delta { text, .. } => {
                out.write_all(text.as_bytes())?;
                out.flush()?;
                whole.push_str(&text);
                if is_enough() {
                    writeln!(out)?;
                    return Ok(whole);
                }
            }
            GenerateEvent::Prompt { .. } => {}
            GenerateEvent::Finished(_) => writeln!(out)?,
            GenerateEvent::Failed(error) => {
                writeln!(out)?;
                return Err(error.into());
            }
        }
    }
    Ok(whole)
}

fn conversation(system: Option<&str>, prompt: String) -> Vec<ChatMessage> {
    let system = system.map(|text| ChatMessage { role: Role::System, content: text.to_owned() });
    system.into_iter().chain([ChatMessage { role: Role::User, content: prompt }]).collect()
}

/// The text that was piped in.
pub(crate) fn read_stdin() -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(WrongUse("give a prompt, or pipe one into standard input".to_owned()).into());
    }
    let mut text = String::new();
    stdin
        .take(MAX_STDIN_BYTES + 1)
        .read_to_string(&mut text)
        .context("standard input is not UTF-8 text")?;
    if text.len() as u64 > MAX_STDIN_BYTES {
        let why = format!("standard input has over {MAX_STDIN_BYTES} bytes, the most");
        return Err(WrongUse(why).into());
    }
    Ok(text)
}

fn usage_json(finish: &Finish) -> serde_json::Value {
    json!({
        "prompt_tokens": finish.usage.prompt_tokens,
        "completion_tokens": finish.usage.completion_tokens,
        "cached_tokens": finish.usage.cached_tokens,
    })
}

fn timings_json(finish: &Finish) -> serde_json::Value {
    json!({
        "queue_wait_ms": finish.timings.queue_wait.as_secs_f64() * 1e3,
        "ttft_ms": finish.timings.ttft.as_secs_f64() * 1e3,
        "e2e_ms": finish.timings.e2e.as_secs_f64() * 1e3,
        "cpu_seconds": finish.timings.cpu_seconds,
        "joules": finish.timings.joules.map_or("unavailable".into(), serde_json::Value::from),
    })
}
