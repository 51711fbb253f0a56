//! Chat templates: from a conversation to the text that the model was trained to continue.
//!
//! It must never know tokens, files or requests, and it reads no clock: the date is handed in.
//! Templates come with models, so they are untrusted: time and output are bounded.
//!
//! Start reading at [`ChatTemplate`].

mod date;
mod error;
mod generation_tag;
mod python;
mod template;

pub use error::ChatError;
pub use template::{ChatTemplate, RenderOptions, SpecialTexts};
