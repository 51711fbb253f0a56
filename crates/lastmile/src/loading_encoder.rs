//! From a model's files to an encoder and a tokenizer, when the model reads texts and writes none.

use lm_backend::{Encoder, EncoderSpec, PlaceholderEncoder, StepArbiter};
use lm_candle::{CandleEncoder, first_gpu};
use lm_models::{EncoderModel, Pooling, WeightsFrom, open_encoder};
use lm_tokenizer::{Tokenizer, placeholder};

use crate::loading::tokenizer;
use crate::machine::MemoryLimit;
use crate::memory::{EncoderNeed, MemoryPlan};
use crate::release::hex;
use crate::{EncoderInfo, LoadError, ModelSource, ReleaseFacts, RuntimeConfig};

/// Tokens of the batch that memory is set aside for.
const BATCH_TOKENS: usize = 4096;

/// Everything that a runtime needs of an encoder.
pub(crate) struct LoadedEncoder {
    pub(crate) name: String,
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) info: EncoderInfo,
    pub(crate) facts: ReleaseFacts,
    pub(crate) planned_bytes: u64,
}

/// Loads the model of a configuration if it is an encoder.
pub(crate) fn load_encoder(
    config: &RuntimeConfig,
    limit: Option<&MemoryLimit>,
    arbiter: &StepArbiter,
) -> Result<Option<LoadedEncoder>, LoadError> {
    let Some(source) = EncoderSource::of(config)? else { return Ok(None) };
    let plan = source.plan(config, limit);
    plan.check()?;
    let (encoder, tokenizer, pooling, weights, is_multi_label) = match source {
        EncoderSource::Placeholder => {
            let ModelSource::Placeholder(options) = &config.model else {
                unreachable!("it was just one: this is a bug")
            };
            let mut options = options.clone();
            options.max_model_len = config.max_model_len.unwrap_or(options.max_model_len);
            let weights = format!("placeholder {options:?}");
            let encoder = PlaceholderEncoder::new(options, placeholder::VOCAB_SIZE);
            let encoder: Box<dyn Encoder> = Box::new(encoder);
            (encoder, Tokenizer::placeholder(), Pooling::Mean, weights, false)
        }
        EncoderSource::Files(model) => {
            let tokenizer = tokenizer(&model.tokenizer)?;
            if tokenizer.vocab_size() > model.spec.vocab_size {
                let (tokenizer, weights) = (tokenizer.vocab_size(), model.spec.vocab_size);
                return Err(LoadError::VocabMismatch { tokenizer, weights });
            }
            let _turn = arbiter.turn(|| ());
            let encoder = CandleEncoder::load(&model, device(config), config.max_model_len)?;
            let weights = hex(&model.weights_digest());
            let is_multi_label = model.spec.head.as_ref().is_some_and(|head| head.is_multi_label);
            (Box::new(encoder) as _, tokenizer, model.spec.pooling, weights, is_multi_label)
        }
    };
    let spec = encoder.spec().clone();
    Ok(Some(LoadedEncoder {
        facts: facts(&spec, weights, &tokenizer, pooling),
        name: plan.name.clone(),
        info: EncoderInfo { spec, pooling, is_multi_label },
        planned_bytes: plan.total_bytes(),
        encoder,
        tokenizer,
    }))
}

/// What the encoder of a configuration will take, if it is one. Reads headers only.
pub(crate) fn encoder_plan(
    config: &RuntimeConfig,
    limit: Option<&MemoryLimit>,
) -> Result<Option<MemoryPlan>, LoadError> {
    Ok(EncoderSource::of(config)?.map(|source| source.plan(config, limit)))
}

enum EncoderSource {
    Placeholder,
    Files(Box<EncoderModel>),
}

impl EncoderSource {
    fn of(config: &RuntimeConfig) -> Result<Option<Self>, LoadError> {
        match &config.model {
            ModelSource::Placeholder(options) => {
                Ok(options.mode.is_encoder().then_some(EncoderSource::Placeholder))
            }
            ModelSource::Path { path, weights } => {
                let model = open_encoder(path)?;
                if model.is_some() && *weights != WeightsFrom::File {
                    let message =
                        "weights are random, but the model is an encoder: only decoders have that";
                    return Err(LoadError::Configure { message: message.to_owned() });
                }
                Ok(model.map(|model| EncoderSource::Files(Box::new(model))))
            }
        }
    }

    fn plan(&self, config: &RuntimeConfig, limit: Option<&MemoryLimit>) -> MemoryPlan {
        let need = match self {
            EncoderSource::Placeholder => EncoderNeed {
                name: "placeholder".to_owned(),
                executor: "placeholder",
                max_len: config.max_model_len.unwrap_or(8192),
                weights_bytes: 0,
                scratch_bytes: 0,
                vocab_size: placeholder::VOCAB_SIZE,
            },
            EncoderSource::Files(model) => {
                let max_len = config.max_model_len.unwrap_or(model.spec.max_len);
                let scratch = CandleEncoder::scratch_bytes(&model.spec, BATCH_TOKENS, max_len);
                EncoderNeed {
                    name: model.name.clone(),
                    executor: "candle",
                    max_len,
                    weights_bytes: model.spec.f32_bytes(),
                    scratch_bytes: scratch,
                    vocab_size: model.spec.vocab_size,
                }
            }
        };
        MemoryPlan::of_encoder(config, limit.cloned(), need)
    }
}

/// Encoders have one executor; `cpu` and `candle` are the processor, as is `auto` where there is no GPU.
fn device(config: &RuntimeConfig) -> &str {
    match config.device.as_str() {
        "auto" => first_gpu().unwrap_or("cpu"),
        "candle" => "cpu",
        device => device,
    }
}

fn facts(
    spec: &EncoderSpec,
    weights: String,
    tokenizer: &Tokenizer,
    pooling: Pooling,
) -> ReleaseFacts {
    ReleaseFacts {
        facts: vec![
            ("engine_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("kernel_path", spec.kernel_path.clone()),
            ("kv_type", "none".to_owned()),
            ("weights_digest", weights),
            ("adapter", "none".to_owned()),
            ("tokenizer", hex(&tokenizer.fingerprint())),
            ("chat_template", "none".to_owned()),
            ("sampler", format!("pooling {pooling:?}").to_lowercase()),
        ],
    }
}
