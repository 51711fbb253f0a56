//! How a request came, and what overrides do to its answers.

use std::sync::Arc;

use crate::{OutputRules, Prompt, RequestId, TraceParent};

/// How a request came, and what overrides do to its answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// The route that it came by, such as `/v1/chat/completions`; empty within a program.
    pub route: &'static str,
    /// The override that its sender asked for.
    pub asked: Option<String>,
    /// Its answers begin with this text, which no token is drawn for.
    pub opening: String,
    /// What its answers must not hold.
    pub rules: Option<Arc<OutputRules>>,
    /// The end of the text that its answers go on with: a phrase that begins there must not end in them.
    pub before: String,
    /// Rules that were applied before it was admitted.
    pub hits: Vec<RuleHit>,
    /// The experiment that it is part of.
    pub arm: Option<Arc<ArmTag>>,
    /// What rules read in the place of a prompt that is tokens.
    pub read_as: Option<Arc<ReadAs>>,
    /// It computes a recorded answer again: what it takes is counted, but it is nobody's request.
    pub again: bool,
    /// Where its sender's trace stands.
    pub trace: Option<TraceParent>,
}

/// What rules read in the place of a prompt that is tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAs {
    /// What the tokens say; where an answer is edited, the prompt that was answered.
    pub prompt: Prompt,
    /// What users wrote into the answer, edit by edit; empty where nothing was edited.
    pub changes: Vec<String>,
    /// The route that the edited answer came by; empty where nothing was edited.
    pub route: String,
    /// The answer as far as it stays, with the last change; empty where nothing was edited.
    pub answer: String,
}

/// A request's place in an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArmTag {
    /// The experiment's name.
    pub experiment: String,
    /// Which side answers.
    pub arm: Arm,
    /// A salted hash of the unit that keeps to its arm.
    pub unit: String,
    /// The candidate's share when it was assigned, in percent.
    pub percent: u8,
    /// The digest of what answers: model, system prompt and parameters.
    pub variant: String,
    /// The request that a shadow is a copy of.
    pub shadow_of: Option<RequestId>,
}

/// A side of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arm {
    /// What answered before.
    Primary,
    /// What may answer from now on.
    Candidate,
    /// The candidate again, for a copy of a request that the primary answered.
    Shadow,
}

impl Arm {
    /// A stable word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Arm::Primary => "primary",
            Arm::Candidate => "candidate",
            Arm::Shadow => "shadow",
        }
    }

    /// By its stable word.
    #[must_use]
    pub fn of(word: &str) -> Option<Arm> {
        [Arm::Primary, Arm::Candidate, Arm::Shadow].into_iter().find(|arm| arm.as_str() == word)
    }
}

/// A rule that changed something about an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleHit {
    /// The rule's id.
    pub rule: Arc<str>,
    /// What it did, in a stable word.
    pub action: &'static str,
}
