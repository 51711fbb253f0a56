//! What becomes of a request before it is admitted: by the operator, its sender, or a rule.
//!
//! It must never read a file on the way of a request that a model answers.
//!
//! Start reading at [`steered`].

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use lastmile::{AnswerForm, Constraint, GenerateRequest, Prompt, Runtime, SamplingParams};
use lm_api::{ApiError, OverrideRefusal, Parsed};
use lm_keys::Scope;
use lm_ops::{Asked, NewItem, Overrides, Policy, Via, Way, now_ms};
use serde_json::json;

use crate::app::App;
use crate::auth::Caller;
use crate::generate::{Call, launch, off_thread, requests_of, said_once};
use crate::reply;
use crate::running::Running;
use crate::trial::Trial;

const HEADER: &str = "x-lastmile-override";
/// Bytes of a chat that a person is shown.
const MAX_SHOWN_BYTES: usize = 256 << 10;

/// What a request became.
pub(crate) enum Started {
    /// Answers that come.
    Running(Box<Running>),
    /// A response of its own: somebody else answers.
    Told(Response),
}

/// The model that a request is for, with what the operator pinned.
pub(crate) fn asked_model(app: &App, model: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(overrides) = app.ops.overrides() else { return Ok(model) };
    let policy = overrides.policy();
    let Some(pin) = &policy.operator().pin else { return Ok(model) };
    if app.models.status_of(pin).is_ok() {
        return Ok(Some(pin.clone()));
    }
    let is_pinned = |runtime: &&Arc<Runtime>| {
        let hash = runtime.info().release_hash.to_string();
        pin.len() >= 8 && hash.starts_with(pin.as_str())
    };
    let loaded = app.models.loaded();
    let found = loaded.iter().find(is_pinned).map(|runtime| runtime.info().name.clone());
    let missing = || ApiError::Overridden(OverrideRefusal::PinMissing { pin: pin.clone() });
    found.map(Some).ok_or_else(missing)
}

/// Refuses what comes on a route that was switched off.
pub(crate) fn not_killed(app: &App, route: &str) -> Result<(), ApiError> {
    match app.ops.overrides() {
        Some(overrides) if overrides.policy().is_killed(route) => {
            Err(ApiError::Overridden(OverrideRefusal::Killed { route: route.to_owned() }))
        }
        _ => Ok(()),
    }
}

/// Ends what runs in idle slots. With a response cache only what is to be computed needs an engine, and it says so.
fn make_way(app: &App) {
    if !app.response_cache.is_on() {
        app.idle.make_way();
    }
}

/// Reads, decides, and lets somebody answer. Blocks, on a thread of its own.
pub(crate) fn steered<T>(
    app: &Arc<App>,
    asked: Arc<Runtime>,
    waited: Duration,
    call: &Call,
    parse: impl Fn(&Runtime, &SamplingParams) -> Result<(Parsed, T), ApiError>,
) -> Result<(Started, T), ApiError> {
    make_way(app);
    let read = |runtime: Arc<Runtime>, defaults: &SamplingParams| {
        let (mut parsed, rest) = parse(&runtime, defaults)?;
        let requests = requests_of(&runtime, waited, call, &mut parsed)?;
        Ok(Turn { runtime, parsed, rest, requests })
    };
    let defaults = asked.default_sampling();
    let mut turn = read(asked, &defaults)?;
    let Some(overrides) = app.ops.overrides() else {
        let running = launch(app, turn.runtime, call, turn.parsed, turn.requests, None)?;
        return Ok((Started::Running(Box::new(running)), turn.rest));
    };
    let policy = overrides.policy();
    let route = call.entry.route();
    not_killed(app, route)?;
    let by_header = asked_by(&call.headers, &call.caller)?;
    let plan = Plan::of(&policy, &turn.runtime.info().name, by_header.as_ref(), &turn.requests)?;
    let told = match &plan.way {
        Way::Fallback { models, on_errors } => {
            let chain = chain(&turn.runtime.info().name, models, *on_errors);
            let next = first_that_can(app, overrides, &chain)?;
            turn = fall_back(call, turn, next, read)?;
            None
        }
        Way::Canned(text) => Some(text.as_str()),
        Way::Model | Way::Human { .. } | Way::Stop(_) => None,
    };
    let stays = may_stay(&plan.way) && turn.runtime.info().name == plan.model;
    // What is overridden takes no part in an experiment.
    let is_free = (plan.way == Way::Model || stays) && by_header.is_none();
    let base = Arc::clone(&turn.runtime);
    let trial = match is_free && policy.operator().pin.is_none() {
        true => Trial::begin(app, call, &mut turn, read)?,
        false => None,
    };
    let Turn { runtime, mut parsed, rest, mut requests } = turn;
    plan.apply(&mut requests, &mut parsed, stays, by_header.as_ref());
    plan.by.iter().filter(|_| !stays).for_each(|by| call.entry.overridden(by));
    match &plan.way {
        Way::Human { deadline, text } => {
            let told = hand_off(app, overrides, &runtime, requests, &plan, (*deadline, text));
            told.map(|response| (Started::Told(response), rest))
        }
        Way::Stop(text) => {
            requests.into_iter().for_each(|request| runtime.note_unanswered(request));
            Err(ApiError::Overridden(OverrideRefusal::Stopped { text: text.clone() }))
        }
        _ => {
            let running = launch(app, runtime, call, parsed, requests, told)?;
            // A route that was switched off meanwhile may have been before these answers were listed.
            not_killed(app, route)?;
            let copied = |to: &Arc<Runtime>, defaults: &SamplingParams| {
                let Turn { mut parsed, mut requests, .. } = read(Arc::clone(to), defaults)?;
                plan.apply(&mut requests, &mut parsed, stays, None);
                Ok(requests)
            };
            trial.iter().for_each(|trial| trial.shadow(app, &base, copied));
            Ok((Started::Running(Box::new(running)), rest))
        }
    }
}

/// Has the next of a chain answer. Another model has other defaults, and another form of calls.
fn fall_back<T>(
    call: &Call,
    turn: Turn<T>,
    next: Arc<Runtime>,
    read: impl Fn(Arc<Runtime>, &SamplingParams) -> Result<Turn<T>, ApiError>,
) -> Result<Turn<T>, ApiError> {
    if next.info().name == turn.runtime.info().name {
        return Ok(Turn { runtime: next, ..turn });
    }
    if call.read_as.is_some() {
        // Tokens of one model say nothing to another.
        let models = next.info().name.clone();
        return Err(ApiError::Overridden(OverrideRefusal::NoFallback { models }));
    }
    let defaults = next.default_sampling();
    let mut turn = read(next, &defaults)?;
    // An adapter is of the model that was asked for.
    turn.requests.iter_mut().for_each(|request| request.adapter = None);
    Ok(turn)
}

/// A request that was read for a model.
pub(crate) struct Turn<T> {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) parsed: Parsed,
    pub(crate) rest: T,
    pub(crate) requests: Vec<GenerateRequest>,
}

/// What was decided for all prompts of a request.
struct Plan {
    way: Way,
    by: Option<String>,
    /// The model that was asked for.
    model: String,
    routes: Vec<lm_ops::Route>,
}

impl Plan {
    fn of(
        policy: &Policy,
        model: &str,
        asked: Option<&Asked>,
        requests: &[GenerateRequest],
    ) -> Result<Plan, ApiError> {
        let via = Via { model, asked, now_ms: now_ms() };
        let routes = requests.iter().map(|request| policy.route(request, via));
        let routes = routes.collect::<Result<Vec<_>, _>>().map_err(lm_ops::override_refusal)?;
        // Several prompts have one response, so that who answers one answers all.
        // The strictest way, and of equals the first.
        let strictest = routes.iter().rev().max_by_key(|route| strictness(&route.way));
        let first = strictest.filter(|route| route.way != Way::Model);
        let way = first.map_or(Way::Model, |route| route.way.clone());
        let by = first.and_then(|route| route.by.as_ref()).map(ToString::to_string);
        Ok(Plan { way, by, model: model.to_owned(), routes })
    }

    /// Writes the decision into the requests. A model that `stays` although there is another for its errors was not
    /// overridden.
    fn apply(
        &self,
        requests: &mut [GenerateRequest],
        parsed: &mut Parsed,
        stays: bool,
        asked: Option<&Asked>,
    ) {
        for (request, route) in requests.iter_mut().zip(&self.routes) {
            let steering = &mut request.steering;
            steering.opening.clone_from(&route.opening);
            steering.rules.clone_from(&route.output);
            steering.before.clone_from(&route.before);
            steering.asked = asked.map(asked_text);
            steering.hits.clone_from(&route.hits);
            if stays {
                steering.hits.retain(|hit| hit.action != "fallback");
            }
            if let Some(schema) = &route.schema {
                let form = AnswerForm::JsonSchema(schema.clone());
                request.constraint = Some(Constraint { field: "override", form });
            }
            for note in &route.notes {
                if !parsed.warnings.contains(note) {
                    parsed.warnings.push(note.clone());
                }
            }
        }
    }
}

/// How far a way is from letting the model that was asked for answer.
fn strictness(way: &Way) -> u8 {
    match way {
        Way::Model => 0,
        Way::Fallback { on_errors: true, .. } => 1,
        Way::Fallback { on_errors: false, .. } => 2,
        Way::Canned(_) => 3,
        Way::Human { .. } => 4,
        Way::Stop(_) => 5,
    }
}

/// Whether the model that was asked for may answer after all.
fn may_stay(way: &Way) -> bool {
    matches!(way, Way::Fallback { on_errors: true, .. })
}

fn chain(asked: &str, models: &[String], on_errors: bool) -> Vec<String> {
    let own = on_errors.then(|| asked.to_owned());
    own.into_iter().chain(models.iter().cloned()).collect()
}

/// The first model of a chain whose breaker lets a request through and that can be had.
fn first_that_can(
    app: &App,
    overrides: &Overrides,
    chain: &[String],
) -> Result<Arc<Runtime>, ApiError> {
    let handle = tokio::runtime::Handle::current();
    for model in chain.iter().filter(|model| overrides.may_ask(model)) {
        match handle.block_on(app.models.resolve(Some(model))) {
            Ok(runtime) => return Ok(runtime),
            Err(error) => {
                overrides.note_failure(model);
                tracing::warn!(%error, model, "a model of a fallback chain cannot be had");
            }
        }
    }
    let models = chain.join("', '");
    Err(ApiError::Overridden(OverrideRefusal::NoFallback { models }))
}

/// What a sender asks for.
fn asked_by(headers: &HeaderMap, caller: &Caller) -> Result<Option<Asked>, ApiError> {
    said_once(headers, HEADER)?;
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let asked = Asked::parse(value.to_str().unwrap_or_default());
    let asked = asked.map_err(lm_ops::override_refusal)?;
    let is_operator = caller.holder.as_ref().is_none_or(|holder| holder.may(Scope::Ops));
    if asked == Asked::Bypass && !is_operator {
        let scope = Scope::Ops.as_str();
        return Err(ApiError::Denied(lm_api::Denial::ScopeMissing { scope }));
    }
    Ok(Some(asked))
}

fn asked_text(asked: &Asked) -> String {
    match asked {
        Asked::Human => "human".to_owned(),
        Asked::Fallback => "fallback".to_owned(),
        Asked::Bypass => "bypass".to_owned(),
        Asked::Canned(name) => format!("canned:{name}"),
    }
}

/// Lets requests wait for a person. Each prompt is an item of its own.
fn hand_off(
    app: &App,
    overrides: &Overrides,
    runtime: &Runtime,
    requests: Vec<GenerateRequest>,
    plan: &Plan,
    (deadline, canned): (Duration, &str),
) -> Result<Response, ApiError> {
    let now_ms = now_ms();
    let deadline_ms =
        now_ms.saturating_add(i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX));
    let new_item = |request: &GenerateRequest| NewItem {
        id: request.id.to_string(),
        tenant: lm_ops::tenant_text(request.tenant),
        rule: plan.by.clone().unwrap_or_default(),
        prompt: shown(&request.prompt),
        deadline_ms,
        canned: canned.to_owned(),
    };
    let new: Vec<NewItem> = requests.iter().map(new_item).collect();
    // The store knows the requests before somebody may answer them.
    requests.into_iter().for_each(|request| runtime.note_unanswered(request));
    overrides.act(|desk| desk.enqueue(&new, now_ms))?;
    let item = |item: &NewItem| {
        json!({
            "id": item.id,
            "object": "override.item",
            "state": "waiting",
            "deadline_ms": deadline_ms,
            "url": format!("/v1/overrides/items/{}", item.id),
        })
    };
    let items: Vec<serde_json::Value> = new.iter().map(item).collect();
    tracing::info!(
        n = items.len(),
        rule = plan.by,
        draining = app.is_draining(),
        "handed to a person"
    );
    let first = items.first().cloned().unwrap_or_default();
    let body = if items.len() > 1 { json!({ "object": "list", "data": items }) } else { first };
    Ok(reply::json(StatusCode::ACCEPTED, body.to_string()))
}

fn shown(prompt: &Prompt) -> serde_json::Value {
    match prompt.excerpt(MAX_SHOWN_BYTES) {
        Prompt::Text(text) => json!({ "text": text }),
        Prompt::Infill { prefix, suffix } => json!({ "text": prefix, "suffix": suffix }),
        Prompt::Tokens(tokens) => json!({ "tokens": tokens }),
        Prompt::Chat(messages) => {
            let message = |m: &lastmile::ChatMessage| json!({ "role": m.role.as_str(), "content": m.content });
            json!({ "messages": messages.iter().map(message).collect::<Vec<_>>() })
        }
    }
}

/// Ends what runs on routes that were switched off, as soon as they are. Never ends by itself.
pub(crate) async fn obey(app: Arc<App>) {
    let Some(overrides) = app.ops.overrides().cloned() else { return };
    let mut changes = overrides.changes();
    loop {
        for route in &overrides.policy().operator().killed {
            let n = app.aborts.abort_route(route);
            if n > 0 {
                tracing::warn!(route, n, "requests on a route that was switched off were ended");
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Reads and starts on a thread that may block.
pub(crate) async fn start<T: Send + 'static>(
    app: Arc<App>,
    runtime: Arc<Runtime>,
    waited: Duration,
    call: Call,
    parse: impl Fn(&App, &Call, &Runtime, &SamplingParams) -> Result<(Parsed, T), ApiError>
    + Send
    + 'static,
) -> Result<(Started, T), ApiError> {
    off_thread(move || {
        let parse =
            |runtime: &Runtime, defaults: &SamplingParams| parse(&app, &call, runtime, defaults);
        steered(&app, runtime, waited, &call, parse)
    })
    .await
}
