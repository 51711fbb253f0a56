//! The running answers of one HTTP request, and what readers of them must not be told.
//!
//! It must never wait for an answer.
//!
//! Start reading at [`Running`].

use std::sync::Arc;

use lastmile::{
    AnswerReader, Ban, Finish, FinishReason, GenerateRequest, OnHit, OutputRules, Prices,
    ReasoningStart, RequestId, RuleHit, Runtime, ToolCallParser,
};
use lm_api::{ApiError, Confidence, Head, OverrideRefusal, Sureness, call_id};
use lm_ops::{Calibration, Overrides, Via, now_ms};

use crate::aborts::Listed;
use crate::answers::Answers;
use crate::app::App;
use crate::response_cache::Ender;

/// The running answers of one HTTP request. Dropping it aborts them.
pub(crate) struct Running {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) head: Head,
    /// Events with the index of their choice.
    pub(crate) events: Answers,
    pub(crate) n_choices: usize,
    /// Choices of each prompt.
    pub(crate) n: usize,
    /// The prompts' requests; the first one's id is the response's.
    pub(crate) request_ids: Vec<RequestId>,
    pub(crate) has_logprobs: bool,
    /// The prompts' texts, when answers begin with them.
    pub(crate) echo: Option<Vec<String>>,
    pub(crate) has_prompt_logprobs: bool,
    /// Alternatives of each token, where log-probabilities are wanted.
    pub(crate) n_top: usize,
    pub(crate) stream: bool,
    /// When the answer is to say what it took.
    pub(crate) prices: Option<Prices>,
    /// When answers are to say how sure the model was: what was learned of its release, if anything was.
    pub(crate) calibration: Option<Option<Calibration>>,
    /// Tokens of the first prompt; 0 when no model answers.
    pub(crate) n_prompt: usize,
    /// Texts that end an answer.
    pub(crate) stops: Vec<String>,
    /// The functions that may be called.
    pub(crate) tools: Option<Vec<String>>,
    /// Where answers begin, when the model thinks; a text that somebody else wrote holds no reasoning.
    pub(crate) reasoning: Option<ReasoningStart>,
    pub(crate) screening: Screening,
    pub(crate) _listed: Listed,
}

/// Phrases that are banned of what readers make of answers.
pub(crate) struct Screening {
    /// Of each request, with what its answers go on with.
    rules: Vec<(Option<Arc<OutputRules>>, String)>,
    /// Ends each choice.
    pub(crate) ends: Vec<Option<Ender>>,
    overrides: Option<Overrides>,
}

impl Screening {
    /// Of requests that a model answers; what somebody else wrote is told as it is.
    pub(crate) fn of(
        overrides: Option<&Overrides>,
        requests: &[GenerateRequest],
        is_model: bool,
    ) -> Self {
        let rules = |one: &GenerateRequest| {
            let steering = &one.steering;
            (steering.rules.clone().filter(|_| is_model), steering.before.clone())
        };
        let rules = requests.iter().map(rules).collect();
        Screening { rules, ends: Vec::new(), overrides: overrides.cloned() }
    }
}

/// Refuses to tell a text back as the answer to a request whose answers must not hold it.
pub(crate) fn may_tell(
    app: &App,
    request: &GenerateRequest,
    model: &str,
    text: &str,
) -> Result<(), ApiError> {
    let Some(overrides) = app.ops.overrides() else { return Ok(()) };
    let via = Via { model, asked: None, now_ms: now_ms() };
    let route = overrides.policy().route(request, via).map_err(lm_ops::override_refusal)?;
    if !route.output.is_some_and(|output| output.holds(text)) {
        return Ok(());
    }
    let text = "the answer with the edit holds what a rule bans".to_owned();
    Err(ApiError::Overridden(OverrideRefusal::Stopped { text }))
}

impl Running {
    /// A reader of one answer's reasoning and calls, when it may have any.
    pub(crate) fn answer_reader(&self, choice: usize) -> Option<AnswerReader> {
        let names = self.tools.clone();
        let calls = names.map(|names| ToolCallParser::new(self.runtime.tool_format(), names));
        let reader = AnswerReader::new(self.reasoning, calls)?;
        let (rules, before) = &self.screening.rules[choice / self.n.max(1)];
        Some(reader.screened(rules.clone(), before))
    }

    /// Ends an answer in which its reader met a banned phrase. Says whether it did.
    pub(crate) fn is_cut(&self, choice: usize, reader: Option<&AnswerReader>) -> bool {
        let is_cut = reader.is_some_and(|reader| reader.found().is_some());
        if is_cut && let Some(Some(end)) = self.screening.ends.get(choice) {
            end.end();
        }
        is_cut
    }

    /// Says of an answer in which its reader met a banned phrase that it ended for that, and counts it.
    pub(crate) fn settle(&self, choice: usize, reader: Option<&AnswerReader>, end: &mut Finish) {
        let n = self.n.max(1);
        let rules = self.screening.rules[choice / n].0.as_deref();
        let found = reader.and_then(AnswerReader::found);
        let Some((ban, rules)) = found.zip(rules) else { return };
        end.reason = FinishReason::Filtered;
        let Ban { rule, then, .. } = &rules.bans()[ban];
        let action = if matches!(then, OnHit::Replace(_)) { "ban_replace" } else { "ban_stop" };
        if let Some(overrides) = &self.screening.overrides {
            let hit = RuleHit { rule: Arc::clone(rule), action };
            overrides.note_hit(self.request_ids[choice / n], (choice % n) as u32, hit);
        }
    }

    /// How sure the model was of an answer, where that is asked for.
    pub(crate) fn confidence(&self, sureness: &Sureness) -> Option<Confidence> {
        let calibration = self.calibration.as_ref()?.as_ref();
        // No answer that is learned from has a token of probability 0.
        let mean = sureness.mean_logprob().filter(|mean| mean.is_finite());
        let known = calibration.zip(mean);
        Some(sureness.confidence(known.map(|(calibration, mean)| calibration.learned(mean))))
    }

    /// The id of a call of a choice.
    pub(crate) fn call_id(&self, choice: usize, call: usize) -> String {
        call_id(self.request_ids[choice / self.n], choice, call)
    }

    /// The id of a choice's own request, when the response spans several.
    pub(crate) fn own_id(&self, choice: usize) -> Option<String> {
        let spans_several = self.request_ids.len() > 1;
        spans_several.then(|| self.request_ids[choice / self.n].to_string())
    }
}
