//! From what was said on the command line to a runtime's configuration, fetching on the way.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use lastmile::{EngineOptions, LoadError, ModelSource, Runtime, RuntimeConfig, WeightsFrom};
use lm_models::{Catalog, FetchError, Home, ModelRef, PullOptions};

use crate::args::RunOptions;
use crate::cache_args::Speculate;
use crate::outcome::WrongUse;
use crate::placeholder::placeholder_options;
use crate::progress::Drawn;

/// Where models, store and data are.
pub(crate) fn home() -> anyhow::Result<Home> {
    Ok(Home::from_env()?)
}

/// What a model's name stands for.
pub(crate) fn model_ref(text: &str, home: &Home) -> anyhow::Result<ModelRef> {
    let catalog = Catalog::load(home)?;
    ModelRef::parse(text, &catalog).map_err(|error| match error {
        FetchError::BadName { .. } | FetchError::UnknownModel { .. } => {
            WrongUse(error.to_string()).into()
        }
        other => other.into(),
    })
}

/// The configuration of a runtime for `model`; a model that is not there is fetched.
pub(crate) fn runtime_config(model: &str, options: &RunOptions) -> anyhow::Result<RuntimeConfig> {
    let home = home()?;
    let model = model_ref(model, &home)?;
    let source = match &model {
        ModelRef::Placeholder(_) if options.weights.is_some() => {
            return Err(
                WrongUse("--weights is given, but a placeholder has none".to_owned()).into()
            );
        }
        ModelRef::Placeholder(text) => {
            ModelSource::Placeholder(placeholder_options(text, &options.placeholder)?)
        }
        _ if options.placeholder.is_given() => {
            let what =
                "--placeholder-costs or --placeholder-schema is given, but the model is none";
            return Err(WrongUse(what.to_owned()).into());
        }
        _ => ModelSource::Path {
            path: locate(&model, &home, options.offline)?,
            weights: weights(options)?,
        },
    };
    let mut config = RuntimeConfig::new(source);
    if let ModelRef::Card(name) = &model {
        config.served_name = Some(name.clone());
        config.default_sampling = Catalog::load(&home)?.get(name)?.sampling.unwrap_or_default();
    }
    config.device.clone_from(&options.device);
    config.isa_cap.clone_from(&options.isa);
    config.kv_type = options.kv_cache;
    config.kv_bytes = options.kv_memory.map(|mib| mib.saturating_mul(1 << 20));
    config.memory_limit = options.memory_limit.map(|mib| mib.saturating_mul(1 << 20));
    config.max_model_len = options.max_model_len;
    if let Some(path) = &options.chat_template {
        let text = std::fs::read_to_string(path);
        config.chat_template =
            Some(text.with_context(|| format!("cannot read {}", path.display()))?);
    }
    config.engine = EngineOptions {
        max_num_seqs: options.max_num_seqs,
        max_batch_tokens: options.max_batch_tokens,
        max_prefill_chunk: options.max_batch_tokens,
        max_queued_requests: options.max_queued_requests,
        max_queued_tokens: options.max_queued_tokens,
        max_token_gap: Duration::from_millis(options.max_token_gap_ms),
        prefix_cache: !options.no_prefix_cache,
        speculate: options.speculate == Speculate::Auto,
        ..EngineOptions::default()
    };
    Ok(config)
}

/// Loads the model; limits that contradict each other are a mistake of the caller.
pub(crate) fn start(config: RuntimeConfig) -> anyhow::Result<Runtime> {
    Runtime::start(config).map_err(|error| match error {
        LoadError::Limits(limits) => WrongUse(limits.to_string()).into(),
        other => other.into(),
    })
}

/// The path of a model, fetched when it is not there.
pub(crate) fn locate(model: &ModelRef, home: &Home, offline: bool) -> anyhow::Result<PathBuf> {
    if let Some(path) = lm_models::locate(model, home)? {
        return Ok(path);
    }
    if let ModelRef::Path(path) = model {
        anyhow::bail!("there is no file or folder {}", path.display());
    }
    let options = PullOptions { offline, ..PullOptions::default() };
    Ok(lm_models::pull(model, home, &options, &Drawn::new())?.path)
}

fn weights(options: &RunOptions) -> anyhow::Result<WeightsFrom> {
    let Some(text) = &options.weights else { return Ok(WeightsFrom::File) };
    match random_seed(text) {
        Some(seed) => Ok(WeightsFrom::Random { seed }),
        None => Err(WrongUse(format!("--weights is {text:?}, but must be random:SEED")).into()),
    }
}

/// The seed of `random:SEED`.
pub(crate) fn random_seed(text: &str) -> Option<u64> {
    text.strip_prefix("random:")?.parse().ok()
}
