//! What the evidence says of an experiment, and what follows from it.
//!
//! It must never say more than the intervals do.
//!
//! Start reading at [`Report::of`].

use std::fmt::{self, Display, Formatter};

use lm_evidence::{Interval, Sketch};
use serde::Serialize;

use crate::advice::advise;
use crate::tally::Evidence;
use crate::{Advice, Experiment, Guardrail, Metric, Spec, Stage, Status, Tally};

/// How often a sample ratio may be called wrong without reason.
pub(crate) const RATIO_ALPHA: f64 = 0.01;
/// Stages that compare two arms: latencies are weighed in each anew, and their errors add up.
const N_STAGES: f64 = 5.0;

/// What is known of an experiment, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// How many get the candidate.
    pub stage: Stage,
    /// The candidate's share of units in this stage, in percent.
    pub percent: u8,
    /// Whether it goes on.
    pub status: Status,
    /// Why it is where it is.
    pub why: String,
    /// Since when, in Unix milliseconds.
    pub stage_at_ms: i64,
    /// Answers of the primary.
    pub n_primary: u64,
    /// Answers of the candidate.
    pub n_candidate: u64,
    /// Answers of the candidate in this stage, copies included.
    pub n_stage: u64,
    /// What is to get better.
    pub metric: Metric,
    /// Its mean for the primary; `None` of nothing.
    pub primary: Option<f64>,
    /// Its mean for the candidate; `None` of nothing.
    pub candidate: Option<f64>,
    /// The lower end of the interval of candidate less primary.
    pub gain_low: f64,
    /// Its upper end.
    pub gain_high: f64,
    /// What must not get worse.
    pub guardrails: Vec<GuardReport>,
    /// CPU seconds of an answer of this stage, at the median: primary and candidate.
    pub cpu_seconds_p50: [Option<f64>; 2],
    /// How many times the primary's that is for the candidate: the lower end of its interval.
    pub cpu_ratio_low: f64,
    /// Its upper end; `None` is without end.
    pub cpu_ratio_high: Option<f64>,
    /// Units that were seen: primary and candidate.
    pub units: [u64; 2],
    /// Candidate's units that were to be expected.
    pub units_expected: f64,
    /// Whether units were lost on one side.
    pub sample_ratio_mismatch: bool,
    /// Whether people judge the answers of one arm more often than the other's, so that who judges was not drawn.
    pub ratings_mismatch: bool,
    /// Copies in idle slots.
    pub shadow: ShadowReport,
    /// What follows.
    pub advice: Advice,
}

/// What is known of one guardrail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardReport {
    /// The limit, in words.
    pub limit: String,
    /// Where it is for the primary: a mean, or an estimate of the quantile.
    pub primary: Option<f64>,
    /// And for the candidate.
    pub candidate: Option<f64>,
    /// The lower end of the interval that is held against the limit.
    pub low: Option<f64>,
    /// Its upper end; `None` is without end.
    pub high: Option<f64>,
    /// Whether the interval excludes the limit on the bad side.
    pub is_broken: bool,
}

/// Copies that the candidate answered, beside what the primary answered. Taken when slots were idle, and so not by lot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShadowReport {
    /// How many.
    pub n: u64,
    /// Word for word the same.
    pub same: u64,
    /// Those of which the goal is known for both.
    pub judged: u64,
    /// The goal's mean for primary and candidate.
    pub goal: [Option<f64>; 2],
    /// Tokens of a mean answer.
    pub tokens: [Option<f64>; 2],
    /// Until its end, at the median.
    pub e2e_ms_p50: [Option<f64>; 2],
}

impl Report {
    /// Weighs a tally.
    #[must_use]
    pub fn of(experiment: &Experiment, tally: &Tally) -> Report {
        let spec = &experiment.spec;
        let gain = tally.goal.interval(spec.alphas().0);
        let (n, means) = (tally.goal.n(), tally.goal.means());
        let guardrails: Vec<GuardReport> = spec
            .guardrails
            .iter()
            .zip(&tally.guardrails)
            .map(|(guardrail, evidence)| weigh(guardrail, evidence, alpha_of(spec, guardrail)))
            .collect();
        let units = tally.ratio.n();
        let [primary, candidate] = &tally.cost;
        let cost = ratio_of(primary, candidate, 0.5, spec.alpha);
        let mut report = Report {
            name: spec.name.clone(),
            stage: experiment.stage,
            percent: spec.percent_at(experiment.stage),
            status: experiment.status,
            why: experiment.why.clone(),
            stage_at_ms: experiment.stage_at_ms,
            n_primary: tally.n[0],
            n_candidate: tally.n[1],
            n_stage: tally.n_stage,
            metric: spec.goal.metric,
            primary: (n.0 > 0).then_some(means.0),
            candidate: (n.1 > 0).then_some(means.1),
            gain_low: gain.low,
            gain_high: gain.high,
            guardrails,
            cpu_seconds_p50: tally.cost.each_ref().map(|arm| arm.quantile(0.5)),
            cpu_ratio_low: cost.low,
            cpu_ratio_high: cost.high.is_finite().then_some(cost.high),
            units: [units.0, units.1],
            units_expected: tally.ratio.expected(),
            sample_ratio_mismatch: tally.ratio.is_off(RATIO_ALPHA),
            ratings_mismatch: tally.rated.iter().any(|(_, ratio)| ratio.is_off(RATIO_ALPHA)),
            shadow: ShadowReport::of(tally),
            advice: Advice::Hold { why: String::new() },
        };
        report.advice = advise(&report, spec, tally);
        report
    }
}

impl ShadowReport {
    fn of(tally: &Tally) -> ShadowReport {
        let shadow = &tally.shadow;
        let mean = |sum: f64, n: u64| (n > 0).then(|| sum / n as f64);
        ShadowReport {
            n: shadow.n,
            same: shadow.same,
            judged: shadow.judged,
            goal: shadow.good.map(|sum| mean(sum, shadow.judged)),
            tokens: shadow.tokens.map(|sum| mean(sum as f64, shadow.n)),
            e2e_ms_p50: shadow.e2e_ms.each_ref().map(|arm| arm.quantile(0.5)),
        }
    }
}

/// How often the interval of a guardrail may be wrong.
pub(crate) fn alpha_of(spec: &Spec, guardrail: &Guardrail) -> f64 {
    let n_looks = if guardrail.metric.is_bounded() { 1.0 } else { N_STAGES };
    spec.alphas().1 / n_looks
}

/// Whether the evidence excludes the limit on the bad side.
pub(crate) fn is_broken(guardrail: &Guardrail, evidence: &Evidence, alpha: f64) -> bool {
    match evidence {
        Evidence::Rate(difference) => {
            difference.is_below(-guardrail.max_loss.unwrap_or(1.0), alpha)
        }
        Evidence::Quantile(arms) => {
            let (found, most) = held_against(guardrail, arms, alpha);
            found.low > most
        }
    }
}

/// The interval that is held against a limit of a latency or cost, and the limit.
fn held_against(guardrail: &Guardrail, arms: &[Sketch; 2], alpha: f64) -> (Interval, f64) {
    let ([primary, candidate], q) = (arms, guardrail.quantile.unwrap_or(0.5));
    match (guardrail.max, guardrail.max_ratio) {
        (Some(max), _) => (candidate.interval(q, alpha), max),
        (None, ratio) => (ratio_of(primary, candidate, q, alpha), ratio.unwrap_or(f64::MAX)),
    }
}

fn weigh(guardrail: &Guardrail, evidence: &Evidence, alpha: f64) -> GuardReport {
    let limit = guardrail.to_string();
    let is_broken = is_broken(guardrail, evidence, alpha);
    match evidence {
        Evidence::Rate(difference) => {
            let Interval { low, high } = difference.interval(alpha);
            let (n, means) = (difference.n(), difference.means());
            GuardReport {
                limit,
                primary: (n.0 > 0).then_some(means.0),
                candidate: (n.1 > 0).then_some(means.1),
                low: Some(low),
                high: Some(high),
                is_broken,
            }
        }
        Evidence::Quantile(arms) => {
            let q = guardrail.quantile.unwrap_or(0.5);
            let (found, _) = held_against(guardrail, arms, alpha);
            GuardReport {
                limit,
                primary: arms[0].quantile(q),
                candidate: arms[1].quantile(q),
                low: Some(found.low),
                high: found.high.is_finite().then_some(found.high),
                is_broken,
            }
        }
    }
}

/// Candidate by primary; each of the two holds with half of the error.
pub(crate) fn ratio_of(primary: &Sketch, candidate: &Sketch, q: f64, alpha: f64) -> Interval {
    let primary = primary.interval(q, alpha / 2.0);
    let candidate = candidate.interval(q, alpha / 2.0);
    Interval {
        low: if primary.high.is_finite() { candidate.low / primary.high } else { 0.0 },
        high: if primary.low > 0.0 { candidate.high / primary.low } else { f64::INFINITY },
    }
}

impl Display for Guardrail {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let metric = self.metric.as_str();
        let p = 100.0 * self.quantile.unwrap_or_default();
        match (self.max_loss, self.max_ratio, self.max) {
            (Some(loss), _, _) => write!(f, "{metric} at most {:.1} points lower", 100.0 * loss),
            (_, Some(ratio), _) => write!(f, "{metric} p{p} at most {ratio} times as much"),
            (_, _, max) => write!(f, "{metric} p{p} at most {}", max.unwrap_or_default()),
        }
    }
}

impl Display for GuardReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or("?".to_owned(), |v| format!("{v:.3}"));
        let (primary, candidate) = (number(self.primary), number(self.candidate));
        let (low, high) = (number(self.low), number(self.high));
        let word = if self.is_broken { "broken" } else { "holds" };
        write!(f, "{word}: {} ({candidate} against {primary}; {low} to {high})", self.limit)
    }
}
