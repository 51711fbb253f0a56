//! `lastmile perplexity`: how well a model predicts a text.

use std::io::Write;

use anyhow::Context;
use lastmile::PerplexityError;
use serde_json::json;

use crate::args::PerplexityArgs;
use crate::model::runtime_config;
use crate::outcome::{Outcome, WrongUse, print_json, say};

/// Longest text.
const MAX_TEXT_BYTES: u64 = 16 << 20;

pub(crate) fn perplexity(args: &PerplexityArgs) -> anyhow::Result<Outcome> {
    let path = args.file.display();
    let size = std::fs::metadata(&args.file).with_context(|| format!("cannot read {path}"))?.len();
    if size > MAX_TEXT_BYTES {
        let why = format!("{path} has {size} bytes, but at most {MAX_TEXT_BYTES} are scored");
        return Err(WrongUse(why).into());
    }
    let text =
        std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {path}"))?;
    if args.chunks == Some(0) {
        return Err(WrongUse("--chunks is 0, but must be at least 1".to_owned()).into());
    }
    let config = runtime_config(&args.model, &args.run)?;
    let progress = |done: usize, total: usize, so_far: f64| {
        eprintln!("window {done}/{total}: perplexity {so_far:.4}");
    };
    let found = lastmile::perplexity(&config, &text, args.ctx, args.chunks, progress);
    let found = found.map_err(|error| match error {
        PerplexityError::Ctx { .. } => anyhow::Error::from(WrongUse(error.to_string())),
        other => other.into(),
    })?;
    if args.json {
        print_json(&json!({
            "perplexity": found.perplexity,
            "mean_nll": found.mean_nll,
            "standard_error": found.standard_error,
            "windows": found.n_windows,
            "scored_tokens": found.n_scored,
            "ctx": args.ctx,
        }))?;
    } else {
        let spread = found.perplexity * found.standard_error;
        say!("perplexity {:.4} +/- {spread:.4}", found.perplexity);
    }
    Ok(Outcome::Done)
}
