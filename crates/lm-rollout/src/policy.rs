//! What becomes of a request: by the operator first, then by its sender, then by rules; what is left is the model's.
//!
//! It must never read a file or wait: it is asked on the way of every request.
//!
//! Start reading at [`Policy::route`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lm_types::{Ban, GenerateRequest, OnHit, OutputRules, RuleHit};
use serde::{Deserialize, Serialize};

use crate::route::{Given, Route};
use crate::rule::span_s;
use crate::subject::Subject;
use crate::when::Condition;
use crate::{Action, FallbackWhen, OnHitWord, RolloutError, Rule};

/// How long a person has who was asked for by a header and by no rule.
const HAND_OFF: Duration = Duration::from_secs(600);
const NOBODY: &str = "Nobody could answer this in time. Please try again later.";
/// Phrases that all published rules may ban together.
const MAX_BANS: usize = 4096;

/// The rules that are published, compiled, and the operator's switches.
#[derive(Debug, Default)]
pub struct Policy {
    /// Mandatory ones first, then by priority, then by id.
    rules: Arc<[Compiled]>,
    operator: Operator,
    /// What was forbidden last, by the places of the lists that it was made of.
    output: Mutex<Option<(Vec<usize>, Arc<OutputRules>)>>,
}

/// The operator's switches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operator {
    /// Routes that answer nothing.
    pub killed: Vec<String>,
    /// The model, or the release by the beginning of its hash, that answers everything.
    pub pin: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) id: Arc<str>,
    pub(crate) mandatory: bool,
    expires_at_ms: i64,
    condition: Condition,
    pub(crate) effect: Effect,
}

#[derive(Debug)]
pub(crate) enum Effect {
    Ban(Vec<Ban>),
    Prefix(String),
    Schema(String),
    Way(Way),
}

/// Who asks, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    /// The model that was asked for, by the name that it is served by.
    pub model: &'a str,
    /// What its sender asked for by the header.
    pub asked: Option<&'a Asked>,
    /// Unix milliseconds.
    pub now_ms: i64,
}

/// An override that a sender asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A person shall answer.
    Human,
    /// Another model shall.
    Fallback,
    /// This rule's text shall be the answer.
    Canned(String),
    /// No rule shall hold but mandatory ones. For operators.
    Bypass,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The model.
    Model,
    /// This is the answer.
    Canned(String),
    /// The first of these that can.
    Fallback {
        /// By their names.
        models: Vec<String>,
        /// Only as long as the model that was asked for fails.
        on_errors: bool,
    },
    /// A person.
    Human {
        /// How long they have.
        deadline: Duration,
        /// What is answered when nobody did by then.
        text: String,
    },
    /// Nobody: its sender is told this.
    Stop(String),
}

impl Asked {
    /// Reads the header's value.
    ///
    /// # Errors
    /// [`RolloutError::Invalid`].
    pub fn parse(value: &str) -> Result<Asked, RolloutError> {
        match value {
            "human" => Ok(Asked::Human),
            "fallback" => Ok(Asked::Fallback),
            "bypass" => Ok(Asked::Bypass),
            other => match other.strip_prefix("canned:").filter(|name| !name.is_empty()) {
                Some(name) => Ok(Asked::Canned(name.to_owned())),
                None => {
                    let wanted = "human, fallback, bypass or canned:NAME";
                    Err(RolloutError::invalid("x-lastmile-override", format!("{other:?}"), wanted))
                }
            },
        }
    }
}

impl Policy {
    /// Compiles rules with the times at which they end, in Unix milliseconds.
    ///
    /// # Errors
    /// The first rule that cannot be compiled.
    pub fn compile<'a>(
        rules: impl IntoIterator<Item = (&'a Rule, i64)>,
        operator: Operator,
    ) -> Result<Policy, RolloutError> {
        let mut sorted: Vec<(&Rule, i64)> = rules.into_iter().collect();
        sorted.sort_by(|(a, _), (b, _)| {
            (b.mandatory, b.priority).cmp(&(a.mandatory, a.priority)).then_with(|| a.id.cmp(&b.id))
        });
        let compiled = sorted.into_iter().map(|(rule, expires_at_ms)| {
            Ok(Compiled {
                id: rule.id.as_str().into(),
                mandatory: rule.mandatory,
                expires_at_ms,
                condition: Condition::compile(&rule.when)?,
                effect: effect(rule)?,
            })
        });
        let rules = compiled.collect::<Result<Vec<_>, RolloutError>>()?;
        let n_bans = |rule: &Compiled| match &rule.effect {
            Effect::Ban(bans) => bans.len(),
            _ => 0,
        };
        let n: usize = rules.iter().map(n_bans).sum();
        if n > MAX_BANS {
            let wanted = format!("at most {MAX_BANS} in all published rules");
            return Err(RolloutError::invalid("then.phrases", n, wanted));
        }
        Ok(Policy { rules: rules.into(), operator, output: Mutex::default() })
    }

    /// The same rules under other switches; nothing is compiled.
    #[must_use]
    pub fn with_operator(&self, operator: Operator) -> Policy {
        Policy { rules: Arc::clone(&self.rules), operator, output: Mutex::default() }
    }

    /// The operator's switches.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Whether a route answers nothing.
    #[must_use]
    pub fn is_killed(&self, route: &str) -> bool {
        self.operator.killed.iter().any(|killed| killed == route)
    }

    /// What becomes of a request.
    ///
    /// # Errors
    /// [`RolloutError::Unknown`] when its sender asks for what no rule offers.
    pub fn route(&self, request: &GenerateRequest, via: Via<'_>) -> Result<Route, RolloutError> {
        self.decide(&Subject::coming(request, via.model), via, request.constraint.is_some())
    }

    pub(crate) fn decide(
        &self,
        subject: &Subject<'_>,
        via: Via<'_>,
        has_form: bool,
    ) -> Result<Route, RolloutError> {
        let mut route = Route::untouched();
        let mut bans = Vec::new();
        let bypasses = via.asked == Some(&Asked::Bypass);
        // Mandatory rules come first, so that what users ask for is decided between them and the others.
        let n_mandatory = self.rules.partition_point(|rule| rule.mandatory);
        let (mandatory, others) = self.rules.split_at(n_mandatory);
        let holds = |rule: &&Compiled| {
            via.now_ms < rule.expires_at_ms
                && !rule.condition.asked
                && rule.condition.holds(subject)
        };
        let is_pinned = self.operator.pin.is_some();
        let given = Given { has_form, answer: subject.answer, is_pinned };
        mandatory.iter().filter(holds).for_each(|rule| route.apply(rule, &mut bans, given));
        if let Some(asked) = via.asked
            && route.by.is_none()
        {
            self.serve(asked, subject, via.now_ms, &mut route)?;
        }
        if !bypasses {
            others.iter().filter(holds).for_each(|rule| route.apply(rule, &mut bans, given));
        }
        if !bans.is_empty() {
            route.guard(self.output(&bans), subject);
        }
        Ok(route)
    }

    /// What lists of phrases forbid together: made once for the requests that the same rules are about.
    fn output(&self, bans: &[&[Ban]]) -> Arc<OutputRules> {
        let places: Vec<usize> = bans.iter().map(|bans| bans.as_ptr().addr()).collect();
        let last = || self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, output)) = &*last()
            && *of == places
        {
            return Arc::clone(output);
        }
        let output = Arc::new(OutputRules::new(bans.concat()));
        *last() = Some((places, Arc::clone(&output)));
        output
    }

    /// What a sender asked for, by the first rule that offers it.
    fn serve(
        &self,
        asked: &Asked,
        subject: &Subject<'_>,
        now_ms: i64,
        route: &mut Route,
    ) -> Result<(), RolloutError> {
        let live = self.rules.iter().filter(|rule| now_ms < rule.expires_at_ms);
        let offers = |wanted: fn(&Way) -> bool| {
            let mut found = live.clone().filter(|rule| rule.condition.holds(subject));
            found.find_map(|rule| match &rule.effect {
                Effect::Way(way) if wanted(way) => Some((Some(Arc::clone(&rule.id)), way.clone())),
                _ => None,
            })
        };
        let unknown = |what, id: &str| RolloutError::Unknown { what, id: id.to_owned() };
        let (by, way) = match asked {
            Asked::Bypass => return Ok(()),
            Asked::Fallback if self.operator.pin.is_some() => {
                let note = "the fallback that was asked for was not used: a model is pinned";
                route.notes.push(note.to_owned());
                return Ok(());
            }
            Asked::Human => offers(|way| matches!(way, Way::Human { .. })).unwrap_or_else(|| {
                (None, Way::Human { deadline: HAND_OFF, text: NOBODY.to_owned() })
            }),
            Asked::Fallback => match offers(|way| matches!(way, Way::Fallback { .. })) {
                Some((by, Way::Fallback { models, .. })) => {
                    (by, Way::Fallback { models, on_errors: false })
                }
                _ => return Err(unknown("published rule with the action", "fallback")),
            },
            Asked::Canned(name) => {
                let named = |rule: &&Compiled| *rule.id == **name && rule.condition.holds(subject);
                let found = live.clone().filter(named).find_map(|rule| match &rule.effect {
                    Effect::Way(way @ Way::Canned(_)) => {
                        Some((Some(Arc::clone(&rule.id)), way.clone()))
                    }
                    _ => None,
                });
                found.ok_or_else(|| unknown("published canned answer", name))?
            }
        };
        let rule = by.clone().unwrap_or_else(|| "user".into());
        route.hits.push(RuleHit { rule: Arc::clone(&rule), action: word(&way) });
        (route.way, route.by) = (way, Some(rule));
        Ok(())
    }
}

fn effect(rule: &Rule) -> Result<Effect, RolloutError> {
    Ok(match &rule.then {
        Action::Ban { phrases, ignore_case, on_hit, text } => {
            let then = match on_hit {
                OnHitWord::Stop => OnHit::Stop,
                OnHitWord::Replace => OnHit::Replace(text.clone().unwrap_or_default()),
                OnHitWord::Resubmit => OnHit::Resubmit,
            };
            let ban = |phrase: &String| Ban {
                rule: rule.id.as_str().into(),
                phrase: phrase.clone(),
                ignore_case: *ignore_case,
                then: then.clone(),
            };
            Effect::Ban(phrases.iter().map(ban).collect())
        }
        Action::Prefix { text } => Effect::Prefix(text.clone()),
        Action::Schema { schema } => Effect::Schema(schema.to_string()),
        Action::Canned { text } => Effect::Way(Way::Canned(text.clone())),
        Action::Fallback { models, only } => Effect::Way(Way::Fallback {
            models: models.clone(),
            on_errors: *only == FallbackWhen::Errors,
        }),
        Action::Human { deadline, text } => {
            let seconds = span_s("then.deadline", deadline, i64::MAX)?;
            let deadline = Duration::from_secs(seconds.cast_unsigned());
            Effect::Way(Way::Human { deadline, text: text.clone() })
        }
        Action::Stop { text } => Effect::Way(Way::Stop(text.clone())),
    })
}

pub(crate) fn word(way: &Way) -> &'static str {
    match way {
        Way::Model => "model",
        Way::Canned(_) => "canned",
        Way::Fallback { .. } => "fallback",
        Way::Human { .. } => "human",
        Way::Stop(_) => "stop",
    }
}
