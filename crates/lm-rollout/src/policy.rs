//! What becomes of a request: by the operator first, then by its sender, then by rules; what is left is the model's.
//!
//! It must never read a file or wait: it is asked on the way of every request.
//!
//! Start reading at [`Policy::route`].

use std::sync::Arc;
use std::time::Duration;

use lm_types::{Ban, GenerateRequest, OnHit, OutputRules, RuleHit};
use serde::{Deserialize, Serialize};

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
    rules: Vec<Compiled>,
    operator: Operator,
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
struct Compiled {
    id: Arc<str>,
    mandatory: bool,
    expires_at_ms: i64,
    condition: Condition,
    effect: Effect,
}

#[derive(Debug)]
enum Effect {
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

/// What of an answer is given before any rule.
#[derive(Clone, Copy, Debug)]
struct Given<'a> {
    /// A form was asked for.
    has_form: bool,
    /// The answer that it goes on with.
    answer: &'a str,
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
    /// The rules that hold, but for those that wait for a phrase.
    pub hits: Vec<RuleHit>,
    /// What was not applied, and why.
    pub notes: Vec<String>,
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
        Ok(Policy { rules, operator })
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
        let given = Given { has_form, answer: subject.answer };
        mandatory.iter().filter(holds).for_each(|rule| route.apply(rule, &mut bans, given));
        if let Some(asked) = via.asked
            && route.by.is_none()
        {
            self.serve(asked, subject, via.now_ms, &mut route)?;
        }
        if !bypasses {
            others.iter().filter(holds).for_each(|rule| route.apply(rule, &mut bans, given));
        }
        route.output = (!bans.is_empty()).then(|| Arc::new(OutputRules { bans }));
        Ok(route)
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

impl Route {
    fn untouched() -> Self {
        Route {
            way: Way::Model,
            by: None,
            opening: String::new(),
            schema: None,
            output: None,
            hits: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Of several rules of one kind the first holds; phrases add up.
    fn apply(&mut self, rule: &Compiled, bans: &mut Vec<Ban>, given: Given<'_>) {
        let hindered = self.hindered(rule, given);
        let action = match &rule.effect {
            Effect::Ban(more) => return bans.extend(more.iter().cloned()),
            // An edited answer that begins as it should is as it should be.
            Effect::Prefix(text) if !text.is_empty() && given.answer.starts_with(text) => return,
            _ if hindered.is_some() && !(rule.mandatory && self.by.is_none()) => {
                let why = hindered.unwrap_or_default();
                return self.notes.push(format!("rule {} was not applied: {why}", rule.id));
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

    /// Why a rule that begins or forms answers cannot be applied, if it cannot.
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
            Effect::Schema(_) if !self.opening.is_empty() => {
                Some("the answer's beginning is given")
            }
            _ => None,
        }
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

fn word(way: &Way) -> &'static str {
    match way {
        Way::Model => "model",
        Way::Canned(_) => "canned",
        Way::Fallback { .. } => "fallback",
        Way::Human { .. } => "human",
        Way::Stop(_) => "stop",
    }
}
