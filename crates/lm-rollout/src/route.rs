//! What becomes of a request, rule by rule.
//!
//! It must never look at a condition: whoever asks found that the rule holds.
//!
//! Start reading at [`Route`].

use std::sync::Arc;

use lm_types::{Ban, OutputRules, PhraseScan, RuleHit};

use crate::policy::{Compiled, Effect, Way, word};
use crate::subject::Subject;

/// What of an answer is given before any rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    /// A form was asked for.
    pub(crate) has_form: bool,
    /// The answer that it goes on with.
    pub(crate) answer: &'a str,
    /// The operator says which model answers.
    pub(crate) is_pinned: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Who answers.
    pub way: Way,
    /// The rule of `way`, where one decided it.
    pub by: Option<Arc<str>>,
    /// The text that answers begin with.
    pub opening: String,
    /// The JSON schema that answers must be of.
    pub schema: Option<String>,
    /// What answers must not hold.
    pub output: Option<Arc<OutputRules>>,
    /// The end of what answers go on with that may begin a phrase.
    pub before: String,
    /// The rules that hold, but for those that wait for a phrase.
    pub hits: Vec<RuleHit>,
    /// What was not applied, and why.
    pub notes: Vec<String>,
}

impl Route {
    pub(crate) fn untouched() -> Self {
        Route {
            way: Way::Model,
            by: None,
            opening: String::new(),
            schema: None,
            output: None,
            before: String::new(),
            hits: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Forbids phrases. A prompt that holds one is not told back.
    pub(crate) fn guard(&mut self, output: Arc<OutputRules>, subject: &Subject<'_>) {
        let is_answered = !matches!(self.way, Way::Human { .. } | Way::Stop(_));
        let found = subject.told.iter().find_map(|text| match output.scan(text) {
            PhraseScan::Found { ban, .. } => Some(Arc::clone(&output.bans()[ban].rule)),
            PhraseScan::Safe(_) => None,
        });
        if let Some(rule) = found.filter(|_| is_answered) {
            let text =
                format!("the prompt is to be told back, and holds what the rule {rule} bans");
            self.hits.push(RuleHit { rule: Arc::clone(&rule), action: "stop" });
            (self.way, self.by) = (Way::Stop(text), Some(rule));
        }
        output.open_end(subject.before).clone_into(&mut self.before);
        self.output = Some(output);
    }

    /// Of several rules of one kind the first holds; phrases add up.
    pub(crate) fn apply<'p>(
        &mut self,
        rule: &'p Compiled,
        bans: &mut Vec<&'p [Ban]>,
        given: Given<'_>,
    ) {
        let hindered = self.hindered(rule, given);
        let action = match &rule.effect {
            Effect::Ban(more) => return bans.push(more),
            // An edited answer that begins as it should is as it should be.
            Effect::Prefix(text) if !text.is_empty() && given.answer.starts_with(text) => return,
            // Operators come before rules, mandatory ones too.
            Effect::Way(_) if hindered.is_some() => return self.not_applied(&rule.id, hindered),
            _ if hindered.is_some() && !(rule.mandatory && self.by.is_none()) => {
                return self.not_applied(&rule.id, hindered);
            }
            _ if hindered.is_some() => {
                let why = hindered.unwrap_or_default();
                let text = format!("rule {} must be applied, but cannot be: {why}", rule.id);
                (self.way, self.by) = (Way::Stop(text), Some(Arc::clone(&rule.id)));
                "stop"
            }
            Effect::Prefix(text) if self.opening.is_empty() => {
                self.opening.clone_from(text);
                "prefix"
            }
            Effect::Schema(schema) if self.schema.is_none() => {
                self.schema = Some(schema.clone());
                "schema"
            }
            Effect::Way(way) if self.by.is_none() => {
                self.way = way.clone();
                self.by = Some(Arc::clone(&rule.id));
                word(way)
            }
            _ => return,
        };
        self.hits.push(RuleHit { rule: Arc::clone(&rule.id), action });
    }

    fn not_applied(&mut self, rule: &str, why: Option<&'static str>) {
        let why = why.unwrap_or_default();
        self.notes.push(format!("rule {rule} was not applied: {why}"));
    }

    /// Why a rule cannot be applied to an answer that a model gives, if it cannot.
    fn hindered(&self, rule: &Compiled, given: Given<'_>) -> Option<&'static str> {
        let has_begun = !given.answer.is_empty();
        match rule.effect {
            Effect::Prefix(_) | Effect::Schema(_) if has_begun => {
                Some("the answer that is edited has begun")
            }
            Effect::Prefix(_) if given.has_form || self.schema.is_some() => {
                Some("the answer's form is given")
            }
            Effect::Schema(_) if given.has_form && !rule.mandatory => {
                Some("the request asks for a form of its own")
            }
            Effect::Way(Way::Fallback { .. }) if given.is_pinned => Some("a model is pinned"),
            Effect::Schema(_) if !self.opening.is_empty() => {
                Some("the answer's beginning is given")
            }
            _ => None,
        }
    }
}
