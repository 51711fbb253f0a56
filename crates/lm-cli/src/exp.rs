//! `lastmile exp`: a candidate beside a primary, as far as the evidence carries.

use std::io::Write;

use anyhow::Context;
use lm_ops::{
    Advice, Experiment, ExperimentBook, ExperimentError, ExperimentStatus, Forced, Reader, Report,
    Spec, StoreError, Utc, collect_experiment, now_ms,
};
use serde_json::json;

use crate::doctor::store_path;
use crate::exp_args::{ExpArgs, ExpVerb};
use crate::fix::broken_gate;
use crate::loop_args::AskArgs;
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::overrides::{read, tell, who};

const AUDIT_ENTRIES: u32 = 1000;

/// The file of experiments of a home.
pub(crate) fn experiment_path(home: &std::path::Path) -> std::path::PathBuf {
    home.join("experiments.db")
}

pub(crate) fn experiments(args: &ExpArgs) -> anyhow::Result<Outcome> {
    let mut book = ExperimentBook::open(&experiment_path(home()?.path()))?;
    let (now_ms, who, json) = (now_ms(), who(), args.json);
    let moved = |moved: Result<Experiment, ExperimentError>| {
        let moved = moved.map_err(wrong_use)?;
        tell(json, &moved, || line(&moved))
    };
    match &args.verb {
        ExpVerb::Start { file } => {
            let spec = Spec::parse(&read(file)?).map_err(wrong_use)?;
            moved(book.start(&spec, &who, now_ms))?;
        }
        ExpVerb::List => list(&book, json)?,
        ExpVerb::Status { name } => return status(&mut book, name, now_ms, json),
        ExpVerb::Explain { name } => explain(&mut book, name, now_ms, json)?,
        ExpVerb::Promote { name, force, reason, ask } => {
            let forced = force.then(|| Forced { reason: reason.clone().unwrap_or_default() });
            return promote(&mut book, name, forced.as_ref(), ask, json);
        }
        ExpVerb::Rollback { name, reason } => {
            moved(book.rollback(name, reason, &who, now_ms))?;
        }
        ExpVerb::Stop { name, reason } => moved(book.stop(name, reason, &who, now_ms))?,
        ExpVerb::Prompt { name, file } => {
            let text = read(file)?;
            let kept = book.add_prompt(name, text.trim_end(), &who, now_ms).map_err(wrong_use)?;
            tell(json, &kept, || format!("{}@{}  {}", kept.name, kept.version, kept.digest))?;
        }
        ExpVerb::Prompts => {
            let all = book.prompts()?;
            if json {
                print_json(&all)?;
            }
            for prompt in all.iter().filter(|_| !json) {
                let (name, version, digest) = (&prompt.name, prompt.version, &prompt.digest);
                let short: String = prompt.text.chars().take(100).collect();
                say!(
                    "{name}@{version}  {digest}  {}  {}",
                    prompt.added_by,
                    short.replace('\n', " ")
                );
            }
        }
    }
    Ok(Outcome::Done)
}

fn list(book: &ExperimentBook, json: bool) -> anyhow::Result<()> {
    let all = book.experiments()?;
    if json {
        return print_json(&all);
    }
    if all.is_empty() {
        say!("no experiments: `lastmile exp start FILE` begins one");
    }
    for one in &all {
        say!("{}", line(one));
    }
    Ok(())
}

fn status(
    book: &mut ExperimentBook,
    name: &str,
    now_ms: i64,
    json: bool,
) -> anyhow::Result<Outcome> {
    let report = weighed(book, name, now_ms)?;
    if json {
        print_json(&report)?;
    } else {
        print_report(&report)?;
    }
    let is_bad = report.status == ExperimentStatus::RolledBack
        || matches!(report.advice, Advice::Rollback { .. });
    Ok(if is_bad { Outcome::No } else { Outcome::Done })
}

fn explain(book: &mut ExperimentBook, name: &str, now_ms: i64, json: bool) -> anyhow::Result<()> {
    let report = weighed(book, name, now_ms)?;
    let (spec, points) = (book.experiment(name)?.spec, book.points(name)?);
    let audit = book.audit(Some(name), AUDIT_ENTRIES)?;
    if json {
        return print_json(&json!({
            "report": report, "spec": spec, "points": points, "audit": audit,
        }));
    }
    say!("{}: {} (owner {})\n", spec.name, spec.reason, spec.owner);
    say!("{}", toml::to_string_pretty(&spec).unwrap_or_default());
    for entry in audit.iter().rev().filter(|entry| entry.action != "start") {
        say!("{}  {}  {}  {}", Utc(entry.at_ms), entry.who, entry.action, entry.detail);
    }
    // Some of many are enough to see where it goes.
    let step = points.len().div_ceil(10).max(1);
    for point in points.iter().step_by(step) {
        let (low, high) = (100.0 * point.low, 100.0 * point.high);
        say!("after {:>7} answers  {low:+.1} to {high:+.1} points  {}", point.n, point.stage);
    }
    print_report(&report)
}

fn promote(
    book: &mut ExperimentBook,
    name: &str,
    forced: Option<&Forced>,
    ask: &AskArgs,
    json: bool,
) -> anyhow::Result<Outcome> {
    weighed(book, name, now_ms())?;
    // The gates ask the candidate, whoever the key would be drawn for.
    let (model, arm) = (book.experiment(name)?.spec.model, format!("{name}/candidate"));
    let gate = match broken_gate(ask, &model, &arm)? {
        None => Ok(()),
        Some(broken) => Err(format!("a verified fix is broken again: {broken}")),
    };
    match book.promote(name, gate, forced, &who(), now_ms()) {
        Ok(moved) => {
            tell(json, &moved, || line(&moved))?;
            Ok(Outcome::Done)
        }
        Err(ExperimentError::Refused { name, why }) => {
            let body = json!({ "name": name, "refused": why });
            tell(json, &body, || format!("{name} is not promoted: {why}"))?;
            Ok(Outcome::No)
        }
        Err(error) => Err(wrong_use(error)),
    }
}

/// The report with everything that was recorded until now. A home without a store has nothing to weigh.
fn weighed(book: &mut ExperimentBook, name: &str, now_ms: i64) -> anyhow::Result<Report> {
    book.experiment(name).map_err(wrong_use)?;
    match Reader::open(&store_path(home()?.path())) {
        Ok(reader) => collect_experiment(book, &reader, name, now_ms)?,
        Err(StoreError::Missing { .. }) => {}
        Err(error) => return Err(error).context("cannot read what was recorded"),
    }
    book.report(name).map_err(wrong_use)
}

fn print_report(report: &Report) -> anyhow::Result<()> {
    let (stage, status) = (report.stage, report.status.as_str().replace('_', " "));
    say!("{}  {status} at {stage} since {}: {}", report.name, Utc(report.stage_at_ms), report.why);
    let mean = |value: Option<f64>| {
        value.map_or("-".to_owned(), |value| format!("{:.1} %", 100.0 * value))
    };
    say!(
        "  answers    {} of the primary, {} of the candidate",
        report.n_primary,
        report.n_candidate
    );
    let (low, high) = (100.0 * report.gain_low, 100.0 * report.gain_high);
    say!(
        "  {:<10} {} against {}: {low:+.1} to {high:+.1} points, however often one looks",
        report.metric.as_str(),
        mean(report.candidate),
        mean(report.primary)
    );
    for guardrail in &report.guardrails {
        say!("  guardrail  {guardrail}");
    }
    let [primary, candidate] = report.units;
    let word = if report.sample_ratio_mismatch { "MISMATCH" } else { "as expected" };
    say!(
        "  units      {candidate} of {} are the candidate's ({:.1} expected): {word}",
        primary + candidate,
        report.units_expected
    );
    if report.ratings_mismatch {
        say!("  feedback   MISMATCH: one arm is judged more often than the other");
    }
    let shadow = &report.shadow;
    if shadow.n > 0 {
        let [primary, candidate] = shadow.goal;
        say!(
            "  shadow     {} copies, {} the same; {} {} against {}",
            shadow.n,
            shadow.same,
            report.metric.as_str(),
            mean(candidate),
            mean(primary)
        );
    }
    let (word, why) = match &report.advice {
        Advice::Hold { why } => ("hold", why),
        Advice::Promote { why } => ("promote", why),
        Advice::Rollback { why } => ("roll back", why),
    };
    say!("  advice     {word}: {why}");
    Ok(())
}

fn line(one: &Experiment) -> String {
    let (spec, status) = (&one.spec, one.status.as_str().replace('_', " "));
    let (stage, since) = (one.stage, Utc(one.stage_at_ms));
    format!("{}  {status} at {stage} since {since}  by {}  {}", spec.name, spec.owner, one.why)
}

/// What the caller can put right by calling otherwise.
fn wrong_use(error: ExperimentError) -> anyhow::Error {
    match error {
        ExperimentError::Store(_)
        | ExperimentError::Database { .. }
        | ExperimentError::Foreign { .. } => error.into(),
        other => WrongUse(other.to_string()).into(),
    }
}
