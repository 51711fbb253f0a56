//! Chat templates: from a conversation to the text that the model was trained to continue, and from its answer back
//! to what was thought, what is said and which tools are called.
//!
//! It must never know tokens, files or requests, and it reads no clock: the date is handed in.
//! Templates come with models, so they are untrusted: time and output are bounded.
//!
//! Start reading at [`ChatTemplate`].

mod answer_reader;
mod call_scanner;
mod date;
mod error;
mod generation_tag;
mod manners;
mod may_call;
mod prefill;
mod python;
mod screen;
mod template;
mod thinking;
mod tool_parser;
mod tools;
mod written_out;

pub use answer_reader::AnswerReader;
pub use error::ChatError;
pub use template::{ChatTemplate, RenderOptions, SpecialTexts};
pub use thinking::Thinking;
pub use tool_parser::{AnswerPart, ToolCallParser};
pub use tools::{MustCall, ToolFormat, tool_names};
