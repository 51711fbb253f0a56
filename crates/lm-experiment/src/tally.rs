//! What is known of an experiment: plain sums and counts, which are its whole evidence.
//!
//! It must never see an answer twice, nor know where answers come from.
//!
//! All is of units, of which each counts once: a rate in all stages together, a latency or cost in each stage anew.
//!
//! Start reading at [`Tally::see`].

use lm_evidence::{Difference, SampleRatio, Sketch};
use lm_types::{Arm, ArmTag};
use serde::{Deserialize, Serialize};

use crate::report::RATIO_ALPHA;
use crate::{Metric, Spec};

/// What is known of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers of the primary and of the candidate, in all stages with both.
    pub n: [u64; 2],
    /// Answers of the candidate since the stage began.
    pub n_stage: u64,
    pub(crate) goal: Difference,
    pub(crate) guardrails: Vec<Evidence>,
    /// CPU seconds of an answer, in this stage.
    pub(crate) cost: [Sketch; 2],
    pub(crate) ratio: SampleRatio,
    /// Units that people judged, by what they gave.
    #[serde(default)]
    pub(crate) rated: Vec<(Metric, SampleRatio)>,
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

    /// An answer of the primary or of the candidate that ended, in this stage when it `is_now`.
    pub(crate) fn see(&mut self, tag: &ArmTag, is_now: bool) {
        let side = usize::from(tag.arm == Arm::Candidate);
        self.n[side] += 1;
        if is_now {
            self.n_stage += side as u64;
        }
    }

    /// What an answer of this stage has of each latency and cost. Units are drawn, and answers of one resemble each other:
    /// only the first that has a value counts, by what `is_first` says of the unit and these words. Where nobody is drawn
    /// each answer counts.
    pub(crate) fn see_sizes<E>(
        &mut self,
        spec: &Spec,
        tag: &ArmTag,
        value: impl Fn(Metric) -> Option<f64>,
        mut is_first: impl FnMut(&str) -> Result<bool, E>,
    ) -> Result<(), E> {
        for metric in Metric::SIZES {
            let is_wanted = metric == Metric::CpuSeconds
                || spec.guardrails.iter().any(|guardrail| guardrail.metric == metric);
            let Some(value) = value(metric).filter(|_| is_wanted) else { continue };
            let words = format!("{} at {} %", metric.as_str(), tag.percent);
            if is_drawn(tag.percent) && !is_first(&words)? {
                continue;
            }
            if metric == Metric::CpuSeconds {
                self.see_cost(tag.arm, value);
            }
            for (i, guardrail) in spec.guardrails.iter().enumerate() {
                if guardrail.metric == metric {
                    self.see_quantile(i, tag.arm, value);
                }
            }
        }
        Ok(())
    }

    /// CPU seconds of an answer of this stage.
    pub(crate) fn see_cost(&mut self, arm: Arm, cpu_seconds: f64) {
        self.cost[usize::from(arm == Arm::Candidate)].add(cpu_seconds);
    }

    /// What a unit has of a rate or score. Nobody is drawn when everybody gets the same.
    pub(crate) fn see_value(&mut self, spec: &Spec, tag: &ArmTag, metric: Metric, value: f64) {
        let (arm, percent) = (tag.arm, tag.percent);
        if !is_drawn(percent) {
            return;
        }
        if metric.is_feedback() {
            let (share, is_candidate) = (f64::from(percent) / 100.0, arm == Arm::Candidate);
            match self.rated.iter_mut().find(|(of, _)| *of == metric) {
                Some((_, ratio)) => ratio.add(share, is_candidate),
                None => {
                    let mut ratio = SampleRatio::default();
                    ratio.add(share, is_candidate);
                    self.rated.push((metric, ratio));
                }
            }
        }
        if spec.goal.metric == metric {
            self.see_goal(arm, percent, value);
        }
        for (i, guardrail) in spec.guardrails.iter().enumerate() {
            if guardrail.metric == metric {
                self.see_rate(i, arm, percent, value);
            }
        }
    }

    /// Whether one arm is judged more often than the lot alone would make it: then those who judge were not drawn.
    pub(crate) fn is_lopsided(&self, metric: Metric) -> bool {
        let rated = self.rated.iter().find(|(of, _)| *of == metric);
        rated.is_some_and(|(_, ratio)| ratio.is_off(RATIO_ALPHA))
    }

    /// What a unit has of the goal.
    pub(crate) fn see_goal(&mut self, arm: Arm, percent: u8, value: f64) {
        add(&mut self.goal, arm, percent, value);
    }

    /// What a unit has of a guardrail of a rate.
    pub(crate) fn see_rate(&mut self, index: usize, arm: Arm, percent: u8, value: f64) {
        if let Some(Evidence::Rate(difference)) = self.guardrails.get_mut(index) {
            add(difference, arm, percent, value);
        }
    }

    /// What a unit has of a guardrail of a latency or cost in this stage.
    pub(crate) fn see_quantile(&mut self, index: usize, arm: Arm, value: f64) {
        if let Some(Evidence::Quantile(arms)) = self.guardrails.get_mut(index) {
            arms[usize::from(arm == Arm::Candidate)].add(value);
        }
    }

    /// Another stage begins. Latencies and costs of another share at another time are not those of this one: pooled, a
    /// busy hour in a late stage would look like the candidate's.
    pub(crate) fn begin_stage(&mut self) {
        self.n_stage = 0;
        self.cost = [Sketch::default(), Sketch::default()];
        for evidence in &mut self.guardrails {
            if let Evidence::Quantile(arms) = evidence {
                *arms = [Sketch::default(), Sketch::default()];
            }
        }
    }
}

fn add(difference: &mut Difference, arm: Arm, percent: u8, value: f64) {
    if is_drawn(percent) {
        let share = f64::from(percent) / 100.0;
        difference.add(arm == Arm::Candidate, share, value.clamp(0.0, 1.0));
    }
}

pub(crate) fn is_drawn(percent: u8) -> bool {
    (1..100).contains(&percent)
}
