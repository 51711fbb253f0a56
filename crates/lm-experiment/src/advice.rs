//! What follows from the evidence of an experiment.
//!
//! It must never weigh anything: the report has.
//!
//! Start reading at [`advise`].

use serde::Serialize;

use crate::{Metric, Report, Spec, Stage, Tally};

/// A candidate that takes so many times the primary's CPU seconds is costlier, whatever its owner calls it.
const COSTLIER: f64 = 1.5;

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

/// What follows. `report` is all but done: its advice is this one.
pub(crate) fn advise(report: &Report, spec: &Spec, tally: &Tally) -> Advice {
    // Opinions of those who were not drawn say nothing, in either direction.
    let counts = |metric: Metric| !tally.is_lopsided(metric);
    let guardrails = spec.guardrails.iter().zip(&report.guardrails);
    let mut broken = guardrails.filter(|(of, found)| found.is_broken && counts(of.metric));
    if let Some((_, broken)) = broken.next() {
        return Advice::Rollback { why: broken.to_string() };
    }
    let (alpha, gain) = (spec.alphas().0, gain_text(report));
    if counts(spec.goal.metric) && tally.goal.is_below(-spec.goal.min_gain, alpha) {
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
    if let Some((metric, ratio)) = tally.rated.iter().find(|(metric, _)| !counts(*metric)) {
        let ((primary, candidate), expected) = (ratio.n(), ratio.expected());
        let why = format!(
            "{}: {candidate} of the {} units that said something are the candidate's, and {expected:.1} were to be \
             expected; what they say decides nothing",
            metric.as_str(),
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

/// Whether the candidate may take the primary's place. What it costs is known by an interval, as all else: one look at two
/// medians is right by chance.
fn last_step(report: &Report, spec: &Spec, tally: &Tally, gain: &str) -> Advice {
    let (alpha, least) = (spec.alphas().0, spec.goal.min_gain);
    let most = report.cpu_ratio_high.unwrap_or(f64::INFINITY);
    if !spec.is_costlier() && most <= COSTLIER {
        // As good within the same margin is good enough for what costs no more.
        return match tally.goal.is_above(-least, alpha) {
            true => Advice::Promote { why: format!("as good as the primary: {gain}") },
            false => {
                let points = -100.0 * least;
                Advice::Hold { why: format!("not known to be above {points:+.1} points: {gain}") }
            }
        };
    }
    let cost = cost_text(report);
    if !tally.goal.is_above(least, alpha) {
        let (points, to) = (100.0 * least, spec.candidate.tier.as_str());
        let what = match spec.is_costlier() {
            true => format!("{to} after {} is costlier", spec.primary.tier.as_str()),
            false if report.cpu_ratio_low > COSTLIER => format!("{cost}, which is costlier"),
            false => format!("not known to be no costlier than {COSTLIER} times: {cost}"),
        };
        let why = format!("{what}; it must gain {points:.1} points at the lower end: {gain}");
        return Advice::Hold { why };
    }
    let limit = spec.budget.max_cost_ratio;
    match report.cpu_seconds_p50 {
        [Some(_), Some(_)] if most <= limit => {
            Advice::Promote { why: format!("{gain}; {cost} (at most {limit})") }
        }
        [Some(_), Some(_)] => Advice::Hold { why: format!("{cost}, and may take {limit}; {gain}") },
        _ => Advice::Hold { why: "what an answer costs is not known of both arms".to_owned() },
    }
}

fn cost_text(report: &Report) -> String {
    let seconds = |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.4}"));
    let high = report.cpu_ratio_high.map_or("?".to_owned(), |high| format!("{high:.2}"));
    let [primary, candidate] = report.cpu_seconds_p50.map(seconds);
    let low = report.cpu_ratio_low;
    format!(
        "an answer takes {low:.2} to {high} times the primary's CPU seconds ({candidate} and {primary} at the median)"
    )
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
