//! Answers that servers of a home did not live to end, for as long as a daily budget may pay for them.
//!
//! A crash is known by its ring until the next one takes its place, and a day may have several. It must never hold an id,
//! or a text.
//!
//! Start reading at [`CutOff::keep`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::InFlight;
use crate::sinks::write_private;

/// Answers that are kept, the newest.
const MAX_KEPT: usize = 10_000;
/// Larger files are none of ours.
const MAX_BYTES: u64 = 4 << 20;
/// Longer than any day, wherever the clock stood.
const KEPT_MS: i64 = 2 * 86_400_000;

/// An answer that was cut off, as far as its key pays for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutOff {
    /// Its key, as 16 hexadecimal digits.
    pub tenant: String,
    /// Which of its request's answers, from 0; the first pays for the prompt.
    pub choice: u32,
    /// Unix milliseconds.
    pub arrived_at_ms: i64,
    /// Tokens of the prompt.
    pub n_prompt_tokens: u64,
    /// Tokens that had been drawn.
    pub n_tokens: u64,
}

/// What answers of earlier crashes took cannot be read, or kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {detail}", path.display())]
pub struct CutOffError {
    action: &'static str,
    path: PathBuf,
    detail: String,
}

impl CutOff {
    /// Keeps what a crash cut off in the file at `path`, and gives back all that was cut off of late.
    ///
    /// # Errors
    /// The file cannot be read, is none, or cannot be written; then it is as it was before.
    pub fn keep(
        path: &Path,
        crashed: &[InFlight],
        now_ms: i64,
    ) -> Result<Vec<CutOff>, CutOffError> {
        let mut all = read(path).map_err(|detail| failed("read", path, detail))?;
        let n_read = all.len();
        all.retain(|one| (now_ms - KEPT_MS..=now_ms + KEPT_MS).contains(&one.arrived_at_ms));
        let is_changed = all.len() != n_read || !crashed.is_empty();
        all.extend(CutOff::of(crashed));
        let n_over = all.len().saturating_sub(MAX_KEPT);
        all.drain(..n_over);
        if is_changed {
            let written = serde_json::to_vec(&all).map_err(std::io::Error::other);
            let written = written.and_then(|bytes| write_private(path, &bytes));
            written.map_err(|error| failed("write", path, error.to_string()))?;
        }
        Ok(all)
    }

    /// Of answers without a key nobody pays.
    pub fn of(crashed: &[InFlight]) -> impl Iterator<Item = CutOff> {
        crashed.iter().filter_map(|one| {
            Some(CutOff {
                tenant: one.tenant.clone()?,
                choice: one.choice,
                arrived_at_ms: one.arrived_at_ms,
                n_prompt_tokens: one.n_prompt_tokens as u64,
                n_tokens: one.n_tokens as u64,
            })
        })
    }
}

fn read(path: &Path) -> Result<Vec<CutOff>, String> {
    let found = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(|error| error.to_string())?,
    };
    if found.len() > MAX_BYTES {
        return Err(format!("it has {} bytes, at most {MAX_BYTES} may be", found.len()));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

fn failed(action: &'static str, path: &Path, detail: String) -> CutOffError {
    CutOffError { action, path: path.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn in_flight(tenant: Option<&str>, arrived_at_ms: i64, n_tokens: usize) -> InFlight {
        InFlight {
            id: "0190b6a0-0000-7000-8000-000000000001".to_owned(),
            choice: 0,
            tenant: tenant.map(str::to_owned),
            model: "m".to_owned(),
            release: "r".to_owned(),
            arrived_at_ms,
            n_prompt_tokens: 10,
            n_tokens,
            tokens: Vec::new(),
            prompt: None,
            recipe: None,
            prompt_tokens: None,
        }
    }

    #[test]
    fn every_crash_of_a_day_is_paid_for_and_older_ones_are_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("cut-off.json");
        let key = "00000000000000ab";
        let n_tokens = |crashed: &[InFlight], now_ms| -> Vec<u64> {
            let all = CutOff::keep(&path, crashed, now_ms).unwrap();
            all.iter().map(|one| one.n_tokens).collect()
        };
        assert_eq!(n_tokens(&[], NOW_MS), [0_u64; 0]);
        assert!(!path.exists(), "there is nothing to keep");
        let first = [in_flight(Some(key), NOW_MS - 1000, 7), in_flight(None, NOW_MS, 99)];
        assert_eq!(n_tokens(&first, NOW_MS), [7]);
        // The next server ends in order, the one after it dies again.
        assert_eq!(n_tokens(&[], NOW_MS + 1), [7]);
        assert_eq!(n_tokens(&[in_flight(Some(key), NOW_MS + 2, 9)], NOW_MS + 3), [7, 9]);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("0190b6a0"), "no id is kept");
        assert_eq!(n_tokens(&[], NOW_MS + 3 * KEPT_MS), [0_u64; 0]);
    }

    #[test]
    fn a_file_that_is_none_is_named_and_left_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("cut-off.json");
        std::fs::write(&path, "[{").unwrap();
        let crashed = [in_flight(Some("ab"), NOW_MS, 7)];
        let error = CutOff::keep(&path, &crashed, NOW_MS).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("cut-off.json"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[{");
    }
}
