//! Plain data that every floor of lastmile shares: ids, requests, events, and the traits at the seams.
//!
//! It must never know JSON, tensors, clocks, files or sockets; it depends on nothing but `thiserror`.
//!
//! Start reading at [`GenerateRequest`] (what goes in), [`GenerateEvent`] (what comes out) and
//! [`RequestEvent`] (what is remembered).

mod allowance;
mod constraint;
mod cost;
mod dialog;
mod event;
mod id;
mod message;
mod observe;
mod phrases;
mod processor;
mod reasoning;
mod request;
mod sampling;
mod steering;
mod time;
mod timeline;
mod trace;

pub use allowance::{Allowance, SharedAllowance};
pub use constraint::{AnswerForm, CallForm, Constraint, MayCall, TokenMask};
pub use cost::Prices;
pub use dialog::Dialog;
pub use event::{
    CacheMissReason, Finish, FinishReason, GenerateError, GenerateEvent, PromptLogprob, QueueUnit,
    Timings, TokenLogprobs, Usage,
};
pub use id::{BlockIdx, ParseIdError, ReleaseHash, RequestId, SeqId, TenantId, TokenId};
pub use message::{ChatMessage, Role};
pub use observe::{AnswerBegun, Observer, Outcome, RequestEvent, StepEvent, StepRow, Task};
pub use phrases::{Ban, OnHit, OutputRules, PhraseScan};
pub use processor::LogitProcessor;
pub use reasoning::{ReasoningScanner, ReasoningStart, Split};
pub use request::{GenerateRequest, Priority, Prompt, PromptReport, StopRules, TextOptions};
pub use sampling::{Dry, InvalidParam, SamplerStep, SamplingParams};
pub use steering::{Arm, ArmTag, ReadAs, RuleHit, Steering};
pub use time::Timestamp;
pub use timeline::{Chunk, Gap, GapCause, Loss, Other, QueueStory, Stall, Timeline};
pub use trace::{TraceId, TraceParent};
