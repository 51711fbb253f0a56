//! `lastmile monitor`: whether who is to hear of alerts does, and how soon monitors notice what drifts.

use std::io::Write;

use clap::{Args, Subcommand};
use lm_ops::{Drift, Drill, DrillError, DrillReport, Sinks, now_ms};
use serde_json::json;

use crate::alert_args::AlertArgs;
use crate::outcome::{Outcome, WrongUse, print_json, say};

#[derive(Debug, Args)]
#[command(
    after_help = "What a server's monitors say: GET /ops/v1/monitors, its page, and `lastmile doctor`.\n\n\
                  Example:\n  lastmile monitor fire-drill --drift refusals"
)]
pub(crate) struct MonitorArgs {
    #[command(subcommand)]
    pub(crate) verb: MonitorVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MonitorVerb {
    /// Send a test alert through each configured sink, once; 1 when one does not take it.
    TestSink(TestSinkArgs),
    /// Let a placeholder drift, and count the answers until it is noticed; 1 when it is not.
    ///
    /// With --drift none: 1 when anything is noticed.
    FireDrill(FireDrillArgs),
}

/// Sinks are those of flags, variables and the configuration of `serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  lastmile monitor test-sink --alert-webhook https://hooks.example/lastmile"
)]
pub(crate) struct TestSinkArgs {
    #[command(flatten)]
    pub(crate) sinks: AlertArgs,
    /// One JSON document: sinks, each with is_delivered, error, took_ms.
    #[arg(long)]
    pub(crate) json: bool,
}

/// In this process, on a placeholder; needs no server, and leaves nothing behind.
///
/// The times of answers are drawn, so that the machine does not decide: one seed gives one report.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile monitor fire-drill --drift latency --size 1.3 --json")]
pub(crate) struct FireDrillArgs {
    /// What drifts: `refusals`, `length`, `logprob`, `latency` or `none`.
    #[arg(long, default_value = "refusals", value_parser = drift)]
    pub(crate) drift: Drift,
    /// By how much: the share that refuses (0.1), or a factor of lengths (2), of the temperature (1.5), of latencies (1.5).
    #[arg(long, value_name = "X")]
    pub(crate) size: Option<f64>,
    /// Answers that what is usual is learned from.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) baseline: u64,
    /// Answers in which it must be noticed.
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub(crate) within: u64,
    /// Where everything that is drawn comes from.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// One JSON document: drift, size, seed, baseline, within, expected, found, signals, is_passed.
    #[arg(long)]
    pub(crate) json: bool,
}

fn drift(word: &str) -> Result<Drift, String> {
    Drift::of(word).ok_or_else(|| {
        let known: Vec<&str> = Drift::ALL.into_iter().map(Drift::as_str).collect();
        format!("must be one of {}", known.join(", "))
    })
}

pub(crate) fn monitor(args: &MonitorArgs) -> anyhow::Result<Outcome> {
    match &args.verb {
        MonitorVerb::TestSink(args) => test_sink(args),
        MonitorVerb::FireDrill(args) => fire_drill(args),
    }
}

fn test_sink(args: &TestSinkArgs) -> anyhow::Result<Outcome> {
    let settings = args.sinks.settings()?;
    if settings.is_empty() {
        let what = "no sink is configured: --alert-webhook, --alert-command, or lastmile.toml";
        return Err(WrongUse(what.to_owned()).into());
    }
    let tests = Sinks::test(settings, now_ms());
    if args.json {
        print_json(&json!({ "sinks": tests }))?;
    } else {
        for test in &tests {
            let how = match &test.error {
                None => "delivered".to_owned(),
                Some(error) => format!("NOT delivered: {error}"),
            };
            say!("{}  {}  {how}, after {:.0} ms", test.sink, test.to, test.took_ms);
        }
    }
    Ok(if tests.iter().all(|test| test.is_delivered) { Outcome::Done } else { Outcome::No })
}

fn fire_drill(args: &FireDrillArgs) -> anyhow::Result<Outcome> {
    let &FireDrillArgs { drift, size, baseline, within, seed, .. } = args;
    let report =
        Drill { drift, size, baseline, within, seed }.run().map_err(|error| match error {
            DrillError::Number { .. } => anyhow::Error::from(WrongUse(error.to_string())),
            other => other.into(),
        })?;
    if args.json {
        print_json(&report)?;
    } else {
        print_drill(&report)?;
    }
    Ok(if report.is_passed { Outcome::Done } else { Outcome::No })
}

fn print_drill(report: &DrillReport) -> anyhow::Result<()> {
    let DrillReport { drift, size, seed, baseline, within, .. } = report;
    say!("drift {drift}, size {size}, seed {seed}: {baseline} answers as usual, then {within}");
    if !report.found.is_empty() {
        say!("{:<16} {:<24} {:>8} {:>10}", "signal", "is", "noticed", "began ago");
    }
    for one in &report.found {
        let mark = if one.is_expected { "" } else { "  (not what drifted)" };
        let (signal, how) = (&one.signal, &one.how);
        say!("{signal:<16} {how:<24} {:>8} {:>10}{mark}", one.delay, one.began_ago);
    }
    say!(
        "\n{:<16} {:>12} {:>12} {:>8} {:>8}",
        "each signal",
        "usual",
        "then",
        "noticed",
        "way to it"
    );
    for one in &report.signals {
        let mean = |mean: Option<f64>| mean.map_or("-".to_owned(), |mean| format!("{mean:.3}"));
        let (usual, then) = (mean(one.usual_mean), mean(one.mean));
        let noticed = one.noticed.map_or("never".to_owned(), |delay| delay.to_string());
        let way = one.nearest.map_or("-".to_owned(), |way| format!("{:.0} %", 100.0 * way));
        let mark = if one.is_expected { "  (what drifted)" } else { "" };
        say!("{:<16} {usual:>12} {then:>12} {noticed:>8} {way:>8}{mark}", one.signal);
    }
    match (report.expected, report.is_passed) {
        (Some(expected), true) => say!("passed: {expected} was noticed"),
        (Some(expected), false) => say!("FAILED: {expected} was not noticed within {within}"),
        (None, true) => say!("passed: nothing was noticed"),
        (None, false) => say!("FAILED: nothing drifted, but something was noticed"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::drift;

    #[test]
    fn a_drift_is_one_of_the_words() {
        assert_eq!(drift("logprob"), Ok(lm_ops::Drift::Logprob));
        let expect = "must be one of none, refusals, length, logprob, latency";
        assert_eq!(drift("mood"), Err(expect.to_owned()));
    }
}
