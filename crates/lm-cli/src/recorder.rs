//! `lastmile recorder`, and the recorder of `lastmile serve`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use lm_ops::{
    CutOff, Flight, InFlight, Ops, Privacy, Recorder, RecorderOptions, Utc, is_alive, now_ms,
};
use serde::Serialize;

use crate::alert_args::AlertServeArgs;
use crate::model::home;
use crate::outcome::{Outcome, print_json, say};

/// Answers that are named at a start.
const N_NAMED: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile recorder dump --last 20")]
pub(crate) struct RecorderArgs {
    #[command(subcommand)]
    pub(crate) verb: RecorderVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecorderVerb {
    /// Print what the flight recorder holds: answers in flight, and the last steps.
    Dump {
        /// At most so many steps, the last ones.
        #[arg(long, default_value_t = 100, value_name = "N")]
        last: usize,
        /// Of the last crash, in place of the server that runs or ran last.
        #[arg(long)]
        crash: bool,
        /// One JSON document: pid, started_at_ms, last_step_at_ms, in_flight, steps.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RecorderServeArgs {
    /// Size of the flight recorder's file, which outlives a crash; 0 records nothing.
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 16,
        value_parser = clap::value_parser!(u64).range(0..=4096),
        env = "LASTMILE_RECORDER_MIB",
        hide_short_help = true
    )]
    pub(crate) recorder_mib: u64,
    /// Seconds between two computations of each probe (`lastmile probe`); 0 is never.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", hide_short_help = true)]
    pub(crate) probe_interval: u64,
    /// A model's first answers, from which what is usual is learned (`/ops/v1/monitors`); 0 watches nothing.
    #[arg(
        long,
        default_value_t = 1000,
        value_name = "N",
        value_parser = baseline_answers,
        hide_short_help = true
    )]
    pub(crate) monitor_baseline: u64,
    #[command(flatten)]
    pub(crate) alerts: AlertServeArgs,
}

fn baseline_answers(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n) if n == 0 || (500..=1_000_000).contains(&n) => Ok(n),
        _ => Err("must be 0, or from 500 to 1000000".to_owned()),
    }
}

/// Where the recorder's files of a home are.
pub(crate) fn folder(home: &Path) -> PathBuf {
    home.join("recorder")
}

/// Begins to record. A server without a recorder is better than none.
pub(crate) fn recording(
    ops: Ops,
    args: &RecorderServeArgs,
    privacy: Privacy,
) -> anyhow::Result<Ops> {
    let home = home()?;
    let (ops, crashed) = match args.recorder_mib {
        0 => (ops, None),
        mib => {
            let keeps_text = privacy == Privacy::Full;
            let options = RecorderOptions { capacity: mib << 20, keeps_text };
            match Recorder::open(&folder(home.path()), options) {
                Ok((recorder, crashed)) => (ops.with_recorder(recorder), crashed),
                Err(error) => {
                    tracing::warn!(%error, "the flight recorder is off");
                    (ops, None)
                }
            }
        }
    };
    crashed.iter().for_each(name_crash);
    let in_flight = crashed.map(|flight| flight.in_flight).unwrap_or_default();
    Ok(ops.with_cut_off(cut_off(home.path(), &in_flight)))
}

/// What keys pay for although no server lived to end it: of this crash, and of others of the day.
fn cut_off(home: &Path, in_flight: &[InFlight]) -> Vec<CutOff> {
    CutOff::keep(&home.join("cut-off.json"), in_flight, now_ms()).unwrap_or_else(|error| {
        tracing::error!(%error, "keys do not pay for what earlier crashes of the day cut off");
        CutOff::of(in_flight).collect()
    })
}

/// Who was in flight when the last server died.
fn name_crash(crashed: &Flight) {
    let n = crashed.in_flight.len();
    tracing::warn!("the last server died with {n} answers in flight: lastmile replay --crash last");
    for one in crashed.in_flight.iter().take(N_NAMED) {
        let tenant = one.tenant.as_deref().unwrap_or("none");
        let (id, choice, n_tokens) = (&one.id, one.choice, one.n_tokens);
        tracing::warn!(%id, choice, %tenant, n_tokens, "was in flight");
    }
}

/// What `doctor` says of the last crash.
#[derive(Serialize)]
pub(crate) struct Crash {
    /// The last step, or the process's start, in Unix milliseconds.
    at_ms: Option<i64>,
    pid: Option<u32>,
    in_flight: Vec<InFlight>,
}

impl Crash {
    pub(crate) fn last(home: &Path) -> anyhow::Result<Option<Self>> {
        let crash = Flight::last_crash(&folder(home), is_alive)?;
        Ok(crash.filter(Flight::has_crashed).map(|flight| Crash {
            at_ms: flight.last_step_at_ms.or(flight.started_at_ms),
            pid: flight.pid,
            in_flight: flight.in_flight,
        }))
    }

    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let at = self.at_ms.map_or_else(String::new, |at| format!(" at {}", Utc(at)));
        let n = self.in_flight.len();
        say!(
            "crash    {n} answers were in flight when a server died{at}; lastmile replay --crash last"
        );
        for one in self.in_flight.iter().take(N_NAMED) {
            say!("           {}", line(one));
        }
        Ok(())
    }
}

pub(crate) fn recorder(args: &RecorderArgs) -> anyhow::Result<Outcome> {
    let RecorderVerb::Dump { last, crash, json } = args.verb;
    let folder = folder(home()?.path());
    let found = match crash {
        true => Flight::last_crash(&folder, is_alive)?,
        false => Flight::current(&folder)?,
    };
    let Some(mut flight) = found else {
        bail!("nothing is recorded in {}", folder.display());
    };
    flight.steps.drain(..flight.steps.len().saturating_sub(last));
    if json {
        print_json(&flight)?;
        return Ok(Outcome::Done);
    }
    say!("in flight: {}", flight.in_flight.len());
    for one in &flight.in_flight {
        say!("  {}", line(one));
    }
    say!("last steps: {}", flight.steps.len());
    let mut last_us = 0;
    for step in &flight.steps {
        // Engines tell their steps side by side, so a little is no jump.
        if step.at_us.saturating_add(1_000_000) < last_us {
            say!("  -- the wall clock went back by {} s", (last_us - step.at_us) / 1_000_000);
        }
        last_us = step.at_us;
        let rows = step.rows.iter().map(|row| {
            let id = row.id.as_deref().unwrap_or("?");
            let token = row.token.map_or(String::new(), |token| format!(" -> {token}"));
            // A UUID's beginning is the time, which many have in common.
            let end = id.len().saturating_sub(12);
            format!("…{}/{} {}{token}", id.get(end..).unwrap_or(id), row.choice, row.n_tokens)
        });
        let rows: Vec<String> = rows.collect();
        let (at, ms) = (Utc(step.at_us.cast_signed() / 1000), f64::from(step.took_us) / 1e3);
        let (number, free) = (step.step, step.n_free_blocks);
        say!("  {at} step {number}  {ms:.2} ms  {free} blocks free  {}", rows.join(", "));
    }
    Ok(Outcome::Done)
}

fn line(one: &InFlight) -> String {
    let tenant = one.tenant.as_deref().unwrap_or("none");
    let InFlight { id, choice, model, n_tokens, n_prompt_tokens, .. } = one;
    format!(
        "{id}/{choice}  key {tenant}  {model}  {n_prompt_tokens} prompt tokens, {n_tokens} drawn"
    )
}
