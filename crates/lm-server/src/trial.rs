//! A request's part in an experiment: which arm answers it, and with what.
//!
//! It must never read a file, nor fail a request for the experiment's sake.
//!
//! Start reading at [`Trial::of`].

use std::sync::Arc;

use lastmile::{Arm, ArmTag, GenerateRequest, Priority, Prompt, Role, Runtime, SamplingParams};
use lm_api::ApiError;
use lm_ops::{Live, Params, Stage, Unit, UnitBy, tenant_text};

use crate::app::{App, mint_id};
use crate::generate::Call;
use crate::shadow::Copy;

/// A request's part in an experiment.
pub(crate) struct Trial {
    live: Live,
    tag: ArmTag,
}

impl Trial {
    /// The part of a request for the model `runtime`; `None` when it has none.
    pub(crate) fn of(
        app: &App,
        runtime: &Runtime,
        call: &Call,
        requests: &[GenerateRequest],
    ) -> Option<Trial> {
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
        Some(Trial { live: live.clone(), tag })
    }

    /// As `x-lastmile-arm` says it.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.tag.experiment, self.tag.arm.as_str())
    }

    /// Puts the arm's model in the place of the one that was asked; `None` when it cannot be had. Blocks while it is loaded.
    pub(crate) fn on_its_model(self, app: &App, runtime: &mut Arc<Runtime>) -> Option<Trial> {
        let Some(model) = &self.live.variant(self.tag.arm).model else { return Some(self) };
        let handle = tokio::runtime::Handle::current();
        match handle.block_on(app.models.resolve(Some(model))) {
            Ok(found) => {
                *runtime = found;
                Some(self)
            }
            Err(error) => {
                // Units that are lost so show in the sample ratio.
                tracing::error!(%error, model, "an arm's model cannot be had: the one that was asked answers");
                None
            }
        }
    }

    /// Whether a body must be read again for this arm.
    pub(crate) fn has_defaults(&self) -> bool {
        let variant = self.live.variant(self.tag.arm);
        variant.model.is_some() || variant.params != Params::default()
    }

    /// What is drawn by where a request says nothing else.
    pub(crate) fn defaults(&self, runtime: &Runtime) -> SamplingParams {
        defaults(runtime, &self.live.variant(self.tag.arm).params)
    }

    /// Writes the arm into the requests.
    pub(crate) fn apply(&self, requests: &mut [GenerateRequest]) {
        apply(&self.live, &self.tag, requests);
    }

    /// Offers the candidate a copy of a request that the primary answers. Only in the first stage, and never in the way.
    pub(crate) fn shadow(
        &self,
        app: &Arc<App>,
        asked: &Arc<Runtime>,
        read: impl Fn(&Runtime, &SamplingParams) -> Result<Vec<GenerateRequest>, ApiError>,
    ) {
        if self.live.stage != Stage::Shadow {
            return;
        }
        let variant = self.live.variant(Arm::Shadow);
        let runtime = match &variant.model {
            None => Arc::clone(asked),
            Some(model) => match app.models.get(Some(model)) {
                Ok(Some(runtime)) => runtime,
                _ => {
                    app.shadow.count_unavailable();
                    let (app, model) = (Arc::clone(app), model.clone());
                    // The next ones find it.
                    tokio::runtime::Handle::current().spawn(async move {
                        drop(app.models.resolve(Some(&model)).await);
                    });
                    return;
                }
            },
        };
        // What the primary took, the candidate may refuse: that is the experiment's to see, in later stages.
        let Ok(mut requests) = read(&runtime, &defaults(&runtime, &variant.params)) else { return };
        for request in &mut requests {
            let original = request.id;
            let tag = self.live.shadow_of(&self.tag, original);
            apply(&self.live, &tag, std::slice::from_mut(request));
            request.id = mint_id();
            (request.n, request.priority) = (1, Priority::Background);
            (request.deadline, request.max_queue) = (None, None);
            app.shadow.offer(Copy { runtime: Arc::clone(&runtime), request: request.clone() });
        }
    }
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
    let max_tokens = live.variant(tag.arm).params.max_tokens;
    for request in requests {
        live.instruct(tag.arm, &mut request.prompt);
        request.stop.max_tokens = request.stop.max_tokens.or(max_tokens);
        request.steering.arm = Some(Arc::new(tag.clone()));
    }
}
