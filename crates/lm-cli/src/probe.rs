//! `lastmile probe`: recorded answers that servers of this home compute again from time to time.

use std::io::Write;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use lm_ops::{ProbeError, ProbeFile, Reader, Utc, now_ms};
use serde_json::json;

use crate::doctor::store_path;
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::why::request_id;

#[derive(Debug, Args)]
#[command(
    after_help = "A server computes probes in idle slots: when it starts, after a reload, and each --probe-interval. One that is \
                  another answer is an alert on its page and in `lastmile doctor`, with what changed.\n\n\
                  Example:\n  lastmile probe add chatcmpl-0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --name greeting"
)]
pub(crate) struct ProbeArgs {
    #[command(subcommand)]
    pub(crate) verb: ProbeVerb,
    /// One JSON document: name, model, kept_at_ms, request, answers.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProbeVerb {
    /// Keep a request whose answers must stay what they are; one of the same name is replaced.
    Add {
        /// The request: the id of its answer, or a UUID.
        id: String,
        /// What the probe is called; by default the request's UUID.
        #[arg(long)]
        name: Option<String>,
    },
    /// What is kept. How it went: GET /ops/v1/probes.
    List,
    /// Forget one.
    Remove {
        /// Its name.
        name: String,
    },
}

pub(crate) fn probe(args: &ProbeArgs) -> anyhow::Result<Outcome> {
    let home = home()?;
    match &args.verb {
        ProbeVerb::Add { id, name } => {
            let id = request_id(id)?;
            let name = name.clone().unwrap_or_else(|| id.to_string());
            let path = ProbeFile::path(home.path(), &name).map_err(wrong_use)?;
            let reader = Reader::open(&store_path(home.path()))?;
            let probe = ProbeFile::of(&reader, id, now_ms()).map_err(wrong_use)?;
            probe.write(&path)?;
            tell(&name, &probe, args.json)?;
        }
        ProbeVerb::List => {
            for name in names(home.path())? {
                match ProbeFile::read(&ProbeFile::path(home.path(), &name)?) {
                    Ok(probe) => tell(&name, &probe, args.json)?,
                    Err(error) => say!("{name}  {error}"),
                }
            }
        }
        ProbeVerb::Remove { name } => {
            let path = ProbeFile::path(home.path(), name).map_err(wrong_use)?;
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    bail!(WrongUse(format!("there is no probe {name:?}")));
                }
                done => done.with_context(|| format!("cannot remove {}", path.display()))?,
            }
            if args.json {
                print_json(&json!({ "name": name, "removed": true }))?;
            } else {
                say!("{name}  removed");
            }
        }
    }
    Ok(Outcome::Done)
}

fn tell(name: &str, probe: &ProbeFile, json: bool) -> anyhow::Result<()> {
    let ProbeFile { model, kept_at_ms, bundle, .. } = probe;
    if json {
        return print_json(&json!({
            "name": name,
            "model": model,
            "kept_at_ms": kept_at_ms,
            "request": bundle.id,
            "answers": bundle.answers.len(),
        }));
    }
    let (at, n) = (Utc(*kept_at_ms), bundle.answers.len());
    say!("{name}  {model}  kept {at}  {n} answers of {}", bundle.id);
    Ok(())
}

fn names(home: &std::path::Path) -> anyhow::Result<Vec<String>> {
    let folder = ProbeFile::folder(home);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

/// What the caller can put right by calling otherwise.
fn wrong_use(error: ProbeError) -> anyhow::Error {
    match error {
        ProbeError::File { .. } => error.into(),
        other => WrongUse(other.to_string()).into(),
    }
}
