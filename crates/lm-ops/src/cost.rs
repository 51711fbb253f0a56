//! What answers took and cost: as counters since the start, and as a report from the store.
//!
//! It must never be waited for on the way of a token, nor grow without bound.
//!
//! Start reading at [`CostReport::read`] (from anywhere) and [`CostCounters`] (inside of a server).

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use lastmile::{Prices, RequestEvent, TenantId, Timings, Usage};
use lm_api::{ApiError, or_unavailable};
use lm_store::{Reader, StoreError};
use serde::Serialize;

pub use lm_store::{CostBy, CostLine};

use crate::{CutOff, Ops, Utc};

/// Keys and models that are counted apart; what comes later is counted as `other`.
const MAX_SERIES: usize = 1000;
const MS_OF_DAY: i64 = 86_400_000;

/// What all answers took since the start, by model and key.
#[derive(Debug, Default)]
pub struct CostCounters(Mutex<BTreeMap<(String, String), CostCount>>);

/// What the answers of one key from one model took since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CostCount {
    /// CPU time.
    pub cpu_seconds: f64,
    /// What the machine drew, as far as that is known.
    pub joules: f64,
    /// What they cost, in the prices' currency.
    pub cost: f64,
}

/// What was spent since a time. `Display` renders it as a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CostReport {
    /// `key`, `day` or `model`.
    pub by: &'static str,
    /// Unix milliseconds.
    pub since_ms: i64,
    /// Each key, day or model.
    pub lines: Vec<Spending>,
    /// All lines together.
    pub total: Spending,
}

/// One line of a [`CostReport`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spending {
    /// The key's id, or `none` for those without one; the day; or the model.
    pub name: String,
    /// Requests, each prompt one.
    pub requests: u64,
    /// Answers, failed ones included.
    pub answers: u64,
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// From arrival until the end, of all answers.
    pub wall_seconds: f64,
    /// CPU time.
    pub cpu_seconds: f64,
    /// What the machine drew for `answers_with_joules` of the answers, or `"unavailable"`.
    #[serde(serialize_with = "or_unavailable")]
    pub joules: Option<f64>,
    /// Answers whose joules are known.
    pub answers_with_joules: u64,
    /// By currency; without prices there is none.
    pub cost: BTreeMap<String, f64>,
}

impl CostCounters {
    /// By model and key; the key is its id, or `none`.
    #[must_use]
    pub fn all(&self) -> Vec<((String, String), CostCount)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(names, count)| (names.clone(), *count)).collect()
    }

    pub(crate) fn count(&self, event: &RequestEvent, prices: &Prices) {
        let names = (event.model.clone(), key_name(event.request.tenant));
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_counted = counts.len() < MAX_SERIES || counts.contains_key(&names);
        let names = if is_counted { names } else { ("other".to_owned(), "other".to_owned()) };
        let count = counts.entry(names).or_default();
        count.cpu_seconds += event.timings.cpu_seconds;
        count.joules += event.timings.joules.unwrap_or(0.0);
        count.cost += prices.of(event.choice, event.usage, &event.timings).unwrap_or(0.0);
    }
}

impl Ops {
    /// What is asked for answers.
    #[must_use]
    pub fn prices(&self) -> &Prices {
        self.store.prices()
    }

    /// What all answers took since the start.
    #[must_use]
    pub fn cost_counters(&self) -> &CostCounters {
        &self.costs
    }

    /// What the answers of each key took since `since`: those that are stored, what waits for the store included, and
    /// those that servers did not live to end, as far as their flight recorders knew them. Blocks.
    ///
    /// # Errors
    /// Why the store could not be read.
    pub fn spent_by_key(
        &self,
        since: SystemTime,
    ) -> Result<BTreeMap<TenantId, CostLine>, StoreError> {
        let of_key = |line: CostLine| Some((tenant(&line.group)?, line));
        self.store.flush()?;
        let stored = self.store.reader().costs(CostBy::Key, since)?;
        let mut spent: BTreeMap<TenantId, CostLine> =
            stored.into_iter().filter_map(of_key).collect();
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        for answer in self.cut_off.iter().filter(|a| a.arrived_at_ms as i128 >= since as i128) {
            let Some(key) = tenant(&answer.tenant) else { continue };
            let line = spent.entry(key).or_default();
            let cut_off = line_of(answer, line, self.prices());
            line.add(&cut_off);
        }
        Ok(spent)
    }

    /// What was spent since a time, what waits for the store included.
    ///
    /// # Errors
    /// `Internal` when the store cannot be read.
    pub async fn costs(&self, by: CostBy, since: SystemTime) -> Result<CostReport, ApiError> {
        self.reading(move |ops| {
            ops.store.flush()?;
            CostReport::read(ops.store.reader(), by, since)
        })
        .await
    }
}

impl CostReport {
    /// Sums up what is stored.
    ///
    /// # Errors
    /// Why the store could not be read.
    pub fn read(reader: &Reader, by: CostBy, since: SystemTime) -> Result<Self, StoreError> {
        let lines = reader.costs(by, since)?;
        let mut total = CostLine { group: "total".to_owned(), ..CostLine::default() };
        lines.iter().for_each(|line| total.add(line));
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(CostReport {
            by: word(by),
            since_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            lines: lines
                .into_iter()
                .map(|line| {
                    let name = name(by, &line.group);
                    spending(name, line)
                })
                .collect(),
            total: spending("total".to_owned(), total),
        })
    }

    /// Puts other names into the place of ids.
    pub fn rename(&mut self, name_of: impl Fn(&str) -> Option<String>) {
        for line in &mut self.lines {
            if let Some(name) = name_of(&line.name) {
                line.name = format!("{name} ({})", line.name);
            }
        }
    }
}

fn tenant(key: &str) -> Option<TenantId> {
    u64::from_str_radix(key, 16).ok().map(TenantId)
}

/// What an answer that was cut off took: its tokens, and the CPU time that as many of its key's took.
fn line_of(answer: &CutOff, of_key: &CostLine, prices: &Prices) -> CostLine {
    let prompt_tokens = if answer.choice == 0 { answer.n_prompt_tokens } else { 0 };
    let completion_tokens = answer.n_tokens;
    let n_known = (of_key.prompt_tokens + of_key.completion_tokens).max(1);
    let n_tokens = prompt_tokens + completion_tokens;
    let cpu_seconds = of_key.cpu_seconds / n_known as f64 * n_tokens as f64;
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let usage = Usage {
        prompt_tokens: count(answer.n_prompt_tokens),
        completion_tokens: count(answer.n_tokens),
        ..Usage::default()
    };
    let timings = Timings { cpu_seconds, ..Timings::default() };
    let cost = prices.of(answer.choice, usage, &timings);
    CostLine {
        answers: 1,
        prompt_tokens,
        completion_tokens,
        cpu_seconds,
        cost: cost.map(|cost| (prices.currency.clone(), cost)).into_iter().collect(),
        ..CostLine::default()
    }
}

/// Its name on the wire and on the command line.
fn word(by: CostBy) -> &'static str {
    match by {
        CostBy::Key => "key",
        CostBy::Day => "day",
        CostBy::Model => "model",
    }
}

fn name(by: CostBy, group: &str) -> String {
    match by {
        CostBy::Key if group.is_empty() => "none".to_owned(),
        CostBy::Day => {
            let day: i64 = group.parse().unwrap_or_default();
            Utc(day.saturating_mul(MS_OF_DAY)).to_string().chars().take(10).collect()
        }
        CostBy::Key | CostBy::Model => group.to_owned(),
    }
}

fn key_name(tenant: TenantId) -> String {
    match tenant {
        TenantId::ANONYMOUS => "none".to_owned(),
        tenant => format!("{:016x}", tenant.0),
    }
}

fn spending(name: String, line: CostLine) -> Spending {
    Spending {
        name,
        requests: line.requests,
        answers: line.answers,
        prompt_tokens: line.prompt_tokens,
        completion_tokens: line.completion_tokens,
        wall_seconds: line.wall_seconds,
        cpu_seconds: line.cpu_seconds,
        joules: (line.answers_with_joules > 0).then_some(line.joules),
        answers_with_joules: line.answers_with_joules,
        cost: line.cost,
    }
}

impl Display for CostReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "cost by {} since {}", self.by, Utc(self.since_ms))?;
        let heads = ["requests", "tokens in", "out", "CPU s", "J", "cost"];
        let [requests, tokens_in, out, cpu, joules, cost] = heads;
        let width = self.lines.iter().map(|line| line.name.chars().count()).max();
        let width = width.unwrap_or(0).max(10);
        writeln!(
            f,
            "  {:width$} {requests:>9} {tokens_in:>11} {out:>10} {cpu:>11} {joules:>11}  {cost}",
            self.by
        )?;
        for line in self.lines.iter().chain([&self.total]) {
            let joules =
                line.joules.map_or("unavailable".to_owned(), |joules| format!("{joules:.1}"));
            let costs = line.cost.iter().map(|(currency, cost)| format!("{cost:.6} {currency}"));
            let costs: Vec<String> = costs.collect();
            let cost = if costs.is_empty() { "no prices".to_owned() } else { costs.join(" + ") };
            writeln!(
                f,
                "  {:width$} {:>9} {:>11} {:>10} {:>11.3} {joules:>11}  {cost}",
                line.name,
                line.requests,
                line.prompt_tokens,
                line.completion_tokens,
                line.cpu_seconds
            )?;
        }
        Ok(())
    }
}
