//! The seam between engine and compute: plain data in, plain data out.
//!
//! It must never know sequences, queues, requests, text, or any tensor library. Executors implement
//! [`Backend`]; the engine packs a [`Batch`] and reads a [`LogitsBuf`]. Models that write nothing are [`Encoder`]s.
//!
//! Start reading at [`Backend`], then [`Batch::push_sequence`]. [`PlaceholderBackend`] is the first
//! implementation, and the one that tests see everything with.

mod arbiter;
mod backend;
mod batch;
mod encoder;
mod logits;
mod memory;
mod placeholder;
mod placeholder_encoder;
mod placeholder_options;
mod placeholder_script;
mod step_costs;

pub use arbiter::{Activity, StepArbiter, Turn};
pub use backend::{Backend, BackendError, BackendSpec};
pub use batch::{Batch, SampleRow, Want};
pub use encoder::{Encoder, EncoderBatch, EncoderOutput, EncoderSpec};
pub use logits::{Greatest, LogitsBuf};
pub use memory::{MemoryNeed, StepLimits};
pub use placeholder::PlaceholderBackend;
pub use placeholder_encoder::PlaceholderEncoder;
pub use placeholder_options::{OptionError, PlaceholderMode, PlaceholderOptions, PlaceholderVocab};
pub use placeholder_script::{PlaceholderScript, ScriptedAnswer, ScriptedTokens};
pub use step_costs::{StepCosts, StepLoad};
