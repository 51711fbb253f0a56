//! A request's part in an experiment: which arm answers it, and with what.
//!
//! It must never read a file, nor fail a request for the experiment's sake.
//!
//! Start reading at [`Trial::begin`].

use std::sync::Arc;
use std::time::Duration;

use lastmile::{
    Arm, ArmTag, GenerateRequest, Priority, Prompt, Role, Runtime, SamplingParams, TenantId,
};
use lm_api::{ApiError, Denial};
use lm_keys::Scope;
use lm_ops::{Experiments, Live, Params, Stage, Unit, UnitBy, now_ms, tenant_text};

use crate::app::{App, mint_id};
use crate::generate::{Call, said_once};
use crate::shadow::Copy;
use crate::steer::Turn;

/// A request's part in an experiment.
pub(crate) struct Trial {
    live: Live,
    tag: ArmTag,
    /// An operator named the arm: it is no evidence.
    is_named: bool,
}

/// By which an operator names an arm, as EXPERIMENT/ARM.
const HEADER: &str = "x-lastmile-arm";
/// How long a request waits for its arm's model before the one that was asked answers.
const LOAD_WAIT: Duration = Duration::from_secs(5);

impl Trial {
    /// The part of a request for the model `runtime`; `None` when it has none.
    fn of(
        app: &App,
        runtime: &Runtime,
        call: &Call,
        requests: &[GenerateRequest],
    ) -> Result<Option<Trial>, ApiError> {
        let named = named_arm(call)?;
        let drawn = Trial::drawn(app, runtime, call, requests);
        let Some((experiment, arm)) = named else { return Ok(drawn) };
        match drawn.filter(|trial| trial.tag.experiment == experiment) {
            Some(Trial { live, tag, .. }) => {
                Ok(Some(Trial { live, tag: ArmTag { arm, ..tag }, is_named: true }))
            }
            None => Err(ApiError::Invalid {
                param: HEADER.to_owned(),
                found: experiment,
                wanted: format!("an experiment that runs for the model {:?}", runtime.info().name),
            }),
        }
    }

    fn drawn(
        app: &App,
        runtime: &Runtime,
        call: &Call,
        requests: &[GenerateRequest],
    ) -> Option<Trial> {
        if call.adapter.is_some() {
            // An adapter was asked for by its name: that is a model of its own.
            return None;
        }
        let live = app.ops.experiments()?.live();
        let live =
            live.iter().find(|one| one.concerns(call.entry.route(), &runtime.info().name))?;
        let first = requests.first()?;
        let Prompt::Chat(messages) = &first.prompt else { return None };
        let header = match &live.spec.unit {
            UnitBy::Header(name) => call.headers.get(name).and_then(|value| value.to_str().ok()),
            _ => None,
        };
        let (id, tenant) = (first.id.to_string(), tenant_text(first.tenant));
        let first_message = messages.iter().find(|message| message.role == Role::User);
        let tag = live.assign(Unit {
            request: &id,
            tenant: tenant.as_deref(),
            user: first.subject.as_deref(),
            header,
            first_message: first_message.map(|message| message.content.as_str()),
        });
        Some(Trial { live: live.clone(), tag, is_named: false })
    }

    /// As `x-lastmile-arm` says it.
    fn name(&self) -> String {
        format!("{}/{}", self.tag.experiment, self.tag.arm.as_str())
    }

    /// The arm's model in the place of the one that was asked; `None` when it, or its adapter, cannot be had. Blocks while
    /// it is loaded, though not for long.
    fn its_model(&self, app: &App, asked: &Arc<Runtime>) -> Option<Arc<Runtime>> {
        let variant = self.live.variant(self.tag.arm);
        let is_losing = |experiments: &Experiments| experiments.is_losing(&self.tag.experiment);
        // When it is loaded after all, it is found at once.
        let wait = match self.is_drawn_candidate() && app.ops.experiments().is_some_and(is_losing) {
            true => Duration::ZERO,
            false => LOAD_WAIT,
        };
        let found = match &variant.model {
            None => Ok(Arc::clone(asked)),
            Some(model) => tokio::runtime::Handle::current()
                .block_on(app.models.resolve_within(Some(model), wait)),
        };
        let found = found.map_err(|error| error.to_string()).and_then(|found| {
            match variant.adapter.as_ref().filter(|name| found.adapter(name).is_none()) {
                None => Ok(found),
                Some(name) => Err(format!("the model has no adapter {name:?}")),
            }
        });
        // Units that are lost so show in the sample ratio.
        found.inspect_err(|error| self.is_lost(app, error)).ok()
    }

    /// The model that was asked answers in the arm's place. A candidate that loses one after the other is given up.
    fn is_lost(&self, app: &App, error: &str) {
        if let Some(experiments) = app.ops.experiments().filter(|_| self.is_drawn_candidate()) {
            experiments.lost(&self.tag.experiment, error, now_ms());
        }
        tracing::error!(
            error,
            arm = self.name(),
            "an arm cannot answer: the model that was asked does"
        );
    }

    fn is_drawn_candidate(&self) -> bool {
        self.tag.arm == Arm::Candidate && !self.is_named
    }

    /// Whether a body must be read again for this arm.
    fn has_defaults(&self) -> bool {
        let variant = self.live.variant(self.tag.arm);
        variant.model.is_some() || variant.params != Params::default()
    }

    /// What is drawn by where a request says nothing else.
    fn defaults(&self, runtime: &Runtime) -> SamplingParams {
        defaults(runtime, &self.live.variant(self.tag.arm).params)
    }

    /// Draws a request that may take part, and reads it again as its arm has it; `None` when it has no part, or its arm
    /// cannot answer.
    pub(crate) fn begin<T>(
        app: &App,
        call: &Call,
        turn: &mut Turn<T>,
        read: impl Fn(Arc<Runtime>, &SamplingParams) -> Result<Turn<T>, ApiError>,
    ) -> Result<Option<Trial>, ApiError> {
        let Some(trial) = Trial::of(app, &turn.runtime, call, &turn.requests)? else {
            return Ok(None);
        };
        let Some(runtime) = trial.its_model(app, &turn.runtime) else { return Ok(None) };
        if trial.has_defaults() {
            let defaults = trial.defaults(&runtime);
            match read(runtime, &defaults) {
                Ok(again) => *turn = again,
                // What the primary would take is not refused for the candidate's sake.
                Err(error) => {
                    trial.is_lost(app, &error.to_string());
                    return Ok(None);
                }
            }
        }
        if let Some(experiments) = app.ops.experiments().filter(|_| trial.is_drawn_candidate()) {
            experiments.answers(&trial.tag.experiment);
        }
        trial.apply(&mut turn.requests);
        call.entry.is_in(trial.name());
        Ok(Some(trial))
    }

    /// Writes the arm into the requests.
    fn apply(&self, requests: &mut [GenerateRequest]) {
        apply(&self.live, &self.tag, requests);
        if self.is_named {
            requests.iter_mut().for_each(|request| request.steering.arm = None);
        }
    }

    /// Offers the candidate a copy of a request that the primary answers. Only in the first stage, and never in the way.
    pub(crate) fn shadow(
        &self,
        app: &Arc<App>,
        asked: &Arc<Runtime>,
        read: impl Fn(&Arc<Runtime>, &SamplingParams) -> Result<Vec<GenerateRequest>, ApiError>,
    ) {
        if self.live.stage != Stage::Shadow || self.is_named {
            return;
        }
        let variant = self.live.variant(Arm::Shadow);
        let runtime = match &variant.model {
            None => Arc::clone(asked),
            Some(model) => match app.models.get(Some(model)) {
                Ok(Some(runtime)) => runtime,
                _ => {
                    app.shadow.count_unavailable();
                    // The next ones find it. No client is to wait for a model that went for a copy.
                    app.models.load_beside(model);
                    return;
                }
            },
        };
        if variant.adapter.as_ref().is_some_and(|name| runtime.adapter(name).is_none()) {
            app.shadow.count_unavailable();
            return;
        }
        // What the primary took, the candidate may refuse: that is the experiment's to see, in later stages.
        let Ok(mut requests) = read(&runtime, &defaults(&runtime, &variant.params)) else { return };
        for request in &mut requests {
            let original = request.id;
            let tag = self.live.shadow_of(&self.tag, original);
            apply(&self.live, &tag, std::slice::from_mut(request));
            request.id = mint_id();
            (request.n, request.priority) = (1, Priority::Background);
            (request.deadline, request.max_queue) = (None, None);
            // It is the operator's: no key pays for it, or sees it.
            request.tenant = TenantId::ANONYMOUS;
            request.steering.trace = None;
            app.shadow.offer(Copy::new(&runtime, request.clone()));
        }
    }
}

/// The experiment and arm that an operator names. Clients are drawn, and cannot say.
fn named_arm(call: &Call) -> Result<Option<(String, Arm)>, ApiError> {
    said_once(&call.headers, HEADER)?;
    let Some(value) = call.headers.get(HEADER) else { return Ok(None) };
    if call.caller.holder.as_ref().is_some_and(|holder| !holder.may(Scope::Ops)) {
        return Err(ApiError::Denied(Denial::ScopeMissing { scope: Scope::Ops.as_str() }));
    }
    let text = value.to_str().unwrap_or_default();
    let named = text.rsplit_once('/').and_then(|(name, arm)| match Arm::of(arm)? {
        Arm::Shadow => None,
        arm => Some((name.to_owned(), arm)),
    });
    named.map(Some).ok_or_else(|| ApiError::Invalid {
        param: HEADER.to_owned(),
        found: text.to_owned(),
        wanted: "EXPERIMENT/primary or EXPERIMENT/candidate".to_owned(),
    })
}

fn defaults(runtime: &Runtime, params: &Params) -> SamplingParams {
    let mut defaults = runtime.default_sampling();
    let Params { temperature, top_k, top_p, min_p, repetition_penalty, max_tokens: _ } = *params;
    defaults.temperature = temperature.unwrap_or(defaults.temperature);
    defaults.top_k = top_k.unwrap_or(defaults.top_k);
    defaults.top_p = top_p.unwrap_or(defaults.top_p);
    defaults.min_p = min_p.unwrap_or(defaults.min_p);
    defaults.repetition_penalty = repetition_penalty.unwrap_or(defaults.repetition_penalty);
    defaults
}

fn apply(live: &Live, tag: &ArmTag, requests: &mut [GenerateRequest]) {
    let variant = live.variant(tag.arm);
    let max_tokens = variant.params.max_tokens;
    for request in requests {
        request.adapter.clone_from(&variant.adapter);
        live.instruct(tag.arm, &mut request.prompt);
        request.stop.max_tokens = request.stop.max_tokens.or(max_tokens);
        request.steering.arm = Some(Arc::new(tag.clone()));
    }
}
