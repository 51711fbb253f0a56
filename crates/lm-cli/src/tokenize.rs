//! `lastmile tokenize`: what a model's vocabulary makes of a text.

use std::io::Write;

use clap::Args;
use lm_models::{ModelRef, TokenizerSource};
use lm_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::json;

use crate::model::{home, locate, model_ref};
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::run::read_stdin;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile tokenize smollm2-135m-instruct 'Hello, world!'")]
pub(crate) struct TokenizeArgs {
    /// A card's name, a file (a GGUF file needs no weights), a folder, `hf:org/repo[:file]`, or `placeholder`.
    model: String,
    /// The text; `-` or nothing reads standard input.
    text: Option<String>,
    /// Leave out the tokens that begin and end a text.
    #[arg(long)]
    no_special: bool,
    /// Read names of control tokens, such as `<|im_end|>`, as these tokens.
    #[arg(long)]
    parse_special: bool,
    /// Fetch nothing.
    #[arg(long, env = "LASTMILE_OFFLINE")]
    offline: bool,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn tokenize(args: &TokenizeArgs) -> anyhow::Result<Outcome> {
    let text = match args.text.as_deref() {
        None | Some("-") => read_stdin()?,
        Some(text) => text.to_owned(),
    };
    if text.len() > Tokenizer::MAX_TEXT_BYTES {
        let limit = Tokenizer::MAX_TEXT_BYTES;
        return Err(WrongUse(format!("the text has over {limit} bytes, the most")).into());
    }
    let tokenizer = tokenizer(&args.model, args.offline)?;
    let options =
        EncodeOptions { add_special: !args.no_special, parse_special: args.parse_special };
    let tokens = tokenizer.encode(&text, options)?;
    let n_lost = tokenizer.unspelled_bytes(&text);
    if args.json {
        let pieces: Vec<_> = tokens.iter().map(|&id| tokenizer.token_text(id)).collect();
        print_json(&json!({
            "count": tokens.len(), "tokens": tokens, "pieces": pieces, "unspelled_bytes": n_lost,
        }))?;
        return Ok(Outcome::Done);
    }
    for &id in &tokens {
        say!("{id:>7}  {:?}", tokenizer.token_text(id));
    }
    if n_lost > 0 {
        eprintln!("{n_lost} bytes of the text are not in the vocabulary and were left out");
    }
    Ok(Outcome::Done)
}

fn tokenizer(model: &str, offline: bool) -> anyhow::Result<Tokenizer> {
    let home = home()?;
    let model = model_ref(model, &home)?;
    if matches!(model, ModelRef::Placeholder(_)) {
        return Ok(Tokenizer::placeholder());
    }
    let path = locate(&model, &home, offline)?;
    Ok(match lm_models::open_tokenizer(&path)? {
        TokenizerSource::Gguf(vocab) => Tokenizer::from_gguf(&vocab)?,
        TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config } => {
            Tokenizer::from_tokenizer_json(&tokenizer_json, tokenizer_config.as_deref())?
        }
        TokenizerSource::Placeholder => Tokenizer::placeholder(),
    })
}
