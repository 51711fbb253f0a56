//! `lastmile quarantine`: the rows that broke a rule.

use std::io::Write;

use lm_data::{DataError, Release, Report, Select};

use crate::data::{count_tokens, data_home};
use crate::data_args::{ListArgs, PickArgs, QuarantineArgs, QuarantineVerb};
use crate::outcome::{Outcome, print_json, say};

pub(crate) fn quarantine(args: &QuarantineArgs) -> anyhow::Result<Outcome> {
    match &args.verb {
        QuarantineVerb::List { list: args } => list(args),
        QuarantineVerb::Show { name, id, json } => show(name, id, *json),
        QuarantineVerb::Repair { pick } => release(pick, Release::Repaired),
        QuarantineVerb::Release { pick } => release(pick, Release::AsIs),
    }
}

pub(crate) fn list(args: &ListArgs) -> anyhow::Result<Outcome> {
    let report = match &args.version {
        _ if args.unpublished => Report::Unpublished,
        Some(version) => Report::Version(version),
        None => Report::Newest,
    };
    let mut rows = Vec::new();
    for row in lm_data::quarantine(&data_home()?, &args.name, report)? {
        if rows.len() == args.limit {
            break;
        }
        let row = row?;
        if args.rule.as_ref().is_none_or(|rule| *rule == row.rule) {
            rows.push(row);
        }
    }
    if args.json {
        print_json(&rows)?;
        return Ok(Outcome::Done);
    }
    for row in rows {
        let (offset, line) = (row.offset_bytes, row.line);
        let repair = if row.repair.is_some() { " (a repair is proposed)" } else { "" };
        let source = &row.source;
        say!(
            "{}  {source}, line {line}, byte {offset}: {}: {}{repair}",
            row.id,
            row.rule,
            row.detail
        );
    }
    Ok(Outcome::Done)
}

fn show(name: &str, id: &str, json: bool) -> anyhow::Result<Outcome> {
    let mut found = Vec::new();
    for row in lm_data::quarantine(&data_home()?, name, Report::Newest)? {
        let row = row?;
        if row.id.starts_with(id) {
            found.push(row);
        }
    }
    let [row] = found.as_slice() else {
        let (name, id, n_matches) = (name.to_owned(), id.to_owned(), found.len());
        return Err(DataError::UnknownRow { name, id, n_matches }.into());
    };
    if json {
        print_json(row)?;
        return Ok(Outcome::Done);
    }
    say!("{} of {}, line {}, byte {}", row.id, row.source, row.line, row.offset_bytes);
    say!("{}: {}", row.rule, row.detail);
    let raw = row.raw_bytes().unwrap_or_default();
    say!("{}", String::from_utf8_lossy(&raw).escape_debug());
    if let Some(repair) = &row.repair {
        say!("proposed ({}):", repair.kind);
        say!("{}", repair.row);
    }
    Ok(Outcome::Done)
}

fn release(args: &PickArgs, how: Release) -> anyhow::Result<Outcome> {
    let select = match &args.rule {
        _ if args.all => Select::All,
        Some(rule) => Select::Rule(rule.clone()),
        None => Select::Ids(args.ids.clone()),
    };
    let home = data_home()?;
    let count_tokens = count_tokens(&home, &args.name, None)?;
    let released = match lm_data::release(&home, &args.name, &select, how, count_tokens) {
        // That nothing may be published is an answer.
        Err(error @ DataError::NothingReleased { .. }) => {
            eprintln!("lastmile: {error}");
            return Ok(Outcome::No);
        }
        other => other?,
    };
    if args.json {
        print_json(&released)?;
        return Ok(Outcome::Done);
    }
    let version = &released.version.manifest.version[..12];
    say!("{} version {version}: {} rows published", args.name, released.rows.len());
    for (id, why) in &released.kept {
        say!("kept {id}: {why}");
    }
    Ok(Outcome::Done)
}
