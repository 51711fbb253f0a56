//! Sums and percentiles over a stretch of time, as `doctor` shows them.
//!
//! It must never load all rows: SQLite sorts and counts.
//!
//! Start reading at [`Totals`].

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::record::unix_ms;
use crate::sql::{self, Connection};
use crate::{Reader, StoreError};

/// What happened since a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Since when, in Unix milliseconds.
    pub since_ms: i64,
    /// Requests that arrived since then and ended.
    pub requests: u64,
    /// Answers, failed ones included.
    pub attempts: u64,
    /// Failed answers by the stable word of their error.
    pub errors: BTreeMap<String, u64>,
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// Prompt tokens from the prefix cache.
    pub cached_tokens: u64,
    /// CPU time of all answers.
    pub cpu_seconds: f64,
    /// From arrival until the first token; `None` when no answer had one.
    pub ttft_ms: Option<LatencyMs>,
    /// From arrival until the end, of answers that did not fail; `None` when there is none.
    pub e2e_ms: Option<LatencyMs>,
}

/// Percentiles by the nearest rank: each is a value that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencyMs {
    /// Half are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
}

impl Reader {
    /// Sums up the requests that arrived at `since` or later.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn totals(&self, since: SystemTime) -> Result<Totals, StoreError> {
        let since_ms = unix_ms(since);
        self.read(|c| {
            let mut totals = sums(c, since_ms)?;
            totals.errors = c
                .prepare_cached(
                    "SELECT error_code, count(*) FROM attempt \
                     WHERE error_code IS NOT NULL AND arrived_at_ms >= ?1 GROUP BY error_code",
                )?
                .query_map([since_ms], |row| {
                    Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
                })?
                .collect::<Result<_, _>>()?;
            totals.ttft_ms = percentiles(c, since_ms, "ttft_ms", "ttft_ms IS NOT NULL")?;
            totals.e2e_ms = percentiles(c, since_ms, "e2e_ms", "finish_reason IS NOT NULL")?;
            Ok(totals)
        })
    }
}

fn sums(connection: &Connection, since_ms: i64) -> sql::Result<Totals> {
    connection
        .prepare_cached(
            "SELECT (SELECT count(*) FROM request WHERE arrived_at_ms >= ?1), count(*), \
             CAST(coalesce(sum(prompt_tokens), 0) AS BIGINT), CAST(coalesce(sum(completion_tokens), 0) AS BIGINT), \
             CAST(coalesce(sum(cached_tokens), 0) AS BIGINT), coalesce(sum(cpu_seconds), 0.0) \
             FROM attempt WHERE arrived_at_ms >= ?1",
        )?
        .query_row([since_ms], |row| {
            let n = |i| row.get::<_, i64>(i).map(i64::cast_unsigned);
            Ok(Totals {
                since_ms,
                requests: n(0)?,
                attempts: n(1)?,
                prompt_tokens: n(2)?,
                completion_tokens: n(3)?,
                cached_tokens: n(4)?,
                cpu_seconds: row.get(5)?,
                ..Totals::default()
            })
        })
}

/// `column` and `filter` are fixed words of this file, never input.
fn percentiles(
    connection: &Connection,
    since_ms: i64,
    column: &'static str,
    filter: &'static str,
) -> sql::Result<Option<LatencyMs>> {
    let source = format!("FROM attempt WHERE arrived_at_ms >= ?1 AND {filter}");
    let n: i64 = connection
        .prepare_cached(&format!("SELECT count(*) {source}"))?
        .query_row([since_ms], |row| row.get(0))?;
    if n == 0 {
        return Ok(None);
    }
    let sql = format!("SELECT {column} {source} ORDER BY {column} LIMIT 1 OFFSET ?2");
    let mut at_rank = connection.prepare_cached(&sql)?;
    let mut percent = |p: i64| -> sql::Result<f64> {
        // The nearest rank is ceil(p / 100 * n), counted from 1.
        let offset = (n * p + 99) / 100 - 1;
        at_rank.query_row([since_ms, offset], |row| row.get(0))
    };
    Ok(Some(LatencyMs { p50: percent(50)?, p99: percent(99)? }))
}
