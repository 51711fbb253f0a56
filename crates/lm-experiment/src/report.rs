//! What the evidence says of an experiment, and what follows from it.
//!
//! It must never say more than the intervals do.
//!
//! Start reading at [`Report::of`].

use std::fmt::{self, Display, Formatter};

use lm_evidence::{Interval, Sketch};
use serde::Serialize;

use crate::tally::Evidence;
use crate::{Experiment, Guardrail, Metric, Spec, Stage, Status, Tally};

/// How often a sample ratio may be called wrong without reason.
const RATIO_ALPHA: f64 = 0.01;
/// A candidate that takes so many times the primary's CPU seconds is costlier, whatever its owner calls it.
const COSTLIER: f64 = 1.5;
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
    /// CPU seconds of an answer, at the median: primary and candidate.
    pub cpu_seconds_p50: [Option<f64>; 2],
    /// Units that were seen: primary and candidate.
    pub units: [u64; 2],
    /// Candidate's units that were to be expected.
    pub units_expected: f64,
    /// Whether units were lost on one side.
    pub sample_ratio_mismatch: bool,
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

/// What follows from the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Advice {
    /// Wait.
    Hold {
        /// For what.
        why: String,
    },
    /// Move on.
    Promote {
        /// Why.
        why: String,
    },
    /// Move back.
    Rollback {
        /// Why.
        why: String,
    },
}

impl Advice {
    /// In words.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Advice::Hold { why } | Advice::Promote { why } | Advice::Rollback { why } => why,
        }
    }
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
            units: [units.0, units.1],
            units_expected: tally.ratio.expected(),
            sample_ratio_mismatch: tally.ratio.is_off(RATIO_ALPHA),
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

fn advise(report: &Report, spec: &Spec, tally: &Tally) -> Advice {
    if let Some(broken) = report.guardrails.iter().find(|guardrail| guardrail.is_broken) {
        return Advice::Rollback { why: broken.to_string() };
    }
    let (alpha, gain) = (spec.alphas().0, gain_text(report));
    if tally.goal.is_below(-spec.goal.min_gain, alpha) {
        return Advice::Rollback { why: format!("the candidate is worse: {gain}") };
    }
    if report.sample_ratio_mismatch {
        let ([primary, candidate], expected) = (report.units, report.units_expected);
        let why = format!(
            "sample ratio mismatch: {candidate} of {} units are the candidate's, and {expected:.1} were to be expected",
            primary + candidate
        );
        return Advice::Hold { why };
    }
    let Some(next) = report.stage.next() else {
        return Advice::Hold { why: at_the_end(spec, &gain) };
    };
    if report.n_stage < spec.min_answers {
        let (n, wanted) = (report.n_stage, spec.min_answers);
        return Advice::Hold { why: format!("{n} of {wanted} answers of this stage") };
    }
    if tally.goal.is_below(0.0, alpha) {
        return Advice::Hold { why: format!("the candidate is worse: {gain}") };
    }
    if next < Stage::All {
        return Advice::Promote { why: format!("no guardrail is broken; {gain}") };
    }
    last_step(report, spec, tally, &gain)
}

/// What is still known when there is no stage any more.
fn at_the_end(spec: &Spec, gain: &str) -> String {
    match spec.holdback {
        0 => "everybody has the candidate: rates are compared with nobody any more".to_owned(),
        held => {
            format!("everybody but {held} % has the candidate, and is compared with them: {gain}")
        }
    }
}

/// Whether the candidate may take the primary's place.
fn last_step(report: &Report, spec: &Spec, tally: &Tally, gain: &str) -> Advice {
    let (alpha, least) = (spec.alphas().0, spec.goal.min_gain);
    let (from, to) = (spec.primary.tier.as_str(), spec.candidate.tier.as_str());
    let is_costlier = match report.cpu_seconds_p50 {
        [Some(primary), Some(candidate)] => candidate > COSTLIER * primary,
        _ => false,
    };
    if !spec.is_costlier() && !is_costlier {
        // As good within the same margin is good enough for what costs no more.
        return match tally.goal.is_above(-least, alpha) {
            true => Advice::Promote { why: format!("as good as the primary: {gain}") },
            false => {
                let points = -100.0 * least;
                Advice::Hold { why: format!("not known to be above {points:+.1} points: {gain}") }
            }
        };
    }
    if !tally.goal.is_above(least, alpha) {
        let points = 100.0 * least;
        let what = match spec.is_costlier() {
            true => format!("{to} after {from}"),
            false => format!("an answer of {COSTLIER} times the CPU seconds"),
        };
        let why = format!(
            "{what} is costlier, and must gain {points:.1} points at the lower end: {gain}"
        );
        return Advice::Hold { why };
    }
    let limit = spec.budget.max_cost_ratio;
    match report.cpu_seconds_p50 {
        [Some(primary), Some(candidate)] if candidate <= primary * limit => {
            let ratio = candidate / primary;
            let why = format!("{gain}, for {ratio:.2} times the CPU seconds (at most {limit})");
            Advice::Promote { why }
        }
        [Some(primary), Some(candidate)] => {
            let ratio = candidate / primary;
            let why = format!(
                "an answer takes {ratio:.2} times the primary's CPU seconds ({candidate:.4} and {primary:.4} at the \
                 median), and may take {limit}; {gain}"
            );
            Advice::Hold { why }
        }
        _ => Advice::Hold { why: "what an answer costs is not known of both arms".to_owned() },
    }
}

fn gain_text(report: &Report) -> String {
    let (low, high) = (100.0 * report.gain_low, 100.0 * report.gain_high);
    let mean = |value: Option<f64>| {
        value.map_or("nothing".to_owned(), |value| format!("{:.1} %", 100.0 * value))
    };
    let (metric, primary, candidate) =
        (report.metric.as_str(), mean(report.primary), mean(report.candidate));
    format!("{metric} {candidate} against {primary}, {low:+.1} to {high:+.1} points")
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
fn ratio_of(primary: &Sketch, candidate: &Sketch, q: f64, alpha: f64) -> Interval {
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
