//! Which strata of one dataset another one lacks.
//!
//! It must never count what has no bound: values beyond a limit count together.
//!
//! Start reading at [`coverage`].

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::check::text::each_text;
use crate::home::DatasetFolder;
use crate::version::rows::VersionRows;
use crate::{DataError, DataHome, manifest};

/// One stratum: rows that have the same values in the columns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stratum {
    /// The values, column by column; `null` for one that is missing.
    pub values: Vec<String>,
    /// Rows of the dataset in it.
    pub rows: u64,
    /// Their share of the dataset, from 0 to 1.
    pub share: f64,
    /// Rows of the traffic in it.
    pub traffic_rows: u64,
    /// Their share of the traffic.
    pub traffic_share: f64,
    /// The traffic has it, and the dataset has none or under half of its share.
    pub lacking: bool,
}

/// More strata count as one, named `(other)`.
const MAX_STRATA: usize = 10_000;
/// Strata of text length, when no columns are named: each up to so many characters.
const LENGTHS: [usize; 7] = [50, 200, 500, 1_000, 4_000, 16_000, usize::MAX];

type Counts = (BTreeMap<Vec<String>, u64>, u64);

/// Counts the strata of the newest version by `columns`, or by the length of their texts when none are named, beside
/// those of `traffic`, another dataset. Those that are lacking come first, then the largest.
///
/// # Errors
/// [`DataError::UnknownDataset`], [`DataError::NoReport`], [`DataError::Damaged`].
pub fn coverage(
    home: &DataHome,
    name: &str,
    columns: &[String],
    traffic: Option<&str>,
) -> Result<Vec<Stratum>, DataError> {
    let (own, n_own) = count(&home.dataset(name)?, columns)?;
    let (other, n_other) = match traffic {
        Some(traffic) => count(&home.dataset(traffic)?, columns)?,
        None => Counts::default(),
    };
    let share = |n: u64, all: u64| if all == 0 { 0.0 } else { n as f64 / all as f64 };
    let mut all: Vec<&Vec<String>> = own.keys().chain(other.keys()).collect();
    all.sort_unstable();
    all.dedup();
    let stratum = |values: &Vec<String>| {
        let rows = own.get(values).copied().unwrap_or(0);
        let traffic_rows = other.get(values).copied().unwrap_or(0);
        let (share, traffic_share) = (share(rows, n_own), share(traffic_rows, n_other));
        let lacking = traffic_rows > 0 && share < traffic_share / 2.0;
        Stratum { values: values.clone(), rows, share, traffic_rows, traffic_share, lacking }
    };
    let mut strata: Vec<Stratum> = all.into_iter().map(stratum).collect();
    strata.sort_by_key(|s| (!s.lacking, std::cmp::Reverse(s.rows.max(s.traffic_rows))));
    Ok(strata)
}

fn count(dataset: &DatasetFolder, columns: &[String]) -> Result<Counts, DataError> {
    dataset.must_exist()?;
    let manifest = manifest::newest(dataset)?;
    let (mut counts, mut n_rows) = Counts::default();
    for row in VersionRows::open(dataset, &manifest)? {
        let value: Value = serde_json::from_str(&row?.text).unwrap_or_default();
        let mut values = stratum_of(&value, columns);
        if counts.len() >= MAX_STRATA && !counts.contains_key(&values) {
            values = vec!["(other)".to_owned(); values.len()];
        }
        *counts.entry(values).or_default() += 1;
        n_rows += 1;
    }
    Ok((counts, n_rows))
}

fn stratum_of(row: &Value, columns: &[String]) -> Vec<String> {
    if columns.is_empty() {
        let mut n_chars = 0;
        each_text(row, &[], &mut |_, text| n_chars += text.chars().count());
        let at = LENGTHS.iter().position(|most| n_chars <= *most).unwrap_or(LENGTHS.len() - 1);
        let least = if at == 0 { 0 } else { LENGTHS[at - 1] + 1 };
        return vec![match LENGTHS[at] {
            usize::MAX => format!("{least} or more characters"),
            most => format!("{least} to {most} characters"),
        }];
    }
    let text = |name: &String| match crate::check::column_value(row, name) {
        Some(Value::String(text)) => text.chars().take(200).collect(),
        Some(other) => other.to_string().chars().take(200).collect(),
        None => "null".to_owned(),
    };
    columns.iter().map(text).collect()
}
