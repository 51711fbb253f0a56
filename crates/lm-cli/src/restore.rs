//! Why an answer diverged: what differs is restored one at a time, and the answer is computed again.

use lastmile::{Dialog, GenerateRequest, Prompt};
use lm_ops::{Factor, Verdict};
use serde::Serialize;

use crate::how::How;
use crate::replay::{Job, Started, differences};

/// What restoring showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Because {
    /// Each of these alone, as it was, makes the answer identical.
    pub(crate) causes: Vec<String>,
    /// They make it identical only together.
    pub(crate) together: bool,
    /// These cannot be as they were on this machine.
    pub(crate) not_restorable: Vec<String>,
    /// Whether a second computation drew the same again.
    pub(crate) repeatable: bool,
}

/// Restores what differs, one at a time, then all of it.
pub(crate) fn restored(
    started: &Started,
    job: &Job,
    differs: &[Factor],
    diverged: Verdict,
) -> anyhow::Result<Because> {
    let again = started.compute(&job.recorded, &job.request)?;
    let mut because = Because {
        causes: Vec::new(),
        together: false,
        not_restorable: Vec::new(),
        repeatable: again == diverged,
    };
    let is_identical = |verdict| matches!(verdict, Verdict::Identical { .. });
    let mut n_restored = 0;
    for factor in differs {
        match variant(started, job, factor) {
            Some(verdict) => {
                n_restored += 1;
                if is_identical(verdict) {
                    because.causes.push(factor.name.clone());
                }
            }
            None => because.not_restorable.push(factor.name.clone()),
        }
    }
    if because.causes.is_empty()
        && n_restored > 1
        && let Some(how) = &job.recorded_how
        && let Ok(other) = Started::new(how)
        && other.compute(&job.recorded, &job.recorded.request).is_ok_and(is_identical)
    {
        because.together = true;
        let restorable = differs.iter().filter(|f| !because.not_restorable.contains(&f.name));
        because.causes = restorable.map(|factor| factor.name.clone()).collect();
    }
    Ok(because)
}

/// The verdict with one factor as it was; `None` when it cannot be so here.
fn variant(started: &Started, job: &Job, factor: &Factor) -> Option<Verdict> {
    let with = |request: &GenerateRequest| started.compute(&job.recorded, request).ok();
    let then = &job.recorded.request;
    let mut request = job.request.clone();
    match factor.name.as_str() {
        "seed" => {
            request.sampling.seed = then.sampling.seed;
            return with(&request);
        }
        "system_prompt" => {
            request.prompt.clone_from(&then.prompt);
            request.dialog.clone_from(&then.dialog);
            return with(&request);
        }
        // Both decide the prompt's tokens and nothing else of the computation.
        "chat_template" | "tokenizer" => {
            request.prompt = Prompt::Tokens(job.recorded.prompt_tokens.clone());
            request.dialog = Dialog::default();
            return with(&request);
        }
        _ => {}
    }
    let how = as_recorded(job, factor)?;
    let other = Started::new(&how).ok()?;
    let is_still_different = |left: &Factor| left.name == factor.name;
    if differences(&other, job).iter().any(is_still_different) {
        return None;
    }
    other.compute(&job.recorded, &job.request).ok()
}

/// How the model is started with one fact as it was.
fn as_recorded(job: &Job, factor: &Factor) -> Option<How> {
    let mut how = job.how.clone();
    match factor.name.as_str() {
        "kernel_path" => match factor.recorded.strip_prefix("cpu-") {
            // Such as cpu-avx2-a13: the instruction set, and the version of its arithmetic.
            Some(rest) => {
                how.device = "cpu".to_owned();
                how.isa = Some(rest.split('-').next()?.to_owned());
            }
            None => how.device.clone_from(&job.recorded_how.as_ref()?.device),
        },
        "kv_type" => how.kv_cache = Some(factor.recorded.clone()),
        "weights_digest" => {
            let then = job.recorded_how.as_ref()?;
            how.model.clone_from(&then.model);
            how.weights.clone_from(&then.weights);
            how.placeholder_costs.clone_from(&then.placeholder_costs);
            how.placeholder_schema.clone_from(&then.placeholder_schema);
            how.max_model_len = then.max_model_len;
        }
        _ => return None,
    }
    Some(how)
}
