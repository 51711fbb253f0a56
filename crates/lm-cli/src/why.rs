//! `lastmile why`: what one request waited for, from the store alone.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use lastmile::{RequestId, TraceId};
use lm_ops::{MAX_FOUND, Reader, Search, TimelinePage};

use crate::doctor::store_path;
use crate::model::home;
use crate::outcome::{Outcome, WrongUse, print_json};

/// Bare ids are UUIDs; those of answers carry a prefix.
const ID_PREFIXES: [&str; 4] = ["chatcmpl-", "cmpl-", "resp_", "msg_"];

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile why chatcmpl-0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")]
pub(crate) struct WhyArgs {
    /// The request: the id of its answer, a UUID, or the 32 digits of the trace that it is part of.
    pub(crate) id: String,
    /// One JSON document: id, model, answers, as of `GET /v1/requests/{id}/timeline`.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn why(args: &WhyArgs) -> anyhow::Result<Outcome> {
    let (id, trace) = (request_id(&args.id)?, TraceId::parse(&args.id));
    let reader = Reader::open(&store_path(home()?.path()))?;
    let ids = match trace {
        Some(trace) => of_trace(&reader, trace)?,
        None => vec![id],
    };
    if args.json && ids.len() > 1 {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let all = ids.join(", ");
        return Err(WrongUse(format!("ID: {} requests are of this trace: {all}", ids.len())).into());
    }
    for id in ids {
        let Some(page) = TimelinePage::read(&reader, id, None)? else {
            bail!(
                "request {id} is not in the store: it still runs, waits to be written (doctor says when the \
                 disk is slow), was erased, or was answered elsewhere"
            );
        };
        if args.json {
            print_json(&page)?;
        } else {
            write!(std::io::stdout(), "{page}")?;
            std::io::stdout().flush()?;
        }
    }
    Ok(Outcome::Done)
}

/// The requests of a trace, oldest first. One without a sender's trace is one of its own.
fn of_trace(reader: &Reader, trace: TraceId) -> anyhow::Result<Vec<RequestId>> {
    let found =
        reader.search(&Search { trace: Some(trace), limit: MAX_FOUND, ..Search::default() })?;
    let ids = found.iter().rev().map(|one| one.id.parse::<RequestId>());
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    // Let the caller say what may have become of it.
    Ok(if ids.is_empty() { vec![RequestId(trace.0)] } else { ids })
}

/// A request's id as people have it.
pub(crate) fn request_id(text: &str) -> anyhow::Result<RequestId> {
    let bare = ID_PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
    Ok(bare.parse().map_err(|error| WrongUse(format!("ID: {error}")))?)
}
