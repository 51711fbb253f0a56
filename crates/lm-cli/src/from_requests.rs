//! `lastmile data from-requests`: answers that become rows of a dataset.
//!
//! It must never add an answer to a dataset twice.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use lm_data::{DataError, DataHome, Format, IngestOptions, Version};
use lm_feedback::{Filter, KnownRows, Rating, Rows, TRAFFIC_SCHEMA};
use serde_json::Value;

use crate::data::{as_json, data_home, print_version};
use crate::failures::{Loop, wrong_use};
use crate::loop_args::{FromRequestsArgs, RatingArg};
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::overrides::check_route;

pub(crate) fn from_requests(args: &FromRequestsArgs) -> anyhow::Result<Outcome> {
    if let Some(route) = &args.route {
        check_route("--route", route)?;
    }
    if let Some(most) = args.max_mean_logprob.filter(|most| !(f64::MIN..=0.0).contains(most)) {
        let text = format!("--max-mean-logprob is {most}, but must be 0 or less");
        return Err(WrongUse(text).into());
    }
    let at = Loop::open()?;
    let filter = filter(args, &at)?;
    let home = data_home()?;
    let known = if args.append { known(&home, &args.name)? } else { None };
    let has_version = known.is_some();
    let mut known = known.unwrap_or_default();
    let mut file = RowFile::new()?;
    let mut n_known = 0;
    let rows = Rows::of_traffic(&at.book, &at.reader, &filter, at.now_ms, |row| {
        if has_version && !known.takes(row) {
            n_known += 1;
            return Ok(());
        }
        file.add(row)
    })?;
    let n_new = rows.n_rows - n_known;
    let version = if n_new > 0 {
        let contract = args.contract.as_deref();
        match file.publish(&home, &args.name, TRAFFIC_SCHEMA, contract, args.append) {
            Err(error) if matches!(error.downcast_ref(), Some(DataError::AuditFailed { .. })) => {
                eprintln!("lastmile: {error}");
                return Ok(Outcome::No);
            }
            version => version?,
        }
    } else if has_version {
        lm_data::show(&home, &args.name, None)?
    } else {
        return Err(nothing(&rows));
    };
    if args.json {
        let mut document = as_json(&version)?;
        document["traffic"] = serde_json::to_value(rows)?;
        document["traffic"]["n_known"] = n_known.into();
        print_json(&document)?;
        return Ok(Outcome::Done);
    }
    print_version(&args.name, &version)?;
    let Rows { n_answers, n_duplicates, n_without_text, n_masked, n_without_logprob, .. } = rows;
    say!("of {n_answers} answers: {n_duplicates} doubles, {n_without_text} without a text");
    if args.append {
        say!("{n_new} were not there yet, {n_known} were");
    }
    say!("{n_masked} secrets and personal data masked");
    if n_without_logprob > 0 {
        say!("{n_without_logprob} others left out: their log-probabilities are not known");
    }
    Ok(Outcome::Done)
}

fn filter(args: &FromRequestsArgs, at: &Loop) -> anyhow::Result<Filter> {
    let cluster = args.cluster.as_deref().map(|id| at.book.cluster(id)).transpose();
    Ok(Filter {
        rating: args.feedback.map(|rating| match rating {
            RatingArg::Liked => Rating::Liked,
            RatingArg::Disliked => Rating::Disliked,
            RatingArg::Corrected => Rating::Corrected,
        }),
        cluster: cluster.map_err(wrong_use)?,
        model: args.model.clone(),
        route: args.route.clone(),
        max_mean_logprob: args.max_mean_logprob,
        since_ms: args.days.map(|days| at.days_ago("days", days)).transpose()?,
        until_ms: args.older_than.map(|days| at.days_ago("older-than", days)).transpose()?,
    })
}

/// What the newest version of a dataset has; `None` before the first.
fn known(home: &DataHome, name: &str) -> anyhow::Result<Option<KnownRows>> {
    let newest = match lm_data::versions(home, name, None, 1) {
        Err(DataError::UnknownDataset { .. }) => return Ok(None),
        versions => versions?,
    };
    if newest.is_empty() {
        return Ok(None);
    }
    let mut known = KnownRows::default();
    lm_data::export(home, name, None, &mut known)?;
    Ok(Some(known))
}

fn nothing(rows: &Rows) -> anyhow::Error {
    let (n, n_without, n_unknown) = (rows.n_answers, rows.n_without_text, rows.n_without_logprob);
    let unknown = match n_unknown {
        0 => String::new(),
        n => format!("; of {n} others no log-probabilities are known"),
    };
    anyhow::anyhow!(
        "nothing was published: {n} answers fit, {n_without} of them without a text{unknown}"
    )
}

/// Rows on their way into a dataset.
pub(crate) struct RowFile {
    folder: PathBuf,
    rows: BufWriter<fs::File>,
}

impl RowFile {
    pub(crate) fn new() -> anyhow::Result<RowFile> {
        let folder = crate::model::home()?.path().join("store");
        let folder = folder.join(format!("rows-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(&folder)?;
        let rows = BufWriter::new(fs::File::create_new(folder.join("rows.jsonl"))?);
        Ok(RowFile { folder, rows })
    }

    pub(crate) fn add(&mut self, row: &Value) -> anyhow::Result<()> {
        writeln!(self.rows, "{row}")?;
        Ok(())
    }

    /// Under the given contract, or else under the dataset's own, or else under `schema`; as the version, or added to the
    /// newest one.
    pub(crate) fn publish(
        mut self,
        home: &DataHome,
        name: &str,
        schema: &str,
        contract: Option<&Path>,
        append: bool,
    ) -> anyhow::Result<Version> {
        self.rows.flush()?;
        let file = self.folder.join("rows.jsonl");
        let own = self.folder.join("schema.json");
        fs::write(&own, schema)?;
        let ingest = |contract| {
            let format = Some(Format::Jsonl);
            let options = IngestOptions { contract, format, append, ..IngestOptions::default() };
            lm_data::ingest(home, name, std::slice::from_ref(&file), &options, &mut |_| ())
        };
        let version = match ingest(contract.map(Path::to_owned)) {
            Err(DataError::NoContract { .. }) => ingest(Some(own)),
            other => other,
        };
        Ok(version?)
    }
}

impl Drop for RowFile {
    fn drop(&mut self) {
        // Left over, it is a copy of what is in the store; the next start does not need it.
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("lastmile: cannot remove {}: {error}", self.folder.display());
        }
    }
}
