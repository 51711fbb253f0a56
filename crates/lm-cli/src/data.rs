//! `lastmile data`: ingest, log, quarantine.

use std::io::Write;

use lm_data::{DataError, DataHome, IngestOptions, IngestProgress, Report, Version};
use lm_models::Progress;

use crate::args::{DataArgs, DataVerb};
use crate::model::home;
use crate::outcome::{Outcome, print_json, say};
use crate::progress::Drawn;

pub(crate) fn data(args: &DataArgs) -> anyhow::Result<Outcome> {
    let data_home = DataHome(home()?.path().join("data"));
    match &args.verb {
        DataVerb::Ingest { name, file, schema, allow, json } => {
            let options = IngestOptions {
                schema: schema.clone(),
                allow: allow.clone(),
                ..IngestOptions::default()
            };
            let drawn = Drawn::new();
            drawn.begin(&format!("reading {}", file.display()), None);
            let mut progress = |at: IngestProgress| drawn.advance(at.bytes_read);
            let version = lm_data::ingest(&data_home, name, file, &options, &mut progress);
            drawn.end();
            let version = match version {
                // The audit said no: that is an answer.
                Err(error @ DataError::AuditFailed { .. }) => {
                    eprintln!("lastmile: {error}");
                    return Ok(Outcome::No);
                }
                other => other?,
            };
            print_version(name, &version, *json)?;
        }
        DataVerb::Log { name, json } => {
            let versions = lm_data::log(&data_home, name)?;
            if *json {
                print_json(&versions)?;
            } else {
                for version in versions {
                    let (id, published) = (&version.version[..12], version.rows_published);
                    say!("{id}  {published} of {} rows published", version.rows_in);
                }
            }
        }
        DataVerb::Quarantine { name, version, unpublished, limit, json } => {
            let report = match version {
                _ if *unpublished => Report::Unpublished,
                Some(version) => Report::Version(version),
                None => Report::Newest,
            };
            let rows = lm_data::quarantine(&data_home, name, report)?.take(*limit);
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            if *json {
                print_json(&rows)?;
            } else {
                for row in rows {
                    let (offset, line) = (row.offset_bytes, row.line);
                    say!("line {line}, byte {offset}: {}: {}", row.rule, row.detail);
                }
            }
        }
    }
    Ok(Outcome::Done)
}

/// What an ingest published.
fn print_version(name: &str, version: &Version, json: bool) -> anyhow::Result<()> {
    if json {
        let mut document = serde_json::to_value(&version.manifest)?;
        document["already_published"] = version.already_published.into();
        document["warnings"] = serde_json::to_value(&version.warnings)?;
        document["folder"] = serde_json::to_value(&version.folder)?;
        print_json(&document)?;
    } else {
        let manifest = &version.manifest;
        let again = if version.already_published { " (published before)" } else { "" };
        say!("{name} version {}{again}", &manifest.version[..12]);
        say!("{} rows in", manifest.rows_in);
        say!("{} rows published", manifest.rows_published);
        say!("{} rows in quarantine", manifest.rows_quarantined);
        for (rule, rows) in &manifest.by_rule {
            say!("  {rows} by {rule}");
        }
    }
    Ok(())
}
