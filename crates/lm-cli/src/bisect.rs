//! `lastmile bisect`: since which release a recorded answer is another one.
//!
//! It must never guess: a release counts as what was computed with it now, and one that cannot be started is named.
//!
//! Start reading at [`bisect`].

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io::Write;

use anyhow::Context;
use clap::Args;
use lm_ops::{Bundle, Factor, Reader, Recorded, RecordedRelease, Verdict};
use serde::Serialize;
use serde_json::Value;

use crate::doctor::store_path;
use crate::how::How;
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, error_text, print_json};
use crate::replay::Started;
use crate::why::request_id;

#[derive(Debug, Args)]
#[command(
    after_help = "The recorded answer is computed with releases between the two ends, half of them left at a time. \
                  Status 0 when the first one is found, 3 when the two ends answer alike.\n\n\
                  Example:\n  lastmile bisect chatcmpl-0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
)]
pub(crate) struct BisectArgs {
    /// The request: the id of its answer, or a UUID.
    pub(crate) id: String,
    /// Which of its answers, from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) choice: u32,
    /// The older end: the beginning of a release's digest; by default the one that answered, or the oldest when that is
    /// the newest.
    #[arg(long, value_name = "RELEASE")]
    pub(crate) from: Option<String>,
    /// The newer end; by default the newest of the same model name.
    #[arg(long, value_name = "RELEASE")]
    pub(crate) to: Option<String>,
    /// One JSON document: id, choice, n_releases, tried (release, verdict, at, error), first, before, changed.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What one release answered.
#[derive(Clone, Debug, Serialize)]
struct Tried {
    release: String,
    first_seen_ms: i64,
    /// `identical` to the record, `diverged` from it, or `failed`.
    verdict: &'static str,
    /// The first token that differs, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Facts of the release that this program and machine do not reproduce.
    not_as_it_was: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Found {
    id: String,
    choice: u32,
    /// Releases between the ends, both included.
    n_releases: usize,
    /// In the order of the releases.
    tried: Vec<Tried>,
    /// The first release that answers as the newer end does.
    first: String,
    /// The last one before it that could be computed.
    before: String,
    /// Releases in between that could not be computed: it may have been one of them.
    or: Vec<String>,
    /// What differs between the two; of which the answer depends on at least one.
    changed: Vec<Factor>,
}

/// Computes one answer with releases, each at most once.
struct Bench<'a> {
    recorded: &'a Recorded,
    releases: &'a [RecordedRelease],
    tried: BTreeMap<usize, Tried>,
}

impl Bench<'_> {
    /// Whether the release answers as recorded; `None` when it cannot be computed.
    fn is_identical(&mut self, i: usize) -> Option<bool> {
        let (recorded, release) = (self.recorded, &self.releases[i]);
        let tried = self.tried.entry(i).or_insert_with(|| try_one(recorded, release));
        match tried.verdict {
            "failed" => None,
            verdict => Some(verdict == "identical"),
        }
    }

    /// The nearest release to the middle of what lies strictly between, that can be computed; whether it is identical.
    fn split(&mut self, low: usize, high: usize) -> Option<(usize, bool)> {
        let middle = low.midpoint(high);
        let mut between: Vec<usize> = (low + 1..high).collect();
        between.sort_by_key(|i| i.abs_diff(middle));
        between.into_iter().find_map(|i| self.is_identical(i).map(|is| (i, is)))
    }
}

pub(crate) fn bisect(args: &BisectArgs) -> anyhow::Result<Outcome> {
    let reader = Reader::open(&store_path(home()?.path()))?;
    let bundle = Bundle::read(&reader, request_id(&args.id)?)?;
    let recorded = bundle.recorded(Some(args.choice))?.remove(0);
    let releases = between(args, &reader, &recorded)?;
    let mut bench = Bench { recorded: &recorded, releases: &releases, tried: BTreeMap::new() };
    let (mut low, mut high) = (0, releases.len() - 1);
    let at_low = end(&mut bench, low)?;
    let at_high = end(&mut bench, high)?;
    if at_low == at_high {
        let word = if at_low { "identical" } else { "diverged" };
        let (old, new) = (&releases[low].hash, &releases[high].hash);
        anyhow::bail!(
            "releases {old} and {new} both answer {word}: there is no change between them to find"
        );
    }
    while let Some((i, is_identical)) = bench.split(low, high) {
        if is_identical == at_low { low = i } else { high = i }
    }
    let hashes = |range: std::ops::Range<usize>| releases[range].iter().map(|r| r.hash.clone());
    let found = Found {
        id: recorded.id.to_string(),
        choice: recorded.choice,
        n_releases: releases.len(),
        first: releases[high].hash.clone(),
        before: releases[low].hash.clone(),
        or: hashes(low + 1..high).collect(),
        changed: changed(&releases[low], &releases[high]),
        tried: bench.tried.into_values().collect(),
    };
    if args.json {
        print_json(&found)?;
    } else {
        write!(std::io::stdout(), "{found}")?;
    }
    Ok(Outcome::Done)
}

/// Whether the release at an end answers as recorded.
fn end(bench: &mut Bench<'_>, i: usize) -> anyhow::Result<bool> {
    let is_identical = bench.is_identical(i);
    let tried = &bench.tried[&i];
    is_identical.with_context(|| {
        let error = tried.error.as_deref().unwrap_or_default();
        format!("release {} is an end and cannot be computed: {error}", tried.release)
    })
}

/// The releases from one end to the other, oldest first.
fn between(
    args: &BisectArgs,
    reader: &Reader,
    recorded: &Recorded,
) -> anyhow::Result<Vec<RecordedRelease>> {
    let mut all = reader.releases("")?;
    all.retain(|release| release.model == recorded.release.model);
    all.sort_by(|a, b| (a.first_seen_ms, &a.hash).cmp(&(b.first_seen_ms, &b.hash)));
    let name = &recorded.release.model;
    let place = |flag: &str, prefix: &str| -> anyhow::Result<usize> {
        let mut found = all.iter().enumerate().filter(|(_, r)| r.hash.starts_with(prefix));
        match (found.next(), found.count()) {
            (Some((i, _)), 0) => Ok(i),
            (None, _) => Err(WrongUse(format!(
                "{flag} is {prefix}, but no release of the model {name} begins so"
            ))
            .into()),
            (_, n) => {
                let n = n + 1;
                Err(WrongUse(format!("{flag} is {prefix}, but {n} releases begin so")).into())
            }
        }
    };
    let last = all.len().saturating_sub(1);
    let own = place("the request's release", &recorded.release.hash)?;
    let to = args.to.as_deref().map_or(Ok(last), |prefix| place("--to", prefix))?;
    let by_default = if own < to { own } else { 0 };
    let from = args.from.as_deref().map_or(Ok(by_default), |prefix| place("--from", prefix))?;
    if from >= to {
        let (from, to) = (&all[from].hash, &all[to].hash);
        return Err(WrongUse(format!(
            "the older end {from} is not before the newer end {to}, of {} releases of the model {name}",
            all.len()
        ))
        .into());
    }
    Ok(all.drain(from..=to).collect())
}

fn try_one(recorded: &Recorded, release: &RecordedRelease) -> Tried {
    let computed = compute(recorded, release);
    let (release, first_seen_ms) = (release.hash.clone(), release.first_seen_ms);
    match computed {
        Ok((verdict, not_as_it_was)) => {
            let (verdict, at) = match verdict {
                Verdict::Identical { .. } => ("identical", None),
                Verdict::Diverged { at, .. } => ("diverged", Some(at)),
            };
            Tried { release, first_seen_ms, verdict, at, error: None, not_as_it_was }
        }
        Err(error) => {
            let (error, not_as_it_was) = (Some(error_text(&error)), Vec::new());
            Tried { release, first_seen_ms, verdict: "failed", at: None, error, not_as_it_was }
        }
    }
}

/// The verdict, and the release's facts that are otherwise here.
fn compute(
    recorded: &Recorded,
    release: &RecordedRelease,
) -> anyhow::Result<(Verdict, Vec<String>)> {
    let how = release.how.as_deref().context("how it was started is not recorded")?;
    let started = Started::new(&How::read(how)?)?;
    let as_of_release = Recorded { release: release.clone(), ..recorded.clone() };
    let adapter =
        recorded.request.adapter.as_deref().and_then(|name| started.runtime.adapter(name));
    let differs = as_of_release.differences(started.runtime.info(), adapter.as_ref());
    let verdict = started.compute(recorded, &recorded.request)?;
    Ok((verdict, differs.into_iter().map(|factor| factor.name).collect()))
}

/// The facts that two releases do not share.
fn changed(before: &RecordedRelease, after: &RecordedRelease) -> Vec<Factor> {
    let facts = |release: &RecordedRelease| -> BTreeMap<String, String> {
        let facts = release.facts.as_object().cloned().unwrap_or_default();
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        facts.into_iter().map(|(name, value)| (name, text(value))).collect()
    };
    let (then, now) = (facts(before), facts(after));
    let fact = |of: &BTreeMap<String, String>, name| of.get(name).cloned().unwrap_or_default();
    let mut names: Vec<&String> = then.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let factors = names.into_iter().map(|name| Factor {
        name: name.clone(),
        recorded: fact(&then, name),
        here: fact(&now, name),
    });
    factors.filter(|factor| factor.recorded != factor.here).collect()
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Found { first, before, n_releases, .. } = self;
        writeln!(f, "first    {first}, the one before it {before}")?;
        for Factor { name, recorded, here } in &self.changed {
            writeln!(f, "  changed  {name}: from {recorded} to {here}")?;
        }
        for release in &self.or {
            writeln!(f, "  or       {release}, which cannot be computed here")?;
        }
        writeln!(f, "{} of {n_releases} releases computed:", self.tried.len())?;
        for Tried { release, verdict, at, error, not_as_it_was, .. } in &self.tried {
            let at = at.map_or(String::new(), |at| format!(" at token {at}"));
            let error = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            write!(f, "  {release}  {verdict}{at}{error}")?;
            match not_as_it_was.as_slice() {
                [] => writeln!(f)?,
                names => writeln!(f, "  (not as it was: {})", names.join(", "))?,
            }
        }
        Ok(())
    }
}
