//! Local LLM inference with continuous batching, to embed in a program.
//!
//! ```
//! use lastmile::{GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig};
//!
//! let runtime = Runtime::start(RuntimeConfig::new(ModelSource::placeholder("mode=echo")?))?;
//! let request = GenerateRequest::new(RequestId(1), Prompt::Text("hello world".to_owned()));
//! let answers = runtime.complete(request)?;
//! assert_eq!(answers[0].text, "hello world");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An answer comes whole, or as a stream that is an iterator and a `futures` stream; to drop it is to abort it:
//!
//! ```
//! use lastmile::{
//!     ChatMessage, GenerateEvent, GenerateRequest, ModelSource, Prompt, RequestId, Role, Runtime, RuntimeConfig,
//! };
//!
//! # let runtime = Runtime::start(RuntimeConfig::new(ModelSource::placeholder("mode=echo")?))?;
//! let message = ChatMessage { role: Role::User, content: "Tell me of the sea.".to_owned() };
//! let request = GenerateRequest::new(RequestId(1), Prompt::Chat(vec![message]));
//! let mut text = String::new();
//! for event in runtime.generate(request)?.remove(0) {
//!     match event {
//!         GenerateEvent::Delta { text: more, .. } => text.push_str(&more),
//!         GenerateEvent::Finished(finish) => assert!(finish.usage.completion_tokens > 0),
//!         GenerateEvent::Prompt { .. } => {} // only where it was asked for
//!         GenerateEvent::Failed(error) => return Err(error.into()),
//!     }
//! }
//! assert_eq!(text, "Tell me of the sea.");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Requests that are asked at once share the steps of the engine, all or none of them:
//!
//! ```
//! # use lastmile::{GenerateRequest, GenerateStream, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig};
//! # let runtime = Runtime::start(RuntimeConfig::new(ModelSource::placeholder("mode=echo")?))?;
//! let prompts = ["one", "two", "three"];
//! let request = |(i, text): (usize, &&str)| {
//!     GenerateRequest::new(RequestId(i as u128), Prompt::Text((*text).to_owned()))
//! };
//! let streams = runtime.generate_all(prompts.iter().enumerate().map(request).collect())?;
//! let answers: Result<Vec<_>, _> =
//!     streams.into_iter().flatten().map(GenerateStream::collect_answer).collect();
//! assert_eq!(answers?.iter().map(|answer| answer.text.as_str()).collect::<Vec<_>>(), prompts);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A form is kept by a grammar, whatever the model would rather say:
//!
//! ```
//! use lastmile::{AnswerForm, Constraint};
//!
//! # use lastmile::{GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig};
//! # let runtime = Runtime::start(RuntimeConfig::new(ModelSource::placeholder("")?))?;
//! let mut request = GenerateRequest::new(RequestId(1), Prompt::Text("Is water wet?".to_owned()));
//! let form = AnswerForm::Choice(vec!["yes".to_owned(), "no".to_owned()]);
//! request.constraint = Some(Constraint { field: "form", form });
//! let answer = runtime.complete(request)?.remove(0);
//! assert!(["yes", "no"].contains(&answer.text.as_str()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An encoder, such as `ModelSource::path("all-minilm-l6-v2")`, turns texts into vectors:
//!
//! ```
//! # use lastmile::{ModelSource, Runtime, RuntimeConfig};
//! # let runtime = Runtime::start(RuntimeConfig::new(ModelSource::placeholder("mode=embed")?))?;
//! let vectors = runtime.embed(&["the red house", "the blue house", "water"])?;
//! let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
//! assert!(cosine(&vectors[0], &vectors[1]) > cosine(&vectors[0], &vectors[2]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Low-rank adapters, as PEFT writes them, are loaded and unloaded while the model answers; a request names one:
//!
//! ```no_run
//! # use lastmile::{GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig};
//! let runtime = Runtime::start(RuntimeConfig::new(ModelSource::path("/models/llama")))?;
//! runtime.load_adapter("sql", "/adapters/sql")?;
//! let mut request = GenerateRequest::new(RequestId(1), Prompt::Text("All users:".to_owned()));
//! request.adapter = Some("sql".to_owned());
//! let answers = runtime.complete(request)?;
//! // Answers that still run go on to their end.
//! runtime.unload_adapter("sql")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What computes may be one's own: a [`Backend`] is given token ids and blocks, and gives logits.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
//!
//! use lastmile::{Backend, BackendError, BackendSpec, Batch, LogitsBuf};
//! # use lastmile::{GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig};
//!
//! /// Counts the tokens that pass through another backend.
//! struct Counting(Box<dyn Backend>, Arc<AtomicUsize>);
//!
//! impl Backend for Counting {
//!     fn spec(&self) -> &BackendSpec {
//!         self.0.spec()
//!     }
//!
//!     fn execute(&mut self, batch: &Batch, logits: &mut LogitsBuf) -> Result<(), BackendError> {
//!         self.1.fetch_add(batch.input_ids.len(), Relaxed);
//!         self.0.execute(batch, logits)
//!     }
//!
//!     // Without this, steps that nobody waits for any more would be computed to their end.
//!     fn execute_while(
//!         &mut self,
//!         batch: &Batch,
//!         logits: &mut LogitsBuf,
//!         is_wanted: &dyn Fn() -> bool,
//!     ) -> Result<(), BackendError> {
//!         self.1.fetch_add(batch.input_ids.len(), Relaxed);
//!         self.0.execute_while(batch, logits, is_wanted)
//!     }
//! }
//!
//! let n_tokens = Arc::new(AtomicUsize::new(0));
//! let counter = Arc::clone(&n_tokens);
//! let config = RuntimeConfig::new(ModelSource::placeholder("mode=echo")?);
//! let runtime = Runtime::start_on(config, |backend| Box::new(Counting(backend, counter)))?;
//! runtime.complete(GenerateRequest::new(RequestId(1), Prompt::Text("hello".to_owned())))?;
//! assert!(n_tokens.load(Relaxed) > 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What changes logits before a draw may be one's own, too; requests ask for it by name, over HTTP in
//! `logits_processors`:
//!
//! ```
//! use std::sync::Arc;
//!
//! use lastmile::{LogitProcessor, TokenId};
//! # use lastmile::{GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig};
//!
//! /// Nothing but what was said before.
//! #[derive(Debug)]
//! struct Parrot;
//!
//! impl LogitProcessor for Parrot {
//!     fn name(&self) -> &str {
//!         "parrot"
//!     }
//!
//!     fn process(&self, logits: &mut [f32], prompt: &[TokenId], _generated: &[TokenId]) {
//!         for (token, logit) in (0..).zip(logits) {
//!             if !prompt.contains(&token) {
//!                 *logit = f32::NEG_INFINITY;
//!             }
//!         }
//!     }
//! }
//!
//! let mut config = RuntimeConfig::new(ModelSource::placeholder("mode=random")?);
//! config.processors = vec![Arc::new(Parrot)];
//! let runtime = Runtime::start(config)?;
//! let mut request = GenerateRequest::new(RequestId(1), Prompt::Tokens(vec![300, 301, 302]));
//! request.stop.max_tokens = Some(8);
//! request.sampling.processors = vec!["parrot".to_owned()];
//! let answer = runtime.complete(request.clone())?.remove(0);
//! assert_eq!(answer.text.trim_matches([',', '-', '.']), "");
//! request.sampling.processors = vec!["owl".to_owned()];
//! let refused = runtime.complete(request).unwrap_err().to_string();
//! assert_eq!(refused, "logits_processors holds \"owl\", but there is parrot");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It must never know HTTP, wire JSON, a database, a global recorder or a signal handler: a program
//! may hold several runtimes.
//!
//! Start reading at [`Runtime`].

mod adapters;
mod calibrate;
mod config;
mod disk_cache;
mod encoding;
mod energy;
mod engine_bench;
mod grammars;
mod loading;
mod loading_encoder;
mod machine;
mod memory;
mod perplexity;
mod predict;
mod prepare;
mod quantize;
mod registry;
mod release;
mod roofline;
mod runtime;
mod said;
mod stream;
mod thinking;
mod told;

pub use adapters::{AdapterError, AdapterInfo, AdapterSource};
pub use calibrate::{
    CalibrateError, Fit, Prediction, StepRecord, SweepOptions, fit_costs, record_steps,
};
pub use config::{LoadError, ModelSource, RuntimeConfig};
pub use disk_cache::DiskCacheConfig;
pub use encoding::{EncodeRequest, EncoderInfo, EncoderText, Encoding, normalize, probabilities};
pub use energy::{EnergyError, EnergyMeter};
pub use engine_bench::{
    BenchCase, CaseKind, EngineBench, EngineBenchError, EngineBenchOptions, bench_engine,
};
pub use grammars::check_form;
pub use machine::MemoryLimit;
pub use memory::MemoryPlan;
pub use perplexity::{Perplexity, PerplexityError, perplexity};
pub use predict::predict;
pub use quantize::{QuantizeError, QuantizeOptions, QuantizeSource, Quantized, StoredAs, quantize};
pub use registry::{
    Configure, Declared, ModelState, ModelStatus, Registry, RegistryError, RegistryOptions,
};
pub use release::ReleaseFacts;
pub use roofline::{Bound, MachineRates, Roofline};
pub use runtime::{ModelInfo, ReadyRequest, Runtime};
pub use stream::{Answer, GenerateStream};

pub use lm_backend::{
    Backend, BackendError, BackendSpec, Batch, EncoderOutput, EncoderSpec, LogitsBuf,
    PlaceholderMode, PlaceholderOptions, PlaceholderScript, ScriptedAnswer, StepCosts, StepLoad,
};
pub use lm_chat::{
    AnswerPart, AnswerReader, ChatError, MustCall, Thinking, ToolCallParser, ToolFormat, tool_names,
};
pub use lm_cpu::KvType;
pub use lm_engine::{
    Aborter, BlockStoreSnapshot, Encoded, EngineOptions, HistogramSnapshot, StatsSnapshot,
};
pub use lm_grammar::GrammarError;
pub use lm_models::{DefaultSampling, Pooling, WeightsFrom};
pub use lm_types::{
    Allowance, AnswerBegun, AnswerForm, Arm, ArmTag, Ban, CacheMissReason, CallForm, ChatMessage,
    Constraint, Dialog, Dry, Finish, FinishReason, GenerateError, GenerateEvent, GenerateRequest,
    LogitProcessor, MayCall, Observer, OnHit, Outcome, OutputRules, Prices, Priority, Prompt,
    PromptLogprob, PromptReport, QueueUnit, ReadAs, ReasoningStart, ReleaseHash, RequestEvent,
    RequestId, Role, RuleHit, SamplerStep, SamplingParams, SharedAllowance, Steering, StepEvent,
    StepRow, StopRules, Task, TenantId, TextOptions, Timeline, Timings, TokenId, TokenLogprobs,
    TraceId, TraceParent, Usage,
};
