//! Which models a server has: from `--model`, `--alias` and their like to a registry.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use lastmile::{
    AdapterSource, Configure, Declared, DiskCacheConfig, LoadError, MemoryPlan, Observer, Registry,
    RegistryError, RegistryOptions, Runtime, RuntimeConfig,
};

use crate::args::RunOptions;
use crate::how::How;
use crate::model::runtime_config;
use crate::outcome::WrongUse;

/// Which models, and how they are run.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServedArgs {
    /// A card's name, a file, a folder, `hf:org/repo[:file]`, or `placeholder[:options]`; may be
    /// given again, the first is the default.
    ///
    /// With NAME= before it, clients ask for it as NAME.
    #[arg(
        long = "model",
        value_name = "[NAME=]MODEL",
        default_value = "smollm2-135m-instruct",
        env = "LASTMILE_MODEL"
    )]
    pub(crate) models: Vec<String>,
    /// The same as `--model`.
    #[arg(value_name = "[NAME=]MODEL", conflicts_with = "models", hide_short_help = true)]
    pub(crate) positional: Vec<String>,
    /// Another name for a model; may be given again.
    #[arg(long = "alias", value_name = "ALIAS=NAME")]
    pub(crate) aliases: Vec<String>,
    /// Models that may be loaded at once; the one idle longest makes room. By default all.
    #[arg(long, value_name = "N", env = "LASTMILE_MAX_LOADED_MODELS", hide_short_help = true)]
    pub(crate) max_loaded_models: Option<std::num::NonZeroUsize>,
    /// Unload a model that nobody asked for so long, such as 90s, 10m or 2h.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = time,
        env = "LASTMILE_MODEL_IDLE_TIMEOUT",
        hide_short_help = true
    )]
    pub(crate) model_idle_timeout: Option<Duration>,
    /// A low-rank adapter of the first model, a folder as PEFT writes it; clients ask for it as NAME. May be given again.
    #[arg(long = "lora", value_name = "NAME=PATH", hide_short_help = true)]
    pub(crate) loras: Vec<String>,
    /// Adapters of a model that may be loaded at once.
    #[arg(
        hide_short_help = true,
        long,
        value_name = "N",
        default_value_t = 8,
        env = "LASTMILE_MAX_LORAS",
        hide_short_help = true
    )]
    pub(crate) max_loras: usize,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// What all models of a server have in common.
pub(crate) struct Shared {
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) disk_cache: Option<DiskCacheConfig>,
    /// What the server sets aside for requests.
    pub(crate) request_bytes: u64,
}

/// The models as they were declared; those that are not installed are fetched now, so that no request
/// has to wait for that.
pub(crate) fn registry(
    args: &ServedArgs,
    served_name: Option<&str>,
    shared: &Shared,
) -> anyhow::Result<Registry> {
    let mut declared = Vec::new();
    let models = if args.positional.is_empty() { &args.models } else { &args.positional };
    for (i, text) in models.iter().enumerate() {
        declared.push(declare(args, text, served_name.filter(|_| i == 0), i == 0, shared)?);
    }
    for text in &args.aliases {
        let (alias, name) = text
            .split_once('=')
            .filter(|(alias, _)| is_name(alias))
            .ok_or_else(|| WrongUse(format!("--alias is {text:?}, but must be ALIAS=NAME")))?;
        let known: Vec<_> = declared.iter().map(|model: &Declared| model.name.clone()).collect();
        let model = declared.iter_mut().find(|model| model.name == name).ok_or_else(|| {
            let known = known.join(", ");
            WrongUse(format!("--alias {text} is for a model that is not served: there is {known}"))
        })?;
        model.aliases.push(alias.to_owned());
    }
    let options = RegistryOptions {
        max_loaded: args.max_loaded_models.map(usize::from),
        idle_timeout: args.model_idle_timeout,
        memory_limit: args.run.memory_limit.map(|mib| mib.saturating_mul(1 << 20)),
    };
    let registry = Registry::new(declared, options)
        .map_err(|error| WrongUse(format!("{error}; NAME=MODEL gives a model another name")))?;
    for text in &args.loras {
        let named =
            text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
        let (name, path) =
            named.ok_or_else(|| WrongUse(format!("--lora is {text:?}, but must be NAME=PATH")))?;
        let source = AdapterSource { name: name.to_owned(), path: path.into() };
        let declared = registry.declare_adapter(None, source);
        declared.map_err(|error| WrongUse(format!("--lora {text}: {error}")))?;
    }
    Ok(registry)
}

/// Loads the default model; limits that contradict each other are a mistake of the caller.
pub(crate) fn load_default(models: &Registry) -> anyhow::Result<Arc<Runtime>> {
    models.load(None).map_err(|error| match error {
        RegistryError::Load { source, .. } => match *source {
            LoadError::Limits(limits) => WrongUse(limits.to_string()).into(),
            other => other.into(),
        },
        other => other.into(),
    })
}

fn declare(
    args: &ServedArgs,
    text: &str,
    served_name: Option<&str>,
    is_default: bool,
    shared: &Shared,
) -> anyhow::Result<Declared> {
    let (name, source) = named(text);
    let config = runtime_config(source, &args.run)?;
    let name = match served_name.or(name).or(config.served_name.as_deref()) {
        Some(name) => name.to_owned(),
        None => MemoryPlan::of(&config)?.name,
    };
    let (source, run) = (source.to_owned(), RunOptions { offline: true, ..args.run.clone() });
    let observer = Arc::clone(&shared.observer);
    let disk_cache = shared.disk_cache.clone();
    // What requests need is planned once, with the model that is loaded first.
    let max_adapters = args.max_loras;
    let reserved_bytes = if is_default { shared.request_bytes } else { 0 };
    let configure: Configure = Arc::new(move || {
        let config = runtime_config(&source, &run)
            .map_err(|error| LoadError::Configure { message: format!("{error:#}") })?;
        let (observer, disk_cache) = (Arc::clone(&observer), disk_cache.clone());
        let how = Some(How::of(&source, &run, &config).text());
        Ok(RuntimeConfig { observer, disk_cache, reserved_bytes, max_adapters, how, ..config })
    });
    Ok(Declared { name, aliases: Vec::new(), configure })
}

/// The name and the model of `[NAME=]MODEL`. A path that is there is a path, whatever it holds.
fn named(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, model)) if is_name(name) && !Path::new(text).exists() => (Some(name), model),
        _ => (None, text),
    }
}

fn is_name(text: &str) -> bool {
    let is_part = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    !text.is_empty() && text.bytes().all(is_part)
}

/// A time with its unit.
fn time(text: &str) -> Result<Duration, String> {
    let wanted = || "must be a number above 0 with s, m or h behind it, such as 10m".to_owned();
    let unit_s = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3600,
        _ => return Err(wanted()),
    };
    let n: u32 = text[..text.len() - 1].parse().map_err(|_| wanted())?;
    if n == 0 { Err(wanted()) } else { Ok(Duration::from_secs(u64::from(n) * unit_s)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_before_models() {
        #[track_caller]
        fn check(text: &str, expect: (Option<&str>, &str)) {
            assert_eq!(named(text), expect, "{text}");
        }
        check("a", (None, "a"));
        check("a=b", (Some("a"), "b"));
        check("a-1.5=/x/y=z.gguf", (Some("a-1.5"), "/x/y=z.gguf"));
        check("placeholder:mode=echo,seed=1", (None, "placeholder:mode=echo,seed=1"));
        check("p=placeholder:mode=echo", (Some("p"), "placeholder:mode=echo"));
        check("/x/a=b", (None, "/x/a=b"));
        check("=b", (None, "=b"));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "10", "m", "0s", "-1s", "1.5h", "10M", "4294967296s", "1é"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
