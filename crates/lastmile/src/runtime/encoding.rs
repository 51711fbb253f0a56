//! A runtime whose model reads texts and writes none.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use lm_backend::{BackendSpec, EncoderOutput, StepArbiter};
use lm_engine::{EncodeHandle, EncodeLimits, EncodeParts, ServedBy};
use lm_models::DefaultSampling;
use lm_types::{GenerateError, RequestId, Task};

use super::{ModelInfo, Running, Runtime};
use crate::adapters::{AdapterLimits, Adapters};
use crate::encoding::prepare_texts;
use crate::grammars::Grammars;
use crate::loading_encoder::LoadedEncoder;
use crate::{EncodeRequest, EncoderInfo, EncoderText, Encoding, RuntimeConfig, normalize};

impl Runtime {
    pub(super) fn start_encoder(
        config: RuntimeConfig,
        loaded: LoadedEncoder,
        arbiter: &Arc<StepArbiter>,
    ) -> Self {
        let LoadedEncoder { name, encoder, tokenizer, info, facts, planned_bytes } = loaded;
        let (spec, own_len) = (&info.spec, info.spec.max_model_len);
        let info = ModelInfo {
            name: config.served_name.unwrap_or(name),
            backend: BackendSpec {
                rows_are_exact: false,
                kernel_path: spec.kernel_path.clone(),
                kv_type: "none",
                vocab_size: spec.vocab_size,
                block_size: 1,
                n_blocks: 0,
                max_model_len: spec.max_model_len,
                weights_bytes: spec.weights_bytes,
                kv_bytes: 0,
            },
            encoder: Some(info),
            has_chat_template: false,
            default_sampling: DefaultSampling::default(),
            release_hash: facts.hash(),
            release: facts,
            loaded_at: SystemTime::now(),
            planned_bytes,
            own_len,
            how: config.how,
        };
        let parts = EncodeParts {
            encoder,
            observer: Arc::clone(&config.observer),
            served_by: ServedBy { model: info.name.clone(), release: info.release_hash },
            arbiter: Arc::clone(arbiter),
        };
        let options = EncodeLimits {
            max_queued_requests: config.engine.max_queued_requests,
            max_queued_tokens: config.engine.max_queued_tokens,
            max_token_gap: config.engine.max_token_gap,
        };
        let engine = EncodeHandle::spawn(parts, options);
        Runtime {
            stats: Arc::clone(engine.stats()),
            max_queued: config.engine.max_queued_requests,
            engine: RwLock::new(Some(Running::Encoder(engine))),
            disk_cache: Mutex::new(None),
            tokenizer: Arc::new(tokenizer),
            template: None,
            grammars: Grammars::default(),
            processors: Vec::new(),
            adapters: Adapters::new(None, AdapterLimits::default()),
            observer: config.observer,
            info,
        }
    }

    /// Starts encoding texts. Returns as soon as they are queued: it tokenises on the caller's thread and never
    /// waits for the engine.
    ///
    /// # Errors
    /// The model is no encoder; a text is too long; the queue is full.
    pub fn encode(&self, request: &EncodeRequest) -> Result<Encoding, GenerateError> {
        let Some(encoder) = &self.info.encoder else {
            let name = &self.info.name;
            let message = format!(
                "model is '{name}', which writes texts: it gives neither vectors nor labels"
            );
            return Err(GenerateError::InvalidField { field: "model", message });
        };
        let started = prepare_texts(request, &self.tokenizer, &encoder.spec).and_then(
            |(submission, warnings)| {
                let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
                match engine.as_ref() {
                    Some(Running::Encoder(engine)) => {
                        Ok(Encoding::new(engine.submit(submission)?, warnings))
                    }
                    _ => Err(GenerateError::ShuttingDown),
                }
            },
        );
        started.inspect_err(|error| self.stats.count_failed(error))
    }

    /// The vectors of texts, of length 1. Blocks.
    ///
    /// # Errors
    /// As [`Runtime::encode`]; the model gives labels.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, GenerateError> {
        if let Some(EncoderInfo { spec, .. }) = &self.info.encoder
            && matches!(spec.output, EncoderOutput::Labels { .. })
        {
            let message = format!("model is '{}', which gives labels, no vectors", self.info.name);
            return Err(GenerateError::InvalidField { field: "model", message });
        }
        let texts = texts.iter().map(|text| EncoderText::Text((*text).to_owned())).collect();
        let request = EncodeRequest::new(RequestId(0), Task::Embed, texts);
        let mut encoded = self.encode(&request)?.wait()?;
        encoded.rows.iter_mut().for_each(|row| normalize(row));
        Ok(encoded.rows)
    }
}
