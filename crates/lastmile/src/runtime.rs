//! A model, its engine, and the way to ask it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use lm_backend::{Backend, BackendSpec, StepArbiter};
use lm_chat::{ChatTemplate, ToolFormat};
use lm_engine::{
    EngineHandle, EngineParts, EngineStats, NewSubmission, ServedBy, StatsSnapshot, output_pair,
};
use lm_models::DefaultSampling;
use lm_tokenizer::{EncodeOptions, Tokenizer};
use lm_types::{
    ChatMessage, Dialog, GenerateError, GenerateRequest, Observer, Outcome, Prompt, ReleaseHash,
    RequestEvent, SamplingParams, TextOptions, Timings, TokenId, Usage,
};

use crate::disk_cache::{self, DiskCache};
use crate::grammars::Grammars;
use crate::loading::{Loaded, Surroundings, load};
use crate::machine::MemoryLimit;
use crate::prepare::{Materials, prepare};
use crate::{Answer, GenerateStream, LoadError, ReleaseFacts, RuntimeConfig, prepare};

/// What is recorded of the prompt of a request that was refused: refusals cost their sender nothing, so they
/// must not fill the store.
const MAX_REFUSED_BYTES: usize = 4096;

/// How long a shutdown waits for blocks of the prefix cache to be written.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// A loaded model with its engine. Share it by `Arc`; drop it to unload.
pub struct Runtime {
    /// `None` once shut down; locked for writing only then.
    engine: RwLock<Option<EngineHandle>>,
    /// Ends after the engine.
    disk_cache: Mutex<Option<DiskCache>>,
    max_queued: usize,
    stats: Arc<EngineStats>,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    grammars: Grammars,
    observer: Arc<dyn Observer>,
    info: ModelInfo,
}

/// What is loaded, and its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The name that clients ask for.
    pub name: String,
    /// The backend's facts: context length, KV pool, kernel path, memory.
    pub backend: BackendSpec,
    /// Whether conversations can be rendered.
    pub has_chat_template: bool,
    /// The parameters of a request that says nothing, as far as the model's authors said something.
    pub default_sampling: DefaultSampling,
    /// What its answers depend on.
    pub release: ReleaseFacts,
    /// The digest of `release`.
    pub release_hash: ReleaseHash,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// What it takes in all, as planned before it was loaded.
    pub planned_bytes: u64,
}

impl Runtime {
    /// Loads a model and starts its engine.
    ///
    /// # Errors
    /// The model cannot be loaded, or the limits contradict each other.
    pub fn start(config: RuntimeConfig) -> Result<Self, LoadError> {
        let limit = config.memory_ceiling();
        Runtime::start_beside(config, limit, &Arc::default())
    }

    /// Loads a model within `limit` and starts its engine, which takes turns with the others of `arbiter`.
    pub(crate) fn start_beside(
        config: RuntimeConfig,
        limit: Option<MemoryLimit>,
        arbiter: &Arc<StepArbiter>,
    ) -> Result<Self, LoadError> {
        Runtime::start_wrapped(config, limit, arbiter, |backend| backend)
    }

    /// As [`Runtime::start`], on what `wrap` makes of the backend.
    pub(crate) fn start_on(
        config: RuntimeConfig,
        wrap: impl FnOnce(Box<dyn Backend>) -> Box<dyn Backend>,
    ) -> Result<Self, LoadError> {
        let limit = config.memory_ceiling();
        Runtime::start_wrapped(config, limit, &Arc::default(), wrap)
    }

    fn start_wrapped(
        config: RuntimeConfig,
        limit: Option<MemoryLimit>,
        arbiter: &Arc<StepArbiter>,
        wrap: impl FnOnce(Box<dyn Backend>) -> Box<dyn Backend>,
    ) -> Result<Self, LoadError> {
        if config.disk_cache.is_some() && !config.engine.prefix_cache {
            return Err(LoadError::CacheWithoutPrefixCache);
        }
        let loaded = load(&config, Surroundings { limit, arbiter })?;
        let Loaded { backend, tokenizer, template, facts, kv_facts, .. } = loaded;
        let Loaded { name, default_sampling, planned_bytes, .. } = loaded;
        let disk_cache = config.disk_cache.as_ref();
        let opened = disk_cache.map(|disk| disk_cache::open(disk, backend.as_ref(), &kv_facts));
        let (disk_cache, block_store) = opened.transpose()?.unzip();
        let info = ModelInfo {
            name: config.served_name.unwrap_or(name),
            backend: backend.spec().clone(),
            has_chat_template: template.is_some(),
            default_sampling,
            release_hash: facts.hash(),
            release: facts,
            loaded_at: SystemTime::now(),
            planned_bytes,
        };
        let (backend, tokenizer) = (wrap(backend), Arc::new(tokenizer));
        let parts = EngineParts {
            backend,
            tokenizer: Arc::clone(&tokenizer),
            observer: Arc::clone(&config.observer),
            served_by: ServedBy { model: info.name.clone(), release: info.release_hash },
            arbiter: Arc::clone(arbiter),
            block_store,
        };
        let engine = EngineHandle::spawn(parts, &config.engine)?;
        Ok(Runtime {
            stats: Arc::clone(engine.stats()),
            max_queued: engine.max_queued(),
            engine: RwLock::new(Some(engine)),
            disk_cache: Mutex::new(disk_cache),
            tokenizer,
            template,
            grammars: Grammars::default(),
            observer: config.observer,
            info,
        })
    }

    /// Starts the request's `n` answers. Returns as soon as they are queued: it tokenises on the
    /// caller's thread and never waits for the engine.
    ///
    /// # Errors
    /// The request is refused: a parameter outside its range, a prompt too long, a full queue.
    pub fn generate(&self, request: GenerateRequest) -> Result<Vec<GenerateStream>, GenerateError> {
        Ok(self.generate_all(vec![request])?.remove(0))
    }

    /// Starts several requests, all or none: one entry for each, as from [`Runtime::generate`].
    ///
    /// # Errors
    /// What refuses the first of them that is refused.
    pub fn generate_all(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<GenerateStream>>, GenerateError> {
        let arrived_at = SystemTime::now();
        let requests: Vec<_> = requests.into_iter().map(Arc::new).collect();
        self.submit(&requests, arrived_at).inspect_err(|error| {
            self.stats.count_failed(error);
            if let Some(request) = requests.first() {
                self.record_refusal(request, arrived_at, error);
            }
        })
    }

    /// Waits for all answers of a request.
    ///
    /// # Errors
    /// The request is refused, or one of its answers ended early.
    pub fn complete(&self, request: GenerateRequest) -> Result<Vec<Answer>, GenerateError> {
        self.generate(request)?.into_iter().map(GenerateStream::collect_answer).collect()
    }

    /// The parameters of a request that says nothing: the model's own where its authors said
    /// something, else the defaults.
    #[must_use]
    pub fn default_sampling(&self) -> SamplingParams {
        let (base, own) = (SamplingParams::default(), self.info.default_sampling);
        SamplingParams {
            temperature: own.temperature.unwrap_or(base.temperature),
            top_k: own.top_k.unwrap_or(base.top_k),
            top_p: own.top_p.unwrap_or(base.top_p),
            min_p: own.min_p.unwrap_or(base.min_p),
            repetition_penalty: own.repetition_penalty.unwrap_or(base.repetition_penalty),
            ..base
        }
    }

    /// What is loaded.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What the engine counted. Never waits for it.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.stats.snapshot()
    }

    /// A token as text, control tokens by their names.
    #[must_use]
    pub fn token_text(&self, token: TokenId) -> String {
        self.tokenizer.token_text(token).into_owned()
    }

    /// The bytes that a token adds to a text.
    #[must_use]
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.tokenizer.token_bytes(token)
    }

    /// A conversation as the model sees it.
    ///
    /// # Errors
    /// The model has no chat template, or it refuses the conversation.
    pub fn apply_template(
        &self,
        messages: &[ChatMessage],
        dialog: &Dialog,
    ) -> Result<String, GenerateError> {
        prepare::render(messages, dialog, self.template.as_ref())
    }

    /// The tokens of a prompt, as an answer to it would begin with them.
    ///
    /// # Errors
    /// The prompt cannot be rendered or encoded.
    pub fn prompt_tokens(
        &self,
        prompt: &Prompt,
        text: TextOptions,
        dialog: &Dialog,
    ) -> Result<Vec<TokenId>, GenerateError> {
        let template = self.template.as_ref();
        Ok(prepare::tokens(prompt, text, dialog, &self.tokenizer, template)?.0)
    }

    /// The text of tokens, control tokens by their names.
    ///
    /// # Errors
    /// `UnknownToken`.
    pub fn detokenize(&self, tokens: &[TokenId]) -> Result<String, GenerateError> {
        let mut bytes = Vec::new();
        for &token in tokens {
            let vocab_size = self.tokenizer.vocab_size();
            if token as usize >= vocab_size {
                return Err(GenerateError::UnknownToken { token, vocab_size });
            }
            match self.tokenizer.is_control(token) {
                true => bytes.extend_from_slice(self.tokenizer.token_text(token).as_bytes()),
                false => bytes.extend_from_slice(self.tokenizer.token_bytes(token)),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The token sequences that spell `words`, at the beginning of a text and after a space.
    ///
    /// # Errors
    /// A word cannot be encoded.
    pub fn spelled(&self, words: &[String]) -> Result<Vec<Vec<TokenId>>, GenerateError> {
        let mut spelled = Vec::new();
        for word in words {
            for text in [word.clone(), format!(" {}", word.trim_start())] {
                let tokens = self.tokenizer.encode(&text, EncodeOptions::default());
                let tokens = tokens.map_err(|error| GenerateError::InvalidField {
                    field: "bad_words",
                    message: format!("bad_words holds what cannot be tokenised: {error}"),
                })?;
                if !tokens.is_empty() && !spelled.contains(&tokens) {
                    spelled.push(tokens);
                }
            }
        }
        Ok(spelled)
    }

    /// The tokens whose text holds one of `texts`, ascending.
    #[must_use]
    pub fn tokens_with(&self, texts: &[String]) -> Vec<TokenId> {
        let all = 0..self.tokenizer.vocab_size() as TokenId;
        let holds = |token: &TokenId| {
            let bytes = String::from_utf8_lossy(self.tokenizer.token_bytes(*token));
            texts.iter().any(|text| bytes.contains(text.as_str()))
        };
        all.filter(holds).collect()
    }

    /// Whether the model ends an answer with this token.
    #[must_use]
    pub fn ends_answer(&self, token: TokenId) -> bool {
        self.tokenizer.is_eog(token)
    }

    /// The form in which the model calls tools.
    #[must_use]
    pub fn tool_format(&self) -> ToolFormat {
        self.template.as_ref().map_or(ToolFormat::Hermes, ChatTemplate::tool_format)
    }

    /// Takes nothing more in, finishes what runs within `timeout`, and unloads the engine.
    pub fn shutdown(&self, timeout: Duration) {
        // Taken out first, so that requests that come meanwhile are refused at once.
        let engine = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut engine) = engine {
            engine.shutdown(timeout);
        }
        let disk_cache = self.disk_cache.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(disk_cache) = disk_cache {
            disk_cache.finish(LAST_WRITES);
        }
    }

    fn submit(
        &self,
        requests: &[Arc<GenerateRequest>],
        arrived_at: SystemTime,
    ) -> Result<Vec<Vec<GenerateStream>>, GenerateError> {
        let materials = self.materials();
        let mut submissions = Vec::new();
        let mut streams = Vec::new();
        for request in requests {
            let mut prepared = prepare(request, &materials)?;
            let choices = (0..request.n).map(|choice| {
                let (output, reader) = output_pair(prepared.max_new_tokens);
                submissions.push(NewSubmission {
                    request: Arc::clone(request),
                    choice,
                    prompt: prepared.prompt.clone(),
                    max_new_tokens: prepared.max_new_tokens,
                    stop: prepared.stop.clone(),
                    grammar: prepared.grammars.pop(),
                    arrived_at,
                    output,
                });
                GenerateStream::new(reader, prepared.warnings.clone())
            });
            streams.push(choices.collect());
            // Checked on the way, so that memory is bounded by the queue and not by the request.
            if submissions.len() > self.max_queued {
                let (n, limit) = (submissions.len(), self.max_queued);
                let message =
                    format!("n asks for {n} answers or more, but at most {limit} may wait");
                return Err(GenerateError::InvalidField { field: "n", message });
            }
        }
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        engine.as_ref().ok_or(GenerateError::ShuttingDown)?.submit(submissions)?;
        Ok(streams)
    }

    fn materials(&self) -> Materials<'_> {
        Materials {
            tokenizer: &self.tokenizer,
            template: self.template.as_ref(),
            grammars: &self.grammars,
            vocab_size: self.info.backend.vocab_size,
            max_model_len: self.info.backend.max_model_len,
        }
    }

    /// Tells the observer of a request that the engine never saw.
    fn record_refusal(
        &self,
        request: &Arc<GenerateRequest>,
        arrived_at: SystemTime,
        error: &GenerateError,
    ) {
        self.observer.record(&RequestEvent {
            request: GenerateRequest {
                prompt: request.prompt.excerpt(MAX_REFUSED_BYTES),
                ..(**request).clone()
            },
            choice: 0,
            model: self.info.name.clone(),
            release: self.info.release_hash,
            arrived_at,
            outcome: Outcome::Failed(error.clone()),
            output_text: String::new(),
            usage: Usage::default(),
            timings: Timings::default(),
        });
    }
}
