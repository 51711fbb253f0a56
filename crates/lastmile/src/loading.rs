//! From a model's files to a backend, a tokenizer and a template.

use lm_backend::{
    Backend, PlaceholderBackend, PlaceholderMode, PlaceholderOptions, PlaceholderVocab,
    ScriptedAnswer, ScriptedTokens, StepArbiter,
};
use lm_candle::{CandleBackend, CandleOptions, first_gpu};
use lm_chat::ChatTemplate;
use lm_cpu::{CpuBackend, CpuOptions};
use lm_models::{DefaultSampling, Model, TokenizerSource};
use lm_tokenizer::{EncodeOptions, Tokenizer, placeholder};
use lm_types::{Dialog, Prompt, ReasoningScanner, TextOptions};

use crate::adapters::{AdapterBase, AdapterHost};
use crate::machine::MemoryLimit;
use crate::memory::MemoryPlan;
use crate::prepare::tokens;
use crate::release::hex;
use crate::{LoadError, ModelSource, ReleaseFacts, RuntimeConfig};

/// Everything that a runtime needs of a model.
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) default_sampling: DefaultSampling,
    pub(crate) facts: ReleaseFacts,
    /// What it takes in all.
    pub(crate) planned_bytes: u64,
    /// As [`ModelInfo::own_len`](crate::ModelInfo::own_len).
    pub(crate) own_len: usize,
    /// Where adapters go; `None` where it can have none.
    pub(crate) adapters: Option<AdapterBase>,
    /// Of `planned_bytes`, what is for those that it is started with.
    pub(crate) adapter_bytes: u64,
    /// What the bits of its KV depend on.
    pub(crate) kv_facts: Vec<(&'static str, String)>,
}

/// What is shared with the other models of a process.
pub(crate) struct Surroundings<'a> {
    /// What this model may take.
    pub(crate) limit: Option<MemoryLimit>,
    /// Takes turns while the weights are read.
    pub(crate) arbiter: &'a StepArbiter,
}

pub(crate) fn load(config: &RuntimeConfig, around: Surroundings<'_>) -> Result<Loaded, LoadError> {
    match &config.model {
        ModelSource::Placeholder(options) => placeholder_model(config, around, options),
        ModelSource::Path { path, weights } => {
            real_model(config, around, lm_models::open(path, *weights)?)
        }
    }
}

/// Loads a model that has the process for itself.
pub(crate) fn load_alone(config: &RuntimeConfig) -> Result<Loaded, LoadError> {
    let limit = config.memory_ceiling();
    load(config, Surroundings { limit, arbiter: &StepArbiter::default() })
}

/// The tokenizer of a model's files.
pub(crate) fn tokenizer(source: &TokenizerSource) -> Result<Tokenizer, LoadError> {
    Ok(match source {
        TokenizerSource::Gguf(vocab) => Tokenizer::from_gguf(vocab)?,
        TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config } => {
            Tokenizer::from_tokenizer_json(tokenizer_json, tokenizer_config.as_deref())?
        }
        TokenizerSource::Placeholder => Tokenizer::placeholder(),
    })
}

fn real_model(
    config: &RuntimeConfig,
    around: Surroundings<'_>,
    model: Model,
) -> Result<Loaded, LoadError> {
    let mut tokenizer = tokenizer(&model.tokenizer)?;
    tokenizer.add_eog(&model.eos);
    if tokenizer.vocab_size() > model.spec.vocab_size {
        let (tokenizer, weights) = (tokenizer.vocab_size(), model.spec.vocab_size);
        return Err(LoadError::VocabMismatch { tokenizer, weights });
    }
    let source = config.chat_template.as_ref().or(model.chat_template.as_ref());
    let template = source.map(|source| chat_template(source, &tokenizer, &model)).transpose()?;
    if let Some(template) = &template {
        let mut marks = template.tool_format().marks().to_vec();
        if template.thinking().is_some() {
            marks.extend([ReasoningScanner::OPEN, ReasoningScanner::CLOSE]);
        }
        tokenizer.voice(&marks);
    }
    let (weights, name) = (hex(&model.weights_digest()), model.name.clone());
    let template_digest =
        hex(&blake3::hash(source.map_or("", String::as_str).as_bytes()).as_bytes()[..16]);
    let default_sampling = model.default_sampling.unwrap_or(config.default_sampling);
    let executor = Executor::choose(config, &model);
    let plan = MemoryPlan::of_model(config, around.limit, &executor, &model)?;
    plan.check()?;
    let decoder = format!("{:?}", model.spec);
    let spec = model.spec.clone();
    let (backend, host) = executor.load(config, model, plan.kv_bytes, around.arbiter)?;
    let kv_facts = kv_facts(backend.as_ref(), format!("{weights} {decoder}"));
    let facts = facts(config, backend.as_ref(), weights, &tokenizer, template_digest);
    let planned_bytes = plan.total_bytes();
    Ok(Loaded {
        adapters: Some(AdapterBase { host, spec }),
        adapter_bytes: plan.adapter_bytes(),
        name,
        facts,
        kv_facts,
        backend,
        template,
        default_sampling,
        tokenizer,
        planned_bytes,
        own_len: config.max_model_len.unwrap_or(plan.trained_len),
    })
}

/// What runs a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Executor {
    Cpu,
    Candle { device: String },
}

impl Executor {
    /// The one that the configuration names.
    pub(crate) fn choose(config: &RuntimeConfig, model: &Model) -> Self {
        match config.device.as_str() {
            "candle" => Executor::Candle { device: "cpu".to_owned() },
            "cpu" => Executor::Cpu,
            "auto" => Executor::on_gpu(first_gpu(), config).unwrap_or_else(|| {
                match CpuBackend::is_fast_for(model) {
                    Ok(()) => Executor::Cpu,
                    Err(reason) => {
                        tracing::warn!(%reason, "this model runs on the slow reference executor");
                        Executor::Candle { device: "cpu".to_owned() }
                    }
                }
            }),
            device => Executor::Candle { device: device.to_owned() },
        }
    }

    /// A GPU that is there, unless KV of a type was asked for that only `cpu` has.
    fn on_gpu(gpu: Option<&str>, config: &RuntimeConfig) -> Option<Self> {
        let executor = Executor::Candle { device: gpu?.to_owned() };
        let has = executor.kv_type(config);
        config.kv_type.is_none_or(|asked| asked.as_str() == has).then_some(executor)
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Executor::Cpu => "cpu",
            Executor::Candle { .. } => "candle",
        }
    }

    /// How it stores K and V.
    pub(crate) fn kv_type(&self, config: &RuntimeConfig) -> &'static str {
        match self {
            Executor::Cpu => config.kv_type.unwrap_or_default().as_str(),
            Executor::Candle { .. } => "f32",
        }
    }

    pub(crate) fn cpu_options(&self, config: &RuntimeConfig) -> CpuOptions {
        CpuOptions {
            kv_bytes: 0,
            kv_type: config.kv_type.unwrap_or_default(),
            max_model_len: config.max_model_len,
            n_threads: None,
            isa_cap: config.isa_cap.clone(),
        }
    }

    pub(crate) fn candle_options(&self, config: &RuntimeConfig, device: &str) -> CandleOptions {
        CandleOptions {
            device: device.to_owned(),
            block_size: config.block_size,
            kv_bytes: 0,
            max_model_len: config.max_model_len,
        }
    }

    /// A backend with the model's weights and a KV pool of `kv_bytes`.
    fn load(
        &self,
        config: &RuntimeConfig,
        model: Model,
        kv_bytes: u64,
        arbiter: &StepArbiter,
    ) -> Result<(Box<dyn Backend>, AdapterHost), LoadError> {
        match self {
            Executor::Cpu => {
                let options = CpuOptions { kv_bytes, ..self.cpu_options(config) };
                let backend = CpuBackend::load_in_turns(model, &options, arbiter)?;
                let host = AdapterHost::Cpu(backend.adapters());
                Ok((Box::new(backend), host))
            }
            Executor::Candle { device } => {
                fixed_kv_type(config, device, self.kv_type(config))?;
                let options = CandleOptions { kv_bytes, ..self.candle_options(config, device) };
                let backend = CandleBackend::load(&model, &options)?;
                let host = AdapterHost::Candle(backend.adapters());
                Ok((Box::new(backend), host))
            }
        }
    }
}

/// What executors say that have one KV type only.
fn fixed_kv_type(config: &RuntimeConfig, device: &str, has: &'static str) -> Result<(), LoadError> {
    match config.kv_type {
        Some(asked) if asked.as_str() != has => {
            Err(LoadError::KvType { asked, device: device.to_owned(), has })
        }
        _ => Ok(()),
    }
}

fn placeholder_model(
    config: &RuntimeConfig,
    around: Surroundings<'_>,
    options: &PlaceholderOptions,
) -> Result<Loaded, LoadError> {
    let tokenizer = Tokenizer::placeholder();
    let mut options = options.clone();
    if let Some(len) = config.max_model_len {
        options.max_model_len = len;
    }
    let template = Some(match &config.chat_template {
        Some(source) => ChatTemplate::new(source, lm_chat::SpecialTexts::default())?,
        None => ChatTemplate::placeholder(),
    });
    let source = config.chat_template.as_deref().unwrap_or("placeholder");
    let template_digest = hex(&blake3::hash(source.as_bytes()).as_bytes()[..16]);
    let weights = format!("placeholder {options:?}");
    let plan = MemoryPlan::of_placeholder(config, around.limit, &options);
    plan.check()?;
    // Of all its options, only the seed is in what its slots hold.
    let decoder = format!("placeholder seed {}", options.seed);
    let script = scripted_tokens(&options, &tokenizer, template.as_ref())?;
    let backend = PlaceholderBackend::new(options, placeholder_vocab()).with_script(script);
    fixed_kv_type(config, "the placeholder", backend.spec().kv_type)?;
    Ok(Loaded {
        name: "placeholder".to_owned(),
        facts: facts(config, &backend, weights, &tokenizer, template_digest),
        kv_facts: kv_facts(&backend, decoder),
        backend: Box::new(backend),
        template,
        default_sampling: DefaultSampling::default(),
        adapters: None,
        adapter_bytes: 0,
        planned_bytes: plan.total_bytes(),
        own_len: plan.trained_len,
        tokenizer,
    })
}

/// What modes `replay` and `schema` tell. Token ids of another vocabulary name no prompt of this one.
fn scripted_tokens(
    options: &PlaceholderOptions,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<ScriptedTokens, LoadError> {
    let mode = match options.mode {
        PlaceholderMode::Replay => "replay",
        PlaceholderMode::Schema => "schema",
        // Encoders are loaded elsewhere.
        PlaceholderMode::Random
        | PlaceholderMode::Echo
        | PlaceholderMode::Embed
        | PlaceholderMode::Classify => return Ok(ScriptedTokens::default()),
    };
    if options.script.is_empty() {
        return Err(LoadError::NoAnswers { mode });
    }
    let mut script = ScriptedTokens::default();
    for ScriptedAnswer { prompt, answer } in options.script.0.iter() {
        let of_text = |prompt: &&Prompt| !matches!(prompt, Prompt::Tokens(_));
        let prompt = prompt.as_ref().filter(of_text);
        // A prompt that this template cannot render is never asked either.
        let prompt = prompt.and_then(|prompt| {
            let (text, dialog) = (TextOptions::default(), Dialog::default());
            tokens(prompt, text, &dialog, tokenizer, template).ok()
        });
        let answer = tokenizer.encode(answer, EncodeOptions::default())?;
        script.push(prompt.map(|(tokens, _)| tokens), answer);
    }
    Ok(script)
}

fn chat_template(
    source: &str,
    tokenizer: &Tokenizer,
    model: &Model,
) -> Result<ChatTemplate, LoadError> {
    let text = |id: Option<u32>| id.map_or_else(String::new, |id| tokenizer.token_text(id).into());
    let bos = text(model.bos.or(tokenizer.bos()));
    let eos = text(model.eos_token.or(model.eos.first().copied()));
    Ok(ChatTemplate::new(
        source,
        lm_chat::SpecialTexts { bos, eos, ..lm_chat::SpecialTexts::default() },
    )?)
}

fn facts(
    config: &RuntimeConfig,
    backend: &dyn Backend,
    weights: String,
    tokenizer: &Tokenizer,
    chat_template: String,
) -> ReleaseFacts {
    let spec = backend.spec();
    let mut sampler = "penalties,temperature,top_k,top_p,min_p".to_owned();
    for processor in &config.processors {
        sampler.push_str(",processor:");
        sampler.push_str(processor.name());
    }
    ReleaseFacts {
        facts: vec![
            ("engine_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("kernel_path", spec.kernel_path.clone()),
            ("kv_type", spec.kv_type.to_owned()),
            ("weights_digest", weights),
            ("adapter", "none".to_owned()),
            ("tokenizer", hex(&tokenizer.fingerprint())),
            ("chat_template", chat_template),
            ("sampler", sampler),
        ],
    }
}

/// What the bits of a block depend on besides its tokens and its shape. Another version may compute
/// otherwise.
fn kv_facts(backend: &dyn Backend, decoder: String) -> Vec<(&'static str, String)> {
    let spec = backend.spec();
    vec![
        ("engine_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("kernel_path", spec.kernel_path.clone()),
        ("kv_type", spec.kv_type.to_owned()),
        ("decoder", decoder),
    ]
}

/// The ids that the placeholder's tokenizer gives a meaning to, as its backend needs them.
fn placeholder_vocab() -> PlaceholderVocab {
    PlaceholderVocab {
        vocab_size: placeholder::VOCAB_SIZE,
        bos: placeholder::BOS,
        sep: placeholder::SEP,
        turn_start: placeholder::IM_START,
        turn_end: placeholder::IM_END,
        newline: placeholder::FIRST_BYTE + u32::from(b'\n'),
        words: placeholder::FIRST_WORD..placeholder::FIRST_BYTE,
    }
}

#[cfg(test)]
mod tests {
    use lm_cpu::KvType;

    use super::*;

    #[test]
    fn a_gpu_is_taken_where_there_is_one_that_can_do_what_is_asked() {
        let check = |gpu, kv_type, expect: Option<&str>| {
            let mut config =
                RuntimeConfig::new(ModelSource::Placeholder(PlaceholderOptions::default()));
            config.kv_type = kv_type;
            let expect = expect.map(|device| Executor::Candle { device: device.to_owned() });
            assert_eq!(Executor::on_gpu(gpu, &config), expect);
        };
        check(Some("cuda:0"), None, Some("cuda:0"));
        check(Some("metal"), None, Some("metal"));
        check(Some("cuda:0"), Some(KvType::Int8), None);
        check(None, None, None);
    }
}
