//! Templates shaped as those of known model families: what they need of who renders them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod calls;
mod dates;
mod prefills;
mod templates;
mod tools;

use lm_chat::{ChatTemplate, RenderOptions, SpecialTexts};
use lm_types::{ChatMessage, Role};

/// With the beginning of an answer, on 1 January 2026.
const PROMPT: RenderOptions =
    RenderOptions { add_generation_prompt: true, now_unix_s: Some(1_767_225_600) };

fn template(source: &str) -> ChatTemplate {
    let tokens = SpecialTexts { bos: "<s>".into(), eos: "</s>".into(), ..SpecialTexts::default() };
    ChatTemplate::new(source, tokens).unwrap()
}

fn say(role: Role, content: &str) -> ChatMessage {
    ChatMessage { role, content: content.to_owned() }
}
