//! What is known of an experiment: plain sums and counts, which are its whole evidence.
//!
//! It must never see an answer twice, nor know where answers come from.
//!
//! Start reading at [`Tally::see`].

use lm_evidence::{Difference, SampleRatio, Sketch};
use lm_types::Arm;
use serde::{Deserialize, Serialize};

use crate::Spec;

/// What is known of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers of the primary and of the candidate, in all stages with both.
    pub n: [u64; 2],
    /// Answers of the candidate since the stage began.
    pub n_stage: u64,
    pub(crate) goal: Difference,
    pub(crate) guardrails: Vec<Evidence>,
    /// CPU seconds of an answer.
    pub(crate) cost: [Sketch; 2],
    pub(crate) ratio: SampleRatio,
    /// Copies that the candidate answered, beside what the primary answered.
    pub(crate) shadow: Pairs,
}

/// What is known of one guardrail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Evidence {
    Rate(Box<Difference>),
    Quantile([Sketch; 2]),
}

/// The same requests, answered by both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pairs {
    pub(crate) n: u64,
    /// Word for word the same.
    pub(crate) same: u64,
    /// Where the goal is known of both: how many, and the good ones of primary and candidate.
    pub(crate) judged: u64,
    pub(crate) good: [f64; 2],
    /// Tokens of the answers.
    pub(crate) tokens: [u64; 2],
    pub(crate) e2e_ms: [Sketch; 2],
}

impl Tally {
    pub(crate) fn new(spec: &Spec) -> Tally {
        let empty = |guardrail: &crate::Guardrail| match guardrail.metric.is_bounded() {
            true => Evidence::Rate(Box::default()),
            false => Evidence::Quantile([Sketch::default(), Sketch::default()]),
        };
        Tally { guardrails: spec.guardrails.iter().map(empty).collect(), ..Tally::default() }
    }

    /// A unit that was never seen before. Nobody is drawn when everybody gets the same.
    pub(crate) fn see_unit(&mut self, arm: Arm, percent: u8) {
        if is_drawn(percent) {
            self.ratio.add(f64::from(percent) / 100.0, arm == Arm::Candidate);
        }
    }

    /// An answer of the primary or of the candidate that ended.
    pub(crate) fn see(&mut self, arm: Arm, percent: u8, cpu_seconds: Option<f64>) {
        let side = usize::from(arm == Arm::Candidate);
        self.n[side] += 1;
        self.n_stage += side as u64;
        if let Some(cpu_seconds) = cpu_seconds.filter(|_| is_drawn(percent)) {
            self.cost[side].add(cpu_seconds);
        }
    }

    /// What an answer has of the goal.
    pub(crate) fn see_goal(&mut self, arm: Arm, percent: u8, value: f64) {
        add(&mut self.goal, arm, percent, value);
    }

    /// What an answer has of a guardrail.
    pub(crate) fn see_guardrail(&mut self, index: usize, arm: Arm, percent: u8, value: f64) {
        match self.guardrails.get_mut(index) {
            Some(Evidence::Rate(difference)) => add(difference, arm, percent, value),
            // When everybody has the candidate, there is nobody to compare with, but limits still hold.
            Some(Evidence::Quantile(arms)) => arms[usize::from(arm == Arm::Candidate)].add(value),
            None => {}
        }
    }
}

fn add(difference: &mut Difference, arm: Arm, percent: u8, value: f64) {
    if is_drawn(percent) {
        let share = f64::from(percent) / 100.0;
        difference.add(arm == Arm::Candidate, share, value.clamp(0.0, 1.0));
    }
}

fn is_drawn(percent: u8) -> bool {
    (1..100).contains(&percent)
}
