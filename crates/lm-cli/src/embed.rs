//! `lastmile embed`: texts to vectors, without a server.

use std::io::{BufRead, Write};

use clap::Args;
use lastmile::{EncodeRequest, EncoderOutput, EncoderText, RequestId, Task, normalize};
use serde_json::json;

use crate::args::RunOptions;
use crate::model::{runtime_config, start};
use crate::outcome::{Outcome, WrongUse, print_json, say};

/// Texts that are encoded at once.
const CHUNK: usize = 256;
/// Bytes of a line of standard input.
const MAX_LINES: usize = 1 << 20;

/// Turn texts into vectors.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile embed \"a text\" \"another\" --json")]
pub(crate) struct EmbedArgs {
    /// The texts; without any, the lines of standard input.
    texts: Vec<String>,
    /// An encoder: a card's name, a folder, `hf:org/repo`, or `placeholder:mode=embed`.
    #[arg(long, default_value = "all-minilm-l6-v2")]
    model: String,
    /// Cut texts that are too long, and say so.
    #[arg(long)]
    truncate: bool,
    /// One JSON document: model, dimensions, embeddings, tokens, warnings.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn embed(args: &EmbedArgs) -> anyhow::Result<Outcome> {
    let texts = match args.texts.is_empty() {
        true => std::io::stdin().lock().lines().take(MAX_LINES).collect::<Result<Vec<_>, _>>()?,
        false => args.texts.clone(),
    };
    let runtime = start(runtime_config(&args.model, &args.run)?)?;
    let output = runtime.info().encoder.as_ref().map(|info| &info.spec.output);
    let Some(EncoderOutput::Vector { dimensions }) = output else {
        let name = &runtime.info().name;
        return Err(WrongUse(format!("--model is {name}, which gives no vectors")).into());
    };
    let (mut vectors, mut warnings, mut n_tokens) = (Vec::new(), Vec::new(), 0_u64);
    for chunk in texts.chunks(CHUNK) {
        let texts = chunk.iter().cloned().map(EncoderText::Text).collect();
        let request = EncodeRequest {
            truncate: args.truncate,
            ..EncodeRequest::new(RequestId(0), Task::Embed, texts)
        };
        let encoding = runtime.encode(&request)?;
        warnings.extend(encoding.warnings().to_vec());
        let mut encoded = encoding.wait()?;
        encoded.rows.iter_mut().for_each(|row| normalize(row));
        n_tokens += u64::from(encoded.n_tokens);
        vectors.append(&mut encoded.rows);
    }
    if args.json {
        print_json(&json!({
            "model": runtime.info().name,
            "dimensions": dimensions,
            "embeddings": vectors,
            "tokens": n_tokens,
            "warnings": warnings,
        }))?;
    } else {
        warnings.iter().for_each(|warning| eprintln!("lastmile: {warning}"));
        for vector in &vectors {
            let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
            say!("{}", numbers.join(" "));
        }
    }
    Ok(Outcome::Done)
}
