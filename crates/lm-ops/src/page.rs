//! The doctor's report as a page of text.
//!
//! It must never read anything but the report.
//!
//! Start reading at the `Display` of [`Doctor`].

use std::fmt::{self, Display, Formatter};

use lm_api::CivilTime;
use lm_store::{CachePressure, LatencyMs, RunState, SameTail, Totals};

use crate::{Change, CostReport, Doctor, RunReport, Spending};

/// Characters of an error's sentence that the page shows.
const MESSAGE_CHARS: usize = 160;
/// Longest value of a fact that the page shows.
const MAX_FACT_BYTES: usize = 40;
/// Keys that are named.
const N_KEYS: usize = 5;

impl Display for Doctor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "doctor, {}", Utc(self.examined_at_ms))?;
        writeln!(f, "\nruns")?;
        if self.runs.is_empty() {
            writeln!(f, "  none: no server has used this store")?;
        }
        for (i, run) in self.runs.iter().enumerate() {
            write_run(f, run)?;
            if let (0, Some(change)) = (i, &self.change) {
                write_change(f, change)?;
            }
        }
        write_keys(f, &self.by_key)?;
        write_cache(f, &self.cache)?;
        write_totals(f, "last hour", &self.last_hour)?;
        write_totals(f, "last 24 hours", &self.last_day)?;
        writeln!(f, "\nlast errors")?;
        if self.last_errors.is_empty() {
            writeln!(f, "  none")?;
        }
        for error in &self.last_errors {
            let message = error.message.as_deref().unwrap_or("(not kept)");
            let message = message.chars().take(MESSAGE_CHARS).collect::<String>();
            let (at, code, id) = (Utc(error.arrived_at_ms), &error.code, error.request_id);
            writeln!(f, "  {at}  {code}  {id}\n    {}", message.replace('\n', " "))?;
        }
        let stored = &self.stored;
        writeln!(
            f,
            "\nstored: {} requests, {} answers, {} feedback, {} releases, {} runs",
            stored.requests, stored.attempts, stored.feedback, stored.releases, stored.runs
        )
    }
}

fn write_run(f: &mut Formatter<'_>, RunReport { state, run }: &RunReport) -> fmt::Result {
    let (word, until) = match state {
        RunState::Running => ("running", run.last_heartbeat_ms),
        RunState::Stopped => ("stopped", run.stopped_at_ms.unwrap_or(run.last_heartbeat_ms)),
        RunState::Crashed => ("CRASHED", run.last_heartbeat_ms),
    };
    let (since, until) = (Utc(run.started_at_ms), Utc(until));
    let release = run.release_hash.get(..8).unwrap_or(&run.release_hash);
    writeln!(f, "  {word}  {since} to {until}  pid {}  version {}", run.pid, run.version)?;
    writeln!(f, "    {} at {}, release {release}", run.model, run.address)
}

/// Digests are told by their beginnings; what is no short word is named alone.
fn write_change(f: &mut Formatter<'_>, change: &Change) -> fmt::Result {
    let short = |text: &str| match text.bytes().all(|c| c.is_ascii_hexdigit()) {
        true => text.get(..8).unwrap_or(text).to_owned(),
        false => text.to_owned(),
    };
    let facts = change.facts.iter().map(|(name, before, now)| {
        let (before, now) = (short(before), short(now));
        match before.len().max(now.len()) > MAX_FACT_BYTES {
            true => name.clone(),
            false => format!("{name} {before} -> {now}"),
        }
    });
    let facts: Vec<String> = facts.collect();
    writeln!(f, "    CHANGED since the run before: {}", facts.join(", "))?;
    match &change.sources {
        Some((before, now)) if before == now => {
            writeln!(f, "    from {now}, as before: what lies there is another one")
        }
        Some((before, now)) => writeln!(f, "    from {now}, before from {before}"),
        None => Ok(()),
    }
}

/// Who takes the most, where there are several.
fn write_keys(f: &mut Formatter<'_>, report: &CostReport) -> fmt::Result {
    let mut keys: Vec<&Spending> = report.lines.iter().collect();
    if keys.len() < 2 {
        return Ok(());
    }
    keys.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds));
    writeln!(f, "\nwho asked, last 10 minutes")?;
    for key in keys.into_iter().take(N_KEYS) {
        let (name, n, all) = (&key.name, key.requests, report.total.requests);
        let percent = 100.0 * key.cpu_seconds / report.total.cpu_seconds.max(f64::MIN_POSITIVE);
        writeln!(f, "  {name}: {n} of {all} requests, {percent:.0} % of the CPU time")?;
    }
    Ok(())
}

/// Who pushes others out of the prefix cache, where anybody lost something.
fn write_cache(f: &mut Formatter<'_>, cache: &CachePressure) -> fmt::Result {
    if cache.n_evicted == 0 {
        return Ok(());
    }
    let who = if cache.key.is_empty() { "requests without a key" } else { cache.key.as_str() };
    let (n, new) = (cache.n_evicted, cache.new_tokens);
    writeln!(f, "\nprefix cache, last 10 minutes")?;
    writeln!(
        f,
        "  {n} prompts lost their beginning; {who} filled the cache with {new} new prompt tokens"
    )?;
    let Some(SameTail { request, n_tokens, differs_at, n_same }) = &cache.tail else {
        return Ok(());
    };
    writeln!(
        f,
        "    such as {request}: what changes comes first (token {differs_at}), and the last {n_same} \
         of {n_tokens} tokens are those of the one before"
    )
}

fn write_totals(f: &mut Formatter<'_>, title: &str, totals: &Totals) -> fmt::Result {
    let n_errors: u64 = totals.errors.values().sum();
    writeln!(f, "\n{title}")?;
    write!(f, "  {} requests, {} answers, {n_errors} errors", totals.requests, totals.attempts)?;
    for (i, (code, n)) in totals.errors.iter().enumerate() {
        write!(f, "{} {code} {n}", if i == 0 { ":" } else { "," })?;
    }
    writeln!(
        f,
        "\n  {} tokens in ({} cached), {} out, {:.1} CPU seconds",
        totals.prompt_tokens, totals.cached_tokens, totals.completion_tokens, totals.cpu_seconds
    )?;
    write_latency(f, "first token", totals.ttft_ms)?;
    write_latency(f, "whole answer", totals.e2e_ms)
}

fn write_latency(f: &mut Formatter<'_>, name: &str, latency: Option<LatencyMs>) -> fmt::Result {
    match latency {
        Some(LatencyMs { p50, p99 }) => {
            writeln!(f, "  {name}: p50 {p50:.1} ms, p99 {p99:.1} ms")
        }
        None => Ok(()),
    }
}

/// Unix milliseconds as `2026-11-23 02:35:01Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc(pub i64);

impl Display for Utc {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let CivilTime { year, month, day, hour, minute, second } =
            CivilTime::at(self.0.div_euclid(1000));
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::Utc;

    #[track_caller]
    fn check(seconds: i64, expect: &str) {
        assert_eq!(Utc(seconds * 1000).to_string(), expect);
    }

    #[test]
    fn times_are_utc_dates() {
        check(0, "1970-01-01 00:00:00Z");
        check(-1, "1969-12-31 23:59:59Z");
        check(951_782_399, "2000-02-28 23:59:59Z");
        check(951_782_400, "2000-02-29 00:00:00Z");
        check(951_868_800, "2000-03-01 00:00:00Z");
        check(1_700_000_000, "2023-11-14 22:13:20Z");
        check(4_107_542_400, "2100-03-01 00:00:00Z");
    }
}
