//! How a model was started, so that it can be started like that again: kept beside its release.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, FromArgMatches};
use lastmile::{AdapterSource, KvType, RuntimeConfig};
use serde::{Deserialize, Serialize};

use crate::args::RunOptions;
use crate::model::runtime_config;

/// Everything on the command line that decides an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct How {
    /// As `--model` takes it.
    pub(crate) model: String,
    pub(crate) weights: Option<String>,
    pub(crate) device: String,
    pub(crate) isa: Option<String>,
    pub(crate) kv_cache: Option<String>,
    pub(crate) kv_memory: Option<u64>,
    pub(crate) max_model_len: Option<usize>,
    /// The text of the template, where it is not the model's own.
    pub(crate) chat_template: Option<String>,
    pub(crate) placeholder_costs: Option<PathBuf>,
    pub(crate) placeholder_schema: Option<PathBuf>,
    /// Of a release with an adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<HowAdapter>,
}

/// Where an adapter was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct HowAdapter {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl How {
    /// What was said on the command line.
    pub(crate) fn of(model: &str, run: &RunOptions, config: &RuntimeConfig) -> Self {
        How {
            model: whole_path(model),
            weights: run.weights.clone(),
            device: run.device.clone(),
            isa: run.isa.clone(),
            kv_cache: run.kv_cache.map(|kv_type| kv_type.as_str().to_owned()),
            kv_memory: run.kv_memory,
            max_model_len: run.max_model_len,
            chat_template: config.chat_template.clone(),
            placeholder_costs: absolute(run.placeholder.placeholder_costs.as_ref()),
            placeholder_schema: absolute(run.placeholder.placeholder_schema.as_ref()),
            adapter: None,
        }
    }

    /// A model with everything by default.
    pub(crate) fn plain(model: &str) -> Self {
        How {
            model: whole_path(model),
            weights: None,
            device: "auto".to_owned(),
            isa: None,
            kv_cache: None,
            kv_memory: None,
            max_model_len: None,
            chat_template: None,
            placeholder_costs: None,
            placeholder_schema: None,
            adapter: None,
        }
    }

    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are JSON: this is a bug")
    }

    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(text).context("how the recorded release was started cannot be read")
    }

    /// The same again. What decides no answer is as the program's defaults are.
    pub(crate) fn config(&self) -> anyhow::Result<RuntimeConfig> {
        let mut run = defaults()?;
        run.weights.clone_from(&self.weights);
        run.device.clone_from(&self.device);
        run.isa.clone_from(&self.isa);
        let wrong = |error: String| anyhow::anyhow!("the recorded KV type {error}");
        run.kv_cache = self.kv_cache.as_deref().map(kv_type).transpose().map_err(wrong)?;
        run.kv_memory = self.kv_memory;
        run.max_model_len = self.max_model_len;
        run.chat_template = None;
        run.placeholder.placeholder_costs.clone_from(&self.placeholder_costs);
        run.placeholder.placeholder_schema.clone_from(&self.placeholder_schema);
        let mut config = runtime_config(&self.model, &run)?;
        config.chat_template.clone_from(&self.chat_template);
        let adapter = self.adapter.iter();
        config.adapters = adapter
            .map(|HowAdapter { name, path }| AdapterSource {
                name: name.clone(),
                path: path.clone(),
            })
            .collect();
        Ok(config)
    }
}

/// The KV type of this name.
pub(crate) fn kv_type(text: &str) -> Result<KvType, String> {
    let types = [KvType::F16, KvType::Int8];
    let found = types.into_iter().find(|kv_type| kv_type.as_str() == text);
    found.ok_or_else(|| "must be f16 or int8".to_owned())
}

/// What `RunOptions` are when nothing is said.
fn defaults() -> anyhow::Result<RunOptions> {
    let command = RunOptions::augment_args(clap::Command::new("lastmile"));
    let matches = command.try_get_matches_from(["lastmile"])?;
    Ok(RunOptions::from_arg_matches(&matches)?)
}

/// A path that is there, wherever the program runs; anything else as it is.
fn whole_path(model: &str) -> String {
    let whole = std::path::absolute(model).ok().filter(|path| path.exists());
    whole.and_then(|path| path.to_str().map(str::to_owned)).unwrap_or_else(|| model.to_owned())
}

fn absolute(path: Option<&PathBuf>) -> Option<PathBuf> {
    path.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
}
