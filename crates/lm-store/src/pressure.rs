//! What fills the prefix cache, and whose prompts lost their beginning for it.
//!
//! It must never read a text: the tokens of two prompts are compared, and nothing of them is told.
//!
//! Start reading at [`Reader::cache_pressure`].

use std::time::SystemTime;

use lm_types::TokenId;
use serde::Serialize;

use crate::record::unix_ms;
use crate::sql::{OptionalExtension, params};
use crate::{Reader, StoreError};

/// What fills the prefix cache since a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CachePressure {
    /// Prompts whose beginning had been computed, and was given up for others since.
    pub n_evicted: u64,
    /// The key whose prompts brought the most tokens that began as none before, as 16 hexadecimal digits; empty is
    /// without a key.
    pub key: String,
    /// How many tokens those are.
    pub new_tokens: u64,
    /// Its two newest of those prompts beside each other, where most of the newest is the end of the other, too.
    pub tail: Option<SameTail>,
}

/// Two prompts that end alike after a beginning that differs: nothing of the end can be shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SameTail {
    /// The newest of both, a UUID.
    pub request: String,
    /// Its tokens.
    pub n_tokens: usize,
    /// The first token that differs.
    pub differs_at: usize,
    /// How many tokens at the end are the same.
    pub n_same: usize,
}

/// Fixed texts, never input. Older versions recorded no timeline.
const SOURCE: &str = "FROM attempt a JOIN request r ON r.id = a.request_id \
                      WHERE a.arrived_at_ms >= ?1 AND a.choice = 0 \
                      AND json_extract(a.timeline, '$.first_miss.reason')";

impl Reader {
    /// What prompts that arrived at `since` or later did to the prefix cache.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn cache_pressure(&self, since: SystemTime) -> Result<CachePressure, StoreError> {
        let since_ms = unix_ms(since);
        self.read(|c| {
            let n_evicted: i64 = c
                .prepare_cached(&format!("SELECT count(*) {SOURCE} = 'evicted'"))?
                .query_row([since_ms], |row| row.get(0))?;
            let most = format!(
                "SELECT coalesce(r.tenant, ''), CAST(sum(a.prompt_tokens - a.cached_tokens) AS BIGINT) AS n \
                 {SOURCE} = 'never_seen' GROUP BY 1 ORDER BY n DESC LIMIT 1"
            );
            let most = c.prepare_cached(&most)?.query_row([since_ms], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
            });
            let (key, new_tokens) = most.optional()?.unwrap_or_default();
            let newest = format!(
                "SELECT r.id, r.prompt_tokens {SOURCE} = 'never_seen' \
                 AND coalesce(r.tenant, '') = ?2 AND r.prompt_tokens IS NOT NULL \
                 ORDER BY a.arrived_at_ms DESC, a.request_id DESC LIMIT 2"
            );
            let newest: Vec<(String, String)> = c
                .prepare_cached(&newest)?
                .query_map(params![since_ms, key], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let tail = match newest.as_slice() {
                [(id, newest), (_, other)] => same_tail(id, &tokens(newest), &tokens(other)),
                _ => None,
            };
            Ok(CachePressure { n_evicted: n_evicted.cast_unsigned(), key, new_tokens, tail })
        })
    }
}

fn tokens(text: &str) -> Vec<TokenId> {
    serde_json::from_str(text).unwrap_or_default()
}

/// `None` where less than half of the newest is the same.
fn same_tail(id: &str, newest: &[TokenId], other: &[TokenId]) -> Option<SameTail> {
    let differs_at = newest.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (rest, other) = (newest.get(differs_at..)?, other.get(differs_at..)?);
    let same = rest.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b);
    let (n_same, n_tokens) = (same.count(), newest.len());
    let is_most = n_same > 0 && 2 * n_same >= n_tokens;
    is_most.then(|| SameTail { request: id.to_owned(), n_tokens, differs_at, n_same })
}

#[cfg(test)]
mod tests {
    use super::same_tail;

    #[track_caller]
    fn check(newest: &[u32], other: &[u32], expect: Option<(usize, usize)>) {
        let found = same_tail("id", newest, other);
        assert_eq!(found.map(|tail| (tail.differs_at, tail.n_same)), expect);
    }

    #[test]
    fn what_changes_first_is_found() {
        check(&[1, 2, 3, 4, 5, 6], &[1, 9, 3, 4, 5, 6], Some((1, 4)));
        check(&[1, 2, 3, 4, 5, 6], &[1, 9, 9, 9, 3, 4, 5, 6], Some((1, 4)));
        check(&[1, 2, 3, 4], &[5, 6, 7, 8], None);
        check(&[1, 2, 3, 4], &[1, 2, 3, 4], None);
        check(&[1, 1, 1], &[1, 1], None);
        check(&[], &[1], None);
    }
}
