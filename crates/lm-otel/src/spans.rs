//! An answer as a tree of spans: names and attributes by OpenTelemetry's conventions for GenAI where they have one,
//! `lastmile.*` where not.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use lm_types::{Loss, Priority, Stall, TenantId};

use crate::answer::{Answer, Phase};
use crate::attributes::Attributes;
use crate::wire::{Event, KeyValue, Span, SpanKind, Status, StatusCode};

/// W3C's trace flag `sampled`: what is sent is.
const SAMPLED: u32 = 1;
/// OTLP's flags for a parent that another process has.
const REMOTE_PARENT: u32 = 0x100 | 0x200;

/// Appends the spans of an answer: the root, then its phases in order.
pub(crate) fn append(answer: &Answer, spans: &mut Vec<Span>) {
    let trace_id = trace_id(answer);
    let root_id = span_id(answer, 0);
    let kind = if answer.route.is_empty() { SpanKind::Internal } else { SpanKind::Server };
    let common = Span { trace_id, flags: SAMPLED, ..Span::default() };
    let parent_span_id = answer.parent.map(|parent| parent.parent_id.to_be_bytes().to_vec());
    spans.push(Span {
        span_id: root_id.clone(),
        flags: answer.parent.map_or(SAMPLED, |_| SAMPLED | REMOTE_PARENT),
        parent_span_id: parent_span_id.unwrap_or_default(),
        name: format!("{} {}", answer.operation.as_str(), answer.model),
        kind: kind.into(),
        start_time_unix_nano: unix_nanos(answer, Duration::ZERO),
        end_time_unix_nano: unix_nanos(answer, answer.timings.e2e),
        attributes: root_attributes(answer),
        status: answer.end.err().map(failed),
        ..common.clone()
    });
    let mut events = events(answer);
    for (i, phase) in (1_u32..).zip(&answer.phases) {
        let is_last = answer.phases.len() == i as usize;
        let (here, later) = events.into_iter().partition(|(at, _)| is_last || *at < phase.end);
        events = later;
        let here: Vec<(Duration, Event)> = here;
        spans.push(Span {
            span_id: span_id(answer, i),
            parent_span_id: root_id.clone(),
            name: phase.name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: unix_nanos(answer, phase.start),
            end_time_unix_nano: unix_nanos(answer, phase.end),
            attributes: phase_attributes(answer, phase),
            events: here.into_iter().map(|(_, event)| event).collect(),
            // The part that it ended in is the one that failed.
            status: answer.end.err().filter(|_| is_last).map(failed),
            ..common.clone()
        });
    }
}

/// The sender's trace, or else the request's UUID, so that a trace is found by the id that the client was told.
fn trace_id(answer: &Answer) -> Vec<u8> {
    // No trace may have the id 0.
    let own = || answer.request.0.max(1);
    answer.parent.map_or_else(own, |parent| parent.trace_id.0).to_be_bytes().to_vec()
}

/// A client may use an id again, so the time is a part of it.
fn span_id(answer: &Answer, part: u32) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    (answer.request, answer.choice, answer.arrived_at, part).hash(&mut hasher);
    hasher.finish().max(1).to_be_bytes().to_vec()
}

fn unix_nanos(answer: &Answer, after: Duration) -> u64 {
    let arrived = answer.arrived_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(arrived.saturating_add(after).as_nanos()).unwrap_or(u64::MAX)
}

fn failed(code: &'static str) -> Status {
    Status { message: code.to_owned(), code: StatusCode::Error.into() }
}

fn root_attributes(answer: &Answer) -> Vec<KeyValue> {
    let mut all = Attributes::default();
    all.text("gen_ai.operation.name", answer.operation.as_str())
        .text("gen_ai.provider.name", "lastmile")
        .text("gen_ai.request.model", &answer.model)
        .text("gen_ai.response.model", &answer.model)
        .text("gen_ai.response.id", &answer.request.to_string())
        .int("gen_ai.usage.input_tokens", answer.usage.prompt_tokens);
    if answer.operation.generates() {
        asked(answer, &mut all);
        generated(answer, &mut all);
    }
    match answer.end {
        Ok(reason) => {
            all.texts("gen_ai.response.finish_reasons", [reason.as_str()].into_iter());
        }
        Err(code) => {
            all.text("error.type", code);
        }
    }
    own(answer, &mut all);
    all.0
}

/// How the answer was to be drawn.
fn asked(answer: &Answer, all: &mut Attributes) {
    let asked = &answer.asked;
    all.text("gen_ai.output.type", asked.output_type)
        .single("gen_ai.request.temperature", asked.temperature)
        .single("gen_ai.request.top_p", asked.top_p)
        .single("gen_ai.request.frequency_penalty", asked.frequency_penalty)
        .single("gen_ai.request.presence_penalty", asked.presence_penalty);
    if asked.top_k > 0 {
        all.int("gen_ai.request.top_k", asked.top_k);
    }
    if let Some(max_tokens) = asked.max_tokens {
        all.int("gen_ai.request.max_tokens", max_tokens);
    }
    if asked.n != 1 {
        all.int("gen_ai.request.choice.count", asked.n);
    }
    // The conventions have signed numbers only; a seed that was minted is often greater.
    match i64::try_from(asked.seed) {
        Ok(seed) => all.int("gen_ai.request.seed", seed),
        Err(_) => all.text("lastmile.seed", &asked.seed.to_string()),
    };
}

/// What came out, and how soon.
fn generated(answer: &Answer, all: &mut Attributes) {
    let (usage, timings) = (&answer.usage, &answer.timings);
    all.int("gen_ai.usage.output_tokens", usage.completion_tokens)
        .int("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
        .int("lastmile.cached_tokens", usage.cached_tokens)
        .int("lastmile.cached_blocks", timings.n_cached_blocks)
        .int("lastmile.preemptions", timings.n_preemptions);
    if !timings.ttft.is_zero() {
        all.double("gen_ai.response.time_to_first_chunk", timings.ttft.as_secs_f64());
    }
    if timings.n_drafted > 0 {
        all.int("lastmile.drafted_tokens", timings.n_drafted);
        all.int("lastmile.accepted_tokens", timings.n_accepted);
    }
    if let Some((_, reason)) = timings.first_miss {
        all.text("lastmile.cache_miss", reason.as_str());
    }
}

/// What only lastmile knows.
fn own(answer: &Answer, all: &mut Attributes) {
    let timings = &answer.timings;
    let priority = match answer.asked.priority {
        Priority::Interactive => "interactive",
        Priority::Batch => "batch",
        Priority::Background => "background",
    };
    all.text("lastmile.request_id", &answer.request.to_string())
        .int("lastmile.choice", answer.choice)
        .text("lastmile.release", &answer.release.to_string())
        .text("lastmile.priority", priority)
        .double("lastmile.cpu_seconds", timings.cpu_seconds);
    if let Some(joules) = timings.joules {
        all.double("lastmile.joules", joules);
    }
    if !answer.route.is_empty() {
        all.text("http.route", answer.route);
    }
    if answer.tenant != TenantId::ANONYMOUS {
        all.text("lastmile.key_id", &format!("{:016x}", answer.tenant.0));
    }
    if let Some(adapter) = &answer.adapter {
        all.text("lastmile.adapter", adapter);
    }
    if !answer.rules.is_empty() {
        all.texts("lastmile.overrides", answer.rules.iter().map(|rule| &**rule));
    }
    if let Some(tag) = &answer.arm {
        all.text("lastmile.experiment", &tag.experiment)
            .text("lastmile.arm", tag.arm.as_str())
            .text("lastmile.variant", &tag.variant);
        if let Some(request) = tag.shadow_of {
            all.text("lastmile.shadow_of", &request.to_string());
        }
    }
}

fn phase_attributes(answer: &Answer, phase: &Phase) -> Vec<KeyValue> {
    let mut all = Attributes::default();
    match phase.name {
        "prefill" => {
            let cached = answer.usage.cached_tokens;
            let computed = answer.usage.prompt_tokens.saturating_sub(cached);
            all.int("lastmile.prefill.computed_tokens", computed)
                .int("lastmile.prefill.cached_tokens", cached)
                .int("lastmile.prefill.chunks", answer.n_chunks);
        }
        "decode" => {
            all.int("lastmile.decode.tokens", answer.usage.completion_tokens)
                .int("lastmile.steps", answer.n_steps)
                .int("lastmile.most_rows", answer.most_rows);
        }
        _ => {}
    }
    all.0
}

/// What went wrong on its way, in order. Other requests are not named: they may be another tenant's.
fn events(answer: &Answer) -> Vec<(Duration, Event)> {
    let losses = answer.losses.iter().map(|loss| (loss.at, lost(loss)));
    let stalls = answer.stalls.iter().map(|stall| (stall.at, stalled(stall)));
    let mut events: Vec<(Duration, (&str, Attributes))> = losses.chain(stalls).collect();
    events.sort_by_key(|(at, _)| *at);
    let event = |(at, (name, attributes)): (Duration, (&str, Attributes))| {
        let at = at.min(answer.timings.e2e);
        let event = Event {
            time_unix_nano: unix_nanos(answer, at),
            name: name.to_owned(),
            attributes: attributes.0,
        };
        (at, event)
    };
    events.into_iter().map(event).collect()
}

fn lost(loss: &Loss) -> (&'static str, Attributes) {
    let mut all = Attributes::default();
    all.flag("lastmile.lost_blocks", loss.lost_blocks);
    if let Some(away) = loss.away {
        all.double("lastmile.away_seconds", away.as_secs_f64());
    }
    (if loss.lost_blocks { "lastmile.preempted" } else { "lastmile.paused" }, all)
}

fn stalled(stall: &Stall) -> (&'static str, Attributes) {
    let mut all = Attributes::default();
    all.double("lastmile.took_seconds", stall.took.as_secs_f64())
        .double("lastmile.predicted_seconds", stall.predicted.as_secs_f64())
        .int("lastmile.step_rows", stall.n_rows)
        .int("lastmile.step_tokens", stall.n_tokens);
    ("lastmile.stalled", all)
}
