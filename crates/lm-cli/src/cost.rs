//! `lastmile cost`: what answers took and cost, by key, day or model.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use lm_keys::since;
use lm_ops::{CostBy, CostReport, Reader};

use crate::doctor::store_path;
use crate::keys::{key_file, unix_seconds};
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, print_json, say};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile cost --by day --since 7d")]
pub(crate) struct CostArgs {
    /// What makes a line.
    #[arg(long, value_enum, default_value = "key")]
    by: CostByArg,
    /// `30d`, `12h` or `90m` ago, or a date such as 2027-01-31.
    #[arg(long, default_value = "30d", value_name = "WHEN")]
    since: String,
    /// One JSON document: by, since_ms, lines, total.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CostByArg {
    /// Each key.
    Key,
    /// Each day, by UTC.
    Day,
    /// Each model.
    Model,
}

/// What answers cost in money; also of an answer's JSON when its request says `"timings": true`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PriceArgs {
    /// What a CPU second costs.
    #[arg(long, value_name = "PRICE", default_value_t = 0.0, value_parser = price, env = "LASTMILE_PRICE_PER_CPU_SECOND", hide_short_help = true)]
    price_per_cpu_second: f64,
    /// What a million tokens of prompts cost, cached ones included.
    #[arg(long, value_name = "PRICE", default_value_t = 0.0, value_parser = price, env = "LASTMILE_PRICE_PER_MILLION_INPUT_TOKENS", hide_short_help = true)]
    price_per_million_input_tokens: f64,
    /// What a million tokens of answers cost.
    #[arg(long, value_name = "PRICE", default_value_t = 0.0, value_parser = price, env = "LASTMILE_PRICE_PER_MILLION_OUTPUT_TOKENS", hide_short_help = true)]
    price_per_million_output_tokens: f64,
    /// What the prices are in; a label only.
    #[arg(long, value_name = "LABEL", default_value = "EUR", value_parser = currency, env = "LASTMILE_CURRENCY", hide_short_help = true)]
    currency: String,
}

impl PriceArgs {
    pub(crate) fn prices(&self) -> lastmile::Prices {
        lastmile::Prices {
            currency: self.currency.clone(),
            per_cpu_second: self.price_per_cpu_second,
            per_million_input_tokens: self.price_per_million_input_tokens,
            per_million_output_tokens: self.price_per_million_output_tokens,
        }
    }
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|price| (0.0..=1e9).contains(price));
    price.ok_or_else(|| "must be a number from 0 to 1000000000".to_owned())
}

fn currency(text: &str) -> Result<String, String> {
    let is_label = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic());
    is_label
        .then(|| text.to_owned())
        .ok_or_else(|| "must be 1 to 8 letters, such as EUR".to_owned())
}

pub(crate) fn cost(args: &CostArgs) -> anyhow::Result<Outcome> {
    let home = home()?;
    let since = since(&args.since, unix_seconds()).map_err(|error| WrongUse(error.to_string()))?;
    let by = match args.by {
        CostByArg::Key => CostBy::Key,
        CostByArg::Day => CostBy::Day,
        CostByArg::Model => CostBy::Model,
    };
    let reader = Reader::open(&store_path(home.path()))?;
    let mut report = CostReport::read(&reader, by, UNIX_EPOCH + Duration::from_secs(since))?;
    if args.json {
        print_json(&report)?;
        return Ok(Outcome::Done);
    }
    if by == CostBy::Key {
        let keys = key_file(&home).read()?.unwrap_or_default();
        let names: BTreeMap<String, String> =
            keys.into_iter().map(|key| (key.id.to_string(), key.name)).collect();
        report.rename(|id| names.get(id).cloned());
    }
    say!("{report}");
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_and_currencies_are_checked() {
        assert_eq!(price("0.25"), Ok(0.25));
        for wrong in ["-1", "nan", "inf", "1e10", "", "x"] {
            assert!(price(wrong).is_err(), "{wrong}");
        }
        assert_eq!(currency("USD").as_deref(), Ok("USD"));
        for wrong in ["", "a b", "\u{20ac}", "ABCDEFGHI"] {
            assert!(currency(wrong).is_err(), "{wrong}");
        }
    }
}
