//! `lastmile confidence`: what the probabilities of a release's tokens are worth, learned from answers that were judged.

use std::io::Write;
use std::path::Path;

use clap::{Args, Subcommand};
use lm_ops::{Calibration, Calibrations, Judged, Utc};
use serde_json::{Value, json};

use crate::failures::Loop;
use crate::model::home;
use crate::outcome::{Outcome, print_json, say};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile confidence fit")]
pub(crate) struct ConfidenceArgs {
    #[command(subcommand)]
    verb: ConfidenceVerb,
}

#[derive(Debug, Subcommand)]
enum ConfidenceVerb {
    /// Learn from what was said of answers, for each release of which enough was. Status 1 when it is none.
    Fit {
        /// One JSON document: fitted, too_few, n_without_logprob, n_repeated.
        #[arg(long)]
        json: bool,
    },
    /// Say what was learned, and how far off it is.
    Show {
        /// One JSON document: a list of release, model, n_judged, n_good, calibration_error, skill, steps, ….
        #[arg(long)]
        json: bool,
    },
}

/// What was learned in a home.
pub(crate) fn calibrations(home: &Path) -> Calibrations {
    Calibrations::new(home.join("confidence"))
}

pub(crate) fn confidence(args: &ConfidenceArgs) -> anyhow::Result<Outcome> {
    match args.verb {
        ConfidenceVerb::Fit { json } => fit(json),
        ConfidenceVerb::Show { json } => show(json),
    }
}

fn fit(json: bool) -> anyhow::Result<Outcome> {
    let at = Loop::open()?;
    let files = calibrations(home()?.path());
    let judged = Judged::read(&at.book, &at.reader)?;
    let (mut fitted, mut too_few): (Vec<Calibration>, Vec<Value>) = (Vec::new(), Vec::new());
    for (release, scored) in &judged.by_release {
        let model = at.reader.release(release)?.map(|known| known.model).unwrap_or_default();
        match Calibration::fit(release, &model, scored, at.now_ms) {
            Ok(fit) => {
                files.write(&fit)?;
                fitted.push(fit);
            }
            Err(few) => {
                if !json {
                    say!("{release}  {model}: {few}");
                }
                let (n_judged, n_good) = (few.n_judged, few.n_good);
                too_few.push(json!({
                    "release": release, "model": model, "n_judged": n_judged, "n_good": n_good,
                }));
            }
        }
    }
    let outcome = if fitted.is_empty() { Outcome::No } else { Outcome::Done };
    if json {
        print_json(&json!({
            "fitted": fitted,
            "too_few": too_few,
            "n_without_logprob": judged.n_without_logprob,
            "n_repeated": judged.n_repeated,
        }))?;
        return Ok(outcome);
    }
    fitted.iter().try_for_each(print)?;
    if judged.by_release.is_empty() {
        say!("no answer was judged whose request asked for confidence or log-probabilities");
    }
    if judged.n_without_logprob > 0 {
        let n = judged.n_without_logprob;
        say!("{n} others were judged, but asked neither for confidence nor for log-probabilities");
    }
    Ok(outcome)
}

fn show(json: bool) -> anyhow::Result<Outcome> {
    let all = calibrations(home()?.path()).all()?;
    if json {
        print_json(&all)?;
    } else if all.is_empty() {
        say!("nothing was learned yet: `lastmile confidence fit` learns from judged answers");
    } else {
        all.iter().try_for_each(print)?;
    }
    Ok(Outcome::Done)
}

fn print(known: &Calibration) -> anyhow::Result<()> {
    let Calibration { release, model, n_judged, n_good, calibration_error, skill, .. } = known;
    say!("{release}  {model}  {n_judged} judged, {n_good} good; {}", Utc(known.fitted_at_ms));
    let points = 100.0 * calibration_error;
    say!("  off by {points:.1} points on average on held-out answers; skill {skill:.2}");
    for step in known.steps.steps() {
        let (probability, percent) = (step.from.exp(), 100.0 * step.rate);
        let (n, good) = (step.n, step.n_good);
        say!("  tokens {probability:.3} likely or more: {percent:.0} % ({good} of {n} good)");
    }
    Ok(())
}
