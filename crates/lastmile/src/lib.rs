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
//! It must never know HTTP, wire JSON, a database, a global recorder or a signal handler: a program
//! may hold several runtimes.
//!
//! Start reading at [`Runtime`].

mod calibrate;
mod config;
mod disk_cache;
mod engine_bench;
mod grammars;
mod loading;
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

pub use calibrate::{
    CalibrateError, Fit, Prediction, StepRecord, SweepOptions, fit_costs, record_steps,
};
pub use config::{LoadError, ModelSource, RuntimeConfig};
pub use disk_cache::DiskCacheConfig;
pub use engine_bench::{
    BenchCase, CaseKind, EngineBench, EngineBenchError, EngineBenchOptions, bench_engine,
};
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
pub use runtime::{ModelInfo, Runtime};
pub use stream::{Answer, GenerateStream};

pub use lm_backend::{
    PlaceholderMode, PlaceholderOptions, PlaceholderScript, ScriptedAnswer, StepCosts, StepLoad,
};
pub use lm_chat::{AnswerPart, ChatError, MustCall, ToolCallParser, ToolFormat, tool_names};
pub use lm_cpu::KvType;
pub use lm_engine::{Aborter, BlockStoreSnapshot, EngineOptions, HistogramSnapshot, StatsSnapshot};
pub use lm_models::{DefaultSampling, WeightsFrom};
pub use lm_types::{
    AnswerForm, CacheMissReason, CallForm, ChatMessage, Constraint, Dialog, Dry, Finish,
    FinishReason, GenerateError, GenerateEvent, GenerateRequest, Observer, Outcome, Priority,
    Prompt, QueueUnit, ReleaseHash, RequestEvent, RequestId, Role, SamplingParams, StopRules,
    TenantId, TextOptions, Timings, TokenId, TokenLogprobs, Usage,
};
