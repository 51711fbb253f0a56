//! What answers took, summed up by key, by day or by model.
//!
//! It must never add what is not of one kind: each currency has its own sum, and joules are counted with how many
//! answers they are of.
//!
//! Start reading at [`Reader::costs`].

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::record::unix_ms;
use crate::sql::{self, Row, params};
use crate::{Reader, StoreError};

/// What a line of costs stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CostBy {
    /// The key, as 16 hexadecimal digits; without one, an empty text.
    #[default]
    Key,
    /// The day by UTC, as a number of days since 1970.
    Day,
    /// The model's name as served.
    Model,
}

/// What the answers of one key, day or model took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostLine {
    /// Which key, day or model.
    pub group: String,
    /// Requests, each prompt one.
    pub requests: u64,
    /// Answers, failed ones included.
    pub answers: u64,
    /// Tokens of the prompts that were computed, or came from the prefix cache.
    pub prompt_tokens: u64,
    /// Tokens generated; those that were told from the response cache were not.
    pub completion_tokens: u64,
    /// From arrival until the end, of all answers.
    pub wall_seconds: f64,
    /// CPU time.
    pub cpu_seconds: f64,
    /// What the machine drew for `answers_with_joules` of the answers.
    pub joules: f64,
    /// Answers whose joules are known.
    pub answers_with_joules: u64,
    /// What they cost, by currency.
    pub cost: BTreeMap<String, f64>,
}

/// Whether an answer was computed for its request. What took CPU time was, so that few timelines are looked into.
const COMPUTED: &str =
    "(a.cpu_seconds > 0 OR coalesce(a.timeline, '') NOT LIKE '%\"computed_by\"%')";

impl CostBy {
    /// A fixed text, never input.
    fn expression(self) -> &'static str {
        match self {
            CostBy::Key => "coalesce(r.tenant, '')",
            CostBy::Day => "CAST(a.arrived_at_ms / 86400000 AS TEXT)",
            CostBy::Model => "r.model",
        }
    }
}

impl CostLine {
    /// Adds another line to this one, whose group stays.
    pub fn add(&mut self, other: &CostLine) {
        self.requests += other.requests;
        self.answers += other.answers;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.wall_seconds += other.wall_seconds;
        self.cpu_seconds += other.cpu_seconds;
        self.joules += other.joules;
        self.answers_with_joules += other.answers_with_joules;
        for (currency, cost) in &other.cost {
            *self.cost.entry(currency.clone()).or_default() += cost;
        }
    }
}

impl Reader {
    /// What the answers took whose requests arrived at `since` or later, by group.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn costs(&self, by: CostBy, since: SystemTime) -> Result<Vec<CostLine>, StoreError> {
        let sql = format!(
            "SELECT {} AS grp, a.currency, sum(CASE WHEN a.choice = 0 THEN 1 ELSE 0 END), count(*), \
             CAST(sum(CASE WHEN a.choice = 0 AND {COMPUTED} THEN a.prompt_tokens ELSE 0 END) AS BIGINT), \
             CAST(sum(CASE WHEN {COMPUTED} THEN a.completion_tokens ELSE 0 END) AS BIGINT), sum(a.e2e_ms) / 1000, sum(a.cpu_seconds), \
             coalesce(sum(a.joules), 0.0), count(a.joules), coalesce(sum(a.cost), 0.0) \
             FROM attempt a JOIN request r ON r.id = a.request_id \
             WHERE a.arrived_at_ms >= ?1 GROUP BY grp, a.currency ORDER BY grp",
            by.expression()
        );
        let parts: Vec<CostLine> = self.read(|connection| {
            connection.prepare_cached(&sql)?.query_map(params![unix_ms(since)], line)?.collect()
        })?;
        let mut lines: Vec<CostLine> = Vec::new();
        for part in parts {
            match lines.last_mut().filter(|line| line.group == part.group) {
                Some(line) => line.add(&part),
                None => lines.push(part),
            }
        }
        Ok(lines)
    }
}

/// The sums of one group in one currency.
fn line(row: &Row) -> sql::Result<CostLine> {
    let n = |i| row.get::<_, i64>(i).map(i64::cast_unsigned);
    let (currency, cost): (Option<String>, f64) = (row.get(1)?, row.get(10)?);
    Ok(CostLine {
        group: row.get(0)?,
        requests: n(2)?,
        answers: n(3)?,
        prompt_tokens: n(4)?,
        completion_tokens: n(5)?,
        wall_seconds: row.get(6)?,
        cpu_seconds: row.get(7)?,
        joules: row.get(8)?,
        answers_with_joules: n(9)?,
        cost: currency.map(|currency| (currency, cost)).into_iter().collect(),
    })
}
