//! `lastmile data`: ingest, watch, infer.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lastmile::WeightsFrom;
use lm_data::{
    CountTokens, DataError, DataHome, Format, IngestOptions, IngestProgress, Version, WatchEvent,
    WatchOptions,
};
use lm_models::{ModelRef, Progress, TokenizerSource};
use lm_ops::TokenCounter;
use lm_tokenizer::{EncodeOptions, Tokenizer};

use crate::data_args::{DataArgs, DataVerb, InferArgs, IngestArgs, ReadArgs, WatchArgs};
use crate::from_requests::from_requests;
use crate::model::{home, locate, model_ref};
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::progress::Drawn;
use crate::{data_versions, quarantine};

/// Where the datasets are.
pub(crate) fn data_home() -> anyhow::Result<DataHome> {
    Ok(DataHome(data_folder(home()?.path())))
}

/// Where a home keeps its datasets.
pub(crate) fn data_folder(home: &Path) -> PathBuf {
    home.join("data")
}

pub(crate) fn data(args: &DataArgs) -> anyhow::Result<Outcome> {
    match &args.verb {
        DataVerb::Ingest(args) => ingest(args),
        DataVerb::Watch(args) => watch(args),
        DataVerb::Infer(args) => infer(args),
        DataVerb::FromRequests(args) => from_requests(args),
        DataVerb::Quarantine { list } => quarantine::list(list),
        #[cfg(feature = "object-store")]
        DataVerb::Push(args) => crate::data_remote::push(args),
        #[cfg(feature = "object-store")]
        DataVerb::Pull(args) => crate::data_remote::pull(args),
        other => data_versions::verb(other),
    }
}

fn options(home: &DataHome, name: &str, args: &ReadArgs) -> anyhow::Result<IngestOptions> {
    let contract = args.contract.clone().or_else(|| args.schema.clone());
    let count_tokens = count_tokens(home, name, contract.as_deref())?;
    Ok(IngestOptions {
        contract,
        allow: args.allow.clone(),
        format: format(args.format.as_deref())?,
        include: args.include.clone(),
        max_row_bytes: args.max_row_bytes,
        count_tokens,
        ..IngestOptions::default()
    })
}

fn format(text: Option<&str>) -> anyhow::Result<Option<Format>> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error: DataError| WrongUse(error.to_string()).into())
}

/// The tokenizer that the contract names, when some rule counts tokens.
pub(crate) fn count_tokens(
    data_home: &DataHome,
    name: &str,
    contract: Option<&Path>,
) -> anyhow::Result<Option<CountTokens>> {
    let Some(model) = lm_data::tokenizer_of(data_home, name, contract)? else { return Ok(None) };
    let home = home()?;
    let source = match model_ref(&model, &home)? {
        ModelRef::Placeholder(_) => TokenizerSource::Placeholder,
        model => {
            let path = locate(&model, &home, false)?;
            lm_models::open(&path, WeightsFrom::File)?.tokenizer
        }
    };
    let tokenizer = match &source {
        TokenizerSource::Placeholder => Tokenizer::placeholder(),
        TokenizerSource::Gguf(vocab) => Tokenizer::from_gguf(vocab)?,
        TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config } => {
            Tokenizer::from_tokenizer_json(tokenizer_json, tokenizer_config.as_deref())?
        }
    };
    // A text that the tokenizer refuses is over any limit.
    let count = move |text: &str| {
        let ids = tokenizer.encode(text, EncodeOptions::default());
        ids.map_or(u64::MAX, |ids| ids.len() as u64)
    };
    Ok(Some(CountTokens::new(count)))
}

/// The same for a server, whose datasets come and go; a tokenizer that was read is kept.
pub(crate) fn token_counter() -> TokenCounter {
    let kept: Mutex<HashMap<String, CountTokens>> = Mutex::default();
    Arc::new(move |data_home: &DataHome, name: &str| -> Result<Option<CountTokens>, String> {
        let said = |error: anyhow::Error| format!("{error:#}");
        let wanted =
            lm_data::tokenizer_of(data_home, name, None).map_err(|error| said(error.into()))?;
        let Some(model) = wanted else { return Ok(None) };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&model) {
            return Ok(Some(known.clone()));
        }
        let read = count_tokens(data_home, name, None).map_err(said)?;
        if let Some(count) = &read {
            kept.insert(model, count.clone());
        }
        Ok(read)
    })
}

fn ingest(args: &IngestArgs) -> anyhow::Result<Outcome> {
    let home = data_home()?;
    let options = IngestOptions { append: args.append, ..options(&home, &args.name, &args.read)? };
    let drawn = Drawn::new();
    let mut bar = Bar { drawn: &drawn, is_open: false };
    let mut progress = |at: IngestProgress| bar.draw(&args.name, at);
    let version = lm_data::ingest(&home, &args.name, &args.paths, &options, &mut progress);
    bar.end();
    let version = match version {
        // The audit said no: that is an answer.
        Err(error @ DataError::AuditFailed { .. }) => {
            eprintln!("lastmile: {error}");
            return Ok(Outcome::No);
        }
        other => other?,
    };
    if args.json {
        print_json(&as_json(&version)?)?;
    } else {
        print_version(&args.name, &version)?;
    }
    Ok(Outcome::Done)
}

fn watch(args: &WatchArgs) -> anyhow::Result<Outcome> {
    let home = data_home()?;
    let settle = Duration::try_from_secs_f64(args.settle)
        .map_err(|_| WrongUse(format!("--settle is {}, but must be 0 or more", args.settle)))?;
    let options = WatchOptions {
        ingest: options(&home, &args.name, &args.read)?,
        once: args.once,
        settle,
        ..WatchOptions::default()
    };
    let drawn = Drawn::new();
    let mut bar = Bar { drawn: &drawn, is_open: false };
    let mut wait = |time| {
        std::thread::sleep(time);
        true
    };
    let mut printed = Ok(());
    let mut on_event = |event| match event {
        WatchEvent::Progress(at) => bar.draw(&args.name, at),
        WatchEvent::Published(version) => {
            bar.end();
            if !args.json && printed.is_ok() {
                printed = print_version(&args.name, &version);
            }
        }
        WatchEvent::Refused(error) | WatchEvent::LeftOut(error) => {
            bar.end();
            eprintln!("lastmile: {error}");
        }
    };
    let watched =
        lm_data::watch(&home, &args.name, &args.folder, &options, &mut wait, &mut on_event);
    bar.end();
    let (n_versions, any_refused) = watched?;
    printed?;
    if any_refused {
        return Ok(Outcome::No);
    }
    if args.json {
        let mut document = as_json(&lm_data::show(&home, &args.name, None)?)?;
        document["versions_published"] = n_versions.into();
        print_json(&document)?;
    } else if n_versions == 0 {
        say!("nothing new");
    }
    Ok(Outcome::Done)
}

/// A bar over the bytes of the sources, opened by the first progress.
struct Bar<'a> {
    drawn: &'a Drawn,
    is_open: bool,
}

impl Bar<'_> {
    fn draw(&mut self, name: &str, at: IngestProgress) {
        if !self.is_open {
            let total = Some(at.size_bytes).filter(|size| *size > 0);
            self.drawn.begin(&format!("reading into {name}"), total);
            self.is_open = true;
        }
        self.drawn.advance(at.bytes_read);
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.drawn.end();
        }
    }
}

fn infer(args: &InferArgs) -> anyhow::Result<Outcome> {
    let format = format(args.format.as_deref())?;
    let inferred = lm_data::infer(&args.file, format, args.rows)?;
    if let Some(output) = &args.output {
        let file = std::fs::File::create_new(output);
        file.and_then(|mut file| file.write_all(inferred.contract.as_bytes()))
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", output.display()))?;
    }
    if args.json {
        print_json(&inferred)?;
    } else if let Some(output) = &args.output {
        let (n_rows, n_broken) = (inferred.n_rows, inferred.n_broken);
        say!("{}: from {n_rows} rows; {n_broken} could not be read", output.display());
    } else {
        write!(std::io::stdout(), "{}", inferred.contract)?;
    }
    Ok(Outcome::Done)
}

/// What an ingest published, with the keys of its manifest.
pub(crate) fn as_json(version: &Version) -> anyhow::Result<serde_json::Value> {
    let mut document = serde_json::to_value(&version.manifest)?;
    document["already_published"] = version.already_published.into();
    document["warnings"] = serde_json::to_value(&version.warnings)?;
    document["folder"] = serde_json::to_value(&version.folder)?;
    Ok(document)
}

pub(crate) fn print_version(name: &str, version: &Version) -> anyhow::Result<()> {
    let manifest = &version.manifest;
    let again = if version.already_published { " (published before)" } else { "" };
    say!("{name} version {}{again}", &manifest.version[..12]);
    say!("{} rows in", manifest.rows_in);
    say!("{} rows published", manifest.rows_published);
    say!("{} rows in quarantine", manifest.rows_quarantined);
    for (rule, rows) in &manifest.by_rule {
        say!("  {rows} by {rule}");
    }
    for warning in &version.warnings {
        let percent = 100.0 * warning.rows as f64 / warning.rows_in as f64;
        say!("warning: {} is broken by {percent:.2} % of the rows read", warning.rule);
    }
    Ok(())
}
