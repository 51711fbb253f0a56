//! What a rule would have done to traffic that is stored.
//!
//! It must never decide otherwise than [`Policy::route`]: both look at the same [`Subject`].
//!
//! Start reading at [`dry_run`].

use lm_store::{Answered, Place, Reader};
use lm_types::{OutputRules, PhraseScan};
use serde::Serialize;

use crate::policy::Asked;
use crate::subject::Subject;
use crate::{Desk, Policy, RolloutError, Standing, Via};

const PAGE: u32 = 1000;
const MAX_EXAMPLES: usize = 10;

/// What a rule would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// The rule's id.
    pub rule: String,
    /// Answers that were looked at.
    pub answers: u64,
    /// Answers for which the rule would have held.
    pub hits: u64,
    /// Answers whose texts were not kept, so that nobody can tell.
    pub unknown: u64,
    /// Some of the requests for which it would have held, oldest first.
    pub examples: Vec<String>,
}

/// Tries a rule on the answers since `since_ms`, beside the rules that are published, as if none of them had ended. A rule
/// that only holds while a model fails is counted as if it did.
///
/// # Errors
/// [`RolloutError::Unknown`], or the file or the store cannot be read.
pub fn dry_run(
    desk: &Desk,
    reader: &Reader,
    id: &str,
    since_ms: i64,
    now_ms: i64,
) -> Result<DryRun, RolloutError> {
    let rule = desk.rule(id)?;
    let mut rules = desk.rules()?;
    rules.retain(|other: &Standing| other.rule.id == id || other.state(now_ms) == "published");
    let together = rules.iter().map(|standing| (&standing.rule, i64::MAX));
    let policy = Policy::compile(together, desk.operator()?)?;
    let mut run = DryRun { rule: rule.rule.id.clone(), ..DryRun::default() };
    let mut place = Place::before(since_ms);
    loop {
        let page = reader.answers(&place, now_ms, PAGE)?;
        let Some(last) = page.last() else { return Ok(run) };
        place = last.place();
        for row in &page {
            run.answers += 1;
            match holds(&policy, id, row)? {
                None => run.unknown += 1,
                Some(false) => {}
                Some(true) => {
                    run.hits += 1;
                    if run.examples.len() < MAX_EXAMPLES {
                        run.examples.push(row.request_id.to_string());
                    }
                }
            }
        }
    }
}

/// Whether the rule would have held for an answer.
fn holds(policy: &Policy, id: &str, row: &Answered) -> Result<Option<bool>, RolloutError> {
    let (Some(subject), Some(text)) = (Subject::stored(row), &row.attempt.output_text) else {
        return Ok(None);
    };
    let asked = row.params["override"].as_str().and_then(|asked| Asked::parse(asked).ok());
    let via = Via { model: &row.model, asked: asked.as_ref(), now_ms: 0 };
    let has_form = row.params["constrained"].as_bool().unwrap_or(false);
    let Ok(route) = policy.decide(&subject, via, has_form) else { return Ok(Some(false)) };
    // What holds for a request counts with its first answer.
    if row.attempt.choice == 0 && route.hits.iter().any(|hit| *hit.rule == *id) {
        return Ok(Some(true));
    }
    let is_model = matches!(route.way, crate::Way::Model | crate::Way::Fallback { .. });
    let output = route.output.filter(|_| is_model);
    Ok(Some(output.is_some_and(|output| meets(&output, &route.before, text, id))))
}

/// Whether the phrase that would have come first, or one after it where the answer had gone on, is of this rule.
fn meets(output: &OutputRules, before: &str, text: &str, id: &str) -> bool {
    match output.scan_after(&format!("{before}{text}"), before.len()) {
        PhraseScan::Safe(_) => false,
        PhraseScan::Found { ban, .. } => *output.bans()[ban].rule == *id,
    }
}
