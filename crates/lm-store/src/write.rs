//! One function for each row that is written.
//!
//! It must never begin or end a transaction: the writer decides what is one commit.
//!
//! Start reading at [`event`].

use std::time::Duration;

use lm_types::{
    ArmTag, GenerateError, GenerateRequest, Outcome, Prices, Priority, RequestEvent, Task,
    TenantId, Timings, TokenId,
};
use serde_json::{Value, json};

use crate::error::ErrorContext;
use crate::mask::Masked;
use crate::read_as::read_as_to_json;
use crate::record::unix_ms;
use crate::sql::{self, Connection, OptionalExtension, params};
use crate::{Feedback, FeedbackId, Rating, Release, RunInfo, StoreError, StoredTimeline, recipe};

/// Whether an answer was new.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Written {
    New,
    Duplicate,
}

const INSERT_REQUEST: &str = "INSERT INTO request(id, release_hash, model, arrived_at_ms, prompt, \
    params, n, priority, tenant, subject, prompt_mac, recipe, prompt_tokens, trace_id) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT DO NOTHING";

const INSERT_ATTEMPT: &str = "INSERT INTO attempt(request_id, choice, release_hash, \
    arrived_at_ms, finish_reason, error_code, error_message, output_text, prompt_tokens, \
    completion_tokens, cached_tokens, queue_wait_ms, ttft_ms, e2e_ms, cpu_seconds, \
    n_preemptions, joules, cost, currency, output_mac, output_tokens, timeline) VALUES (?1, ?2, \
    ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22) \
    ON CONFLICT DO NOTHING";

/// Writes one answer, and its request with the first of them. The server mints the ids, so a
/// second answer for the same (request, choice) is a fault of a program: the first one is kept.
pub(crate) fn event(
    connection: &Connection,
    answer: &Masked,
    prices: &Prices,
) -> sql::Result<Written> {
    let event = &answer.event;
    let id = event.request.id.to_string();
    let release = event.release.to_string();
    let arrived_at_ms = unix_ms(event.arrived_at);
    if !exists(connection, &id)? {
        connection.prepare_cached(INSERT_REQUEST)?.execute(params![
            id,
            release,
            event.model,
            arrived_at_ms,
            answer.prompt,
            asked_json(event).to_string(),
            event.request.n,
            priority_text(event.request.priority),
            tenant_text(event.request.tenant),
            answer.subject,
            answer.prompt_mac,
            (answer.is_full && event.task == Task::Generate)
                .then(|| recipe::to_json(&event.request).to_string()),
            tokens_text(answer.is_full, &event.prompt_tokens),
            event.request.steering.trace.map(|trace| trace.trace_id.to_string()),
        ])?;
    }
    let (reason, failure) = match &event.outcome {
        Outcome::Finished(reason) => (Some(reason.as_str()), None),
        Outcome::Failed(error) => (None, Some(error)),
    };
    let Timings { queue_wait, ttft, e2e, cpu_seconds, joules, n_preemptions, .. } = event.timings;
    let cost = prices.of(event.choice, event.usage, &event.timings);
    let n_rows = connection.prepare_cached(INSERT_ATTEMPT)?.execute(params![
        id,
        event.choice,
        release,
        arrived_at_ms,
        reason,
        failure.map(GenerateError::code),
        answer.error_message,
        answer.output_text,
        event.usage.prompt_tokens,
        event.usage.completion_tokens,
        event.usage.cached_tokens,
        ms(queue_wait),
        (!ttft.is_zero()).then(|| ms(ttft)),
        ms(e2e),
        // SQLite stores NaN as NULL, which the column refuses; `max` turns NaN into 0.
        cpu_seconds.max(0.0),
        n_preemptions,
        joules.map(|joules| joules.max(0.0)),
        cost,
        cost.map(|_| prices.currency.as_str()),
        answer.output_mac,
        tokens_text(answer.is_full, &event.output_tokens),
        StoredTimeline::of(event).to_json(),
    ])?;
    if n_rows == 0 {
        return Ok(Written::Duplicate);
    }
    if let Some(tag) = &event.request.steering.arm {
        assignment(connection, &id, event.choice, arrived_at_ms, tag)?;
    }
    Ok(Written::New)
}

fn assignment(
    connection: &Connection,
    id: &str,
    choice: u32,
    arrived_at_ms: i64,
    tag: &ArmTag,
) -> sql::Result<()> {
    // Who reads on from the last number must not miss one that another server commits later.
    connection.number_in_order("assignment")?;
    let sql = "INSERT INTO assignment(request_id, choice, experiment, arm, unit, percent, variant, \
               shadow_of, arrived_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
               ON CONFLICT DO NOTHING";
    let row = params![
        id,
        choice,
        tag.experiment,
        tag.arm.as_str(),
        tag.unit,
        tag.percent,
        tag.variant,
        tag.shadow_of.map(|id| id.to_string()),
        arrived_at_ms,
    ];
    connection.prepare_cached(sql)?.execute(row).map(drop)
}

/// Writes feedback under the release that made the answer it is about; once, whenever it is written again.
pub(crate) fn feedback(
    connection: &Connection,
    id: FeedbackId,
    feedback: &Feedback,
    now_ms: i64,
    context: &ErrorContext,
) -> Result<(), StoreError> {
    let wrap = |e: sql::Error| context.wrap("write feedback to", &e);
    let Feedback { request_id, by, choice, rating, comment, correction } = feedback;
    let found: Option<(u32, String, Option<String>)> = connection
        .prepare_cached(
            "SELECT r.n, coalesce(a.release_hash, r.release_hash), r.tenant FROM request r \
             LEFT JOIN attempt a ON a.request_id = r.id AND a.choice = ?2 WHERE r.id = ?1",
        )
        .and_then(|mut s| {
            s.query_row(params![request_id.to_string(), choice], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()
        })
        .map_err(wrap)?;
    // Somebody else's request looks like one that never was.
    let may_see = |tenant: &Option<String>| by.is_none_or(|by| tenant_text(by) == *tenant);
    let Some((n, release, _)) = found.filter(|(_, _, tenant)| may_see(tenant)) else {
        return Err(StoreError::UnknownRequest { id: *request_id });
    };
    if *choice >= n.max(1) {
        return Err(StoreError::UnknownChoice { id: *request_id, choice: *choice, n });
    }
    let (kind, value) = match rating {
        Some(Rating::Boolean(good)) => (Some("boolean"), Some(f64::from(u8::from(*good)))),
        Some(Rating::Score(score)) => (Some("score"), Some(*score)),
        None => (None, None),
    };
    connection
        .prepare_cached(
            "INSERT INTO feedback(id, request_id, choice, rating_kind, rating, comment, \
             correction, created_at_ms, release_hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
             ON CONFLICT DO NOTHING",
        )
        .and_then(|mut s| {
            s.execute(params![
                id.to_string(),
                request_id.to_string(),
                choice,
                kind,
                value,
                comment,
                correction,
                now_ms,
                release,
            ])
        })
        .map(drop)
        .map_err(wrap)
}

pub(crate) fn release(connection: &Connection, release: &Release, now_ms: i64) -> sql::Result<()> {
    connection.execute(
        "INSERT INTO release(hash, model, engine_version, facts, first_seen_ms, how) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(hash) DO UPDATE SET how = coalesce(excluded.how, release.how)",
        params![
            release.hash.to_string(),
            release.model,
            release.engine_version,
            release.facts.to_string(),
            now_ms,
            release.how,
        ],
    )?;
    Ok(())
}

pub(crate) fn begin_run(
    connection: &Connection,
    id: &str,
    info: &RunInfo,
    now_ms: i64,
) -> sql::Result<()> {
    connection.execute(
        "INSERT INTO process_run(id, pid, started_at_ms, last_heartbeat_ms, version, address, \
         model, release_hash) VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        params![
            id,
            info.pid,
            now_ms,
            info.version,
            info.address,
            info.model,
            info.release.to_string()
        ],
    )?;
    Ok(())
}

pub(crate) fn heartbeat(connection: &Connection, run_id: &str, now_ms: i64) -> sql::Result<()> {
    connection
        .prepare_cached("UPDATE process_run SET last_heartbeat_ms = ?2 WHERE id = ?1")?
        .execute(params![run_id, now_ms])?;
    Ok(())
}

pub(crate) fn stop_run(connection: &Connection, run_id: &str, now_ms: i64) -> sql::Result<()> {
    connection.execute(
        "UPDATE process_run SET last_heartbeat_ms = ?2, stopped_at_ms = ?2 WHERE id = ?1",
        params![run_id, now_ms],
    )?;
    Ok(())
}

/// Spares the JSON of a prompt for every answer but a request's first.
fn exists(connection: &Connection, id: &str) -> sql::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM request WHERE id = ?1")?.exists([id])
}

/// A request's prompt, as [`crate::StoredRequest::prompt`] has it.
#[must_use]
pub fn prompt_json(request: &GenerateRequest) -> Value {
    let mut prompt = recipe::prompt_to_json(&request.prompt);
    if let Some(read_as) = &request.steering.read_as {
        prompt["read_as"] = read_as_to_json(read_as);
    }
    if !request.stop.stop_strings.is_empty() {
        prompt["stop"] = json!(request.stop.stop_strings);
    }
    prompt
}

/// What was asked for: an encoder's requests have no parameters.
fn asked_json(event: &RequestEvent) -> Value {
    match event.task {
        Task::Generate => params_json(&event.request),
        task => json!({ "task": task.as_str() }),
    }
}

/// A request's parameters, as [`crate::StoredRequest::params`] has them.
#[must_use]
pub fn params_json(request: &GenerateRequest) -> Value {
    let (sampling, stop) = (&request.sampling, &request.stop);
    let mut params = json!({
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
        "logprobs": sampling.logprobs,
        "max_tokens": stop.max_tokens,
        "min_tokens": stop.min_tokens,
        "stop_token_ids": stop.stop_token_ids,
        "ignore_eos": stop.ignore_eos,
    });
    if let Some(steps) = &sampling.samplers {
        params["samplers"] = recipe::names_of(steps).into();
    }
    if !sampling.processors.is_empty() {
        params["logits_processors"] = json!(sampling.processors);
    }
    if !request.steering.route.is_empty() {
        params["route"] = request.steering.route.into();
    }
    // A form that an override gave is none that was asked for.
    if request.constraint.as_ref().is_some_and(|asked| asked.field != "override") {
        params["constrained"] = true.into();
    }
    if request.dialog.continues_last {
        params["continues_last"] = true.into();
    }
    if request.report.is_wanted() {
        params["tells_prompt"] = true.into();
    }
    if let Some(asked) = &request.steering.asked {
        params["override"] = asked.as_str().into();
    }
    params
}

/// A class, as [`crate::StoredRequest::priority`] has it.
#[must_use]
pub fn priority_text(priority: Priority) -> &'static str {
    match priority {
        Priority::Interactive => "interactive",
        Priority::Batch => "batch",
        Priority::Background => "background",
    }
}

/// `None` for who came without a key.
#[must_use]
pub fn tenant_text(tenant: TenantId) -> Option<String> {
    (tenant != TenantId::ANONYMOUS).then(|| format!("{:016x}", tenant.0))
}

/// `[1,2,3]`, so that people can read it; `None` when nothing is kept or there is nothing.
fn tokens_text(full: bool, tokens: &[TokenId]) -> Option<String> {
    (full && !tokens.is_empty()).then(|| json!(tokens).to_string())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
