//! `lastmile fix` and `lastmile eval`: what was done about a problem, and whether it helps.

use std::fs;
use std::io::Write;
use std::path::Path;

use lm_data::DataHome;
use lm_feedback::{Evidence, Fix, GATE_SCHEMA, Rows, Scorer};
use serde_json::{Value, json};

use crate::ask::{Asker, cases};
use crate::ask_release::is_arm;
use crate::data::data_home;
use crate::failures::{Loop, wrong_use};
use crate::from_requests::RowFile;
use crate::loop_args::{AskArgs, EvalArgs, FixAddArgs, FixArgs, FixVerb};
use crate::outcome::{Outcome, WrongUse, print_json, say};

pub(crate) fn fix(args: &FixArgs) -> anyhow::Result<Outcome> {
    match &args.verb {
        FixVerb::Add(args) => add(args),
        FixVerb::Verify { fix, json } => verify(fix, *json),
        FixVerb::List { json } => list(*json),
        FixVerb::Gate { ask, json } => gate(ask, *json),
    }
}

fn add(args: &FixAddArgs) -> anyhow::Result<Outcome> {
    let mut at = Loop::open()?;
    let fix = Fix {
        id: String::new(),
        cluster: args.cluster.clone(),
        note: args.note.clone(),
        system: args.system.clone(),
        template: args.template.clone(),
        expect: args.expect.clone(),
        release_hash: args.release.clone(),
        created_at_ms: at.now_ms,
        verified_at_ms: None,
        gate: None,
    };
    let fix = at.book.add_fix(fix).map_err(wrong_use)?;
    if args.json {
        print_json(&fix)?;
    } else {
        say!(
            "{} of {}: `lastmile fix verify {}` says whether it helps",
            fix.id,
            fix.cluster,
            fix.id
        );
    }
    Ok(Outcome::Done)
}

fn list(json: bool) -> anyhow::Result<Outcome> {
    let fixes = Loop::open()?.book.fixes()?;
    if json {
        print_json(&fixes)?;
        return Ok(Outcome::Done);
    }
    for fix in &fixes {
        let status = if fix.verified_at_ms.is_some() { "verified" } else { "open" };
        let gate = fix.gate.as_deref().unwrap_or("no gate");
        say!("{}  {}  {status}  {gate}  {}", fix.id, fix.cluster, fix.note);
    }
    Ok(Outcome::Done)
}

fn verify(id: &str, json: bool) -> anyhow::Result<Outcome> {
    let mut at = Loop::open()?;
    let fix = at.book.fix(id).map_err(wrong_use)?;
    let evidence = at.book.verify(&fix, &at.reader, at.now_ms)?;
    let mut gate = fix.gate.clone();
    if evidence.verdict == "improved" && gate.is_none() {
        // What cannot be guarded is improved all the same.
        match guard(&mut at, &fix) {
            Ok(dataset) => gate = Some(dataset),
            Err(error) => eprintln!("lastmile: {error}"),
        }
    }
    if json {
        let mut document = serde_json::to_value(&evidence)?;
        document["gate"] = gate.into();
        print_json(&document)?;
    } else {
        print_evidence(&evidence)?;
        if let Some(gate) = gate {
            say!("guarded by dataset {gate}: `lastmile fix gate`");
        }
    }
    Ok(if evidence.verdict == "improved" { Outcome::Done } else { Outcome::No })
}

fn print_evidence(evidence: &Evidence) -> anyhow::Result<()> {
    let Evidence { before_n, before_failed, after_n, after_failed, .. } = evidence;
    let percent = |hits: u64, n: u64| 100.0 * hits as f64 / n.max(1) as f64;
    say!(
        "before: {before_failed} of {before_n} failed ({:.2} %)",
        percent(*before_failed, *before_n)
    );
    say!("after:  {after_failed} of {after_n} failed ({:.2} %)", percent(*after_failed, *after_n));
    if evidence.after_moved > 0 {
        say!("        {} of them as problems of the kind that began since", evidence.after_moved);
    }
    if evidence.horizon_ms > 0 {
        let hours = evidence.horizon_ms as f64 / 3_600_000.0;
        say!("what was noticed within {hours:.2} h counts; newer answers do not count yet");
    }
    let (low, high) = (100.0 * evidence.change_low, 100.0 * evidence.change_high);
    say!("{}: {low:+.2} to {high:+.2} points, however often one looks", evidence.verdict);
    Ok(())
}

/// Publishes what the fix must get right from now on.
fn guard(at: &mut Loop, fix: &Fix) -> anyhow::Result<String> {
    let rows = Rows::of_fix(&at.book, &at.reader, fix)?;
    if rows.is_empty() {
        anyhow::bail!("fix {} is not guarded: no text of its problem was kept", fix.id);
    }
    let dataset = format!("gate-{}", fix.id);
    let mut file = RowFile::new()?;
    rows.iter().try_for_each(|row| file.add(row))?;
    file.publish(&data_home()?, &dataset, GATE_SCHEMA, None, false)?;
    at.book.set_gate(&fix.id, &dataset)?;
    Ok(dataset)
}

fn gate(args: &AskArgs, json: bool) -> anyhow::Result<Outcome> {
    let fixes = Loop::open()?.guarded()?;
    let home = data_home()?;
    let asker = Asker::new(args)?;
    let mut report = Vec::new();
    let mut is_broken = false;
    for fix in fixes {
        let Some(dataset) = &fix.gate else { continue };
        let asked = asker.ask_all(&cases(&rows_of(&home, dataset, None, usize::MAX)?, None)?)?;
        let (n, n_passed) = (asked.summary.n, asked.summary.n_passed);
        is_broken |= n_passed < n;
        if !json {
            let word = if n_passed < n { "BROKEN" } else { "ok" };
            say!("{word}  {}  {n_passed} of {n}  {}", fix.id, fix.note);
            for line in asked.failed.iter().take(3) {
                say!("    {}: {}", line["question"], line["why"]);
            }
        }
        report.push(json!({
            "fix": fix.id,
            "dataset": dataset,
            "n": n,
            "n_passed": n_passed,
            "failed": asked.failed,
        }));
    }
    if json {
        print_json(&report)?;
    } else if report.is_empty() {
        say!("no fix is guarded: `lastmile fix verify` guards those that help");
    }
    Ok(if is_broken { Outcome::No } else { Outcome::Done })
}

/// The first gate that an arm of an experiment does not pass, in words. Nobody is asked when there is none.
pub(crate) fn broken_gate(
    args: &AskArgs,
    model: &str,
    arm: &str,
) -> anyhow::Result<Option<String>> {
    let fixes = Loop::open()?.guarded()?;
    let home = data_home()?;
    for fix in fixes {
        let Some(dataset) = &fix.gate else { continue };
        let cases = cases(&rows_of(&home, dataset, None, usize::MAX)?, None)?;
        let asker = Asker::of_arm(args, args.model.as_deref().unwrap_or(model), arm);
        let summary = asker.ask_all(&cases)?.summary;
        if summary.n_passed < summary.n {
            let (n, n_passed) = (summary.n, summary.n_passed);
            return Ok(Some(format!("{} passes {n_passed} of {n} ({})", fix.id, fix.note)));
        }
    }
    Ok(None)
}

pub(crate) fn eval(args: &EvalArgs) -> anyhow::Result<Outcome> {
    if !(0.0..=1.0).contains(&args.min_pass) {
        let text = format!("--min-pass is {}, but must be from 0 to 1", args.min_pass);
        return Err(WrongUse(text).into());
    }
    let file = Path::new(&args.dataset);
    let rows = if file.is_file() {
        lines(&fs::read_to_string(file)?, args.limit)?
    } else {
        rows_of(&data_home()?, &args.dataset, args.version.as_deref(), args.limit)?
    };
    let cases = cases(&rows, args.scorer.as_deref())?;
    let asker = match &args.release {
        None => Asker::new(&args.ask)?,
        Some(release) => {
            let is_scored = cases.iter().any(|case| matches!(case.scorer, Scorer::Logprob(_)));
            if is_arm(release) && is_scored {
                let text = format!(
                    "--release is {release}, but an arm answers chats only: for the scorer logprob name a model, an adapter \
                     or the beginning of a release's digest"
                );
                return Err(WrongUse(text).into());
            }
            Asker::of_release(&args.ask, release)?
        }
    };
    let asked = asker.that_rates(args.rate).ask_all(&cases)?;
    let summary = asked.summary;
    let share = summary.n_passed as f64 / summary.n.max(1) as f64;
    if args.json {
        let mut document = serde_json::to_value(summary)?;
        document["failed"] = asked.failed.into();
        document["n_rated"] = asked.n_rated.into();
        document["mean_logprob"] = asked.mean_logprob.into();
        print_json(&document)?;
    } else {
        for line in asked.failed.iter().take(10) {
            say!("failed: {}: {}", line["question"], line["why"]);
        }
        let (low, high) = (100.0 * summary.rate_low, 100.0 * summary.rate_high);
        let (n, n_passed) = (summary.n, summary.n_passed);
        say!("{n_passed} of {n} passed ({:.1} %; {low:.1} to {high:.1} %)", 100.0 * share);
        if let Some(mean) = asked.mean_logprob {
            let token = mean.exp();
            say!("expected tokens: mean log-probability {mean:.3}, a probability of {token:.3}");
        }
        if args.rate {
            say!("{} rated: `lastmile confidence fit` learns from them", asked.n_rated);
        }
    }
    Ok(if share < args.min_pass { Outcome::No } else { Outcome::Done })
}

/// The rows of a dataset's version.
fn rows_of(
    home: &DataHome,
    name: &str,
    version: Option<&str>,
    limit: usize,
) -> anyhow::Result<Vec<Value>> {
    let mut text = Vec::new();
    lm_data::export(home, name, version, &mut text)?;
    lines(std::str::from_utf8(&text)?, limit)
}

fn lines(text: &str, limit: usize) -> anyhow::Result<Vec<Value>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).take(limit).enumerate();
    lines
        .map(|(i, line)| {
            serde_json::from_str(line)
                .map_err(|error| WrongUse(format!("row {}: {error}", i + 1)).into())
        })
        .collect()
}
