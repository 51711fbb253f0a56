//! One compiled chat template.
//!
//! It must never know tokens: special tokens are texts here, which the caller encodes.
//!
//! Start reading at [`ChatTemplate::render`].

use std::fmt;
use std::io;

use lm_types::{ChatMessage, Role};
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::ChatError;
use crate::date::strftime;
use crate::generation_tag::neutralise;
use crate::python::{Raised, environment};

/// The name under which the environment holds the template.
const NAME: &str = "chat template";
/// ChatML, the form that most templates have.
const PLACEHOLDER: &str = "\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
";

/// A model's chat template, compiled once and shared by threads.
///
/// A rendered conversation holds its special tokens as text. Encode it with control tokens parsed
/// and none added; when the model wants its beginning token and [`ChatTemplate::begins_with_bos`]
/// says no, put that token first. So it is never there twice.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    tokens: SpecialTexts,
    knows_developer: bool,
}

/// The texts of the model's special tokens. An empty one is not defined in the template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTexts {
    /// `bos_token`: begins a text.
    pub bos: String,
    /// `eos_token`: ends a text.
    pub eos: String,
    /// `unk_token`.
    pub unk: String,
    /// `pad_token`.
    pub pad: String,
}

/// What [`ChatTemplate::render`] does besides the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenderOptions {
    /// End with the beginning of the assistant's turn, so that the model goes on as the assistant.
    pub add_generation_prompt: bool,
    /// Seconds since 1970-01-01 in UTC, for templates that print the date by `strftime_now`.
    /// With `None` that function is not defined, and templates print the date they have built in.
    pub now_unix_s: Option<i64>,
}

impl ChatTemplate {
    /// The longest template, in bytes.
    pub const MAX_SOURCE_BYTES: usize = 256 << 10;
    /// The longest rendered conversation, in bytes.
    pub const MAX_OUTPUT_BYTES: usize = 16 << 20;
    /// The most steps of one rendering: an instruction, or 64 bytes moved. Well under a second.
    pub const MAX_STEPS: u64 = 10_000_000;

    /// Compiles `source`.
    ///
    /// # Errors
    /// `SourceTooLong` above [`Self::MAX_SOURCE_BYTES`]; `Syntax`.
    pub fn new(source: &str, tokens: SpecialTexts) -> Result<Self, ChatError> {
        if source.len() > Self::MAX_SOURCE_BYTES {
            let (bytes, limit) = (source.len(), Self::MAX_SOURCE_BYTES);
            return Err(ChatError::SourceTooLong { bytes, limit });
        }
        let compile = || -> Result<Environment<'static>, Error> {
            let mut environment = environment(Self::MAX_STEPS)?;
            environment.add_template_owned(NAME, neutralise(source))?;
            Ok(environment)
        };
        let syntax = |e: Error| ChatError::Syntax {
            line: e.line().unwrap_or(1),
            message: e.detail().unwrap_or("it does not compile").to_owned(),
        };
        Ok(ChatTemplate {
            environment: compile().map_err(syntax)?,
            source: source.to_owned(),
            tokens,
            knows_developer: source.contains("developer"),
        })
    }

    /// ChatML without a model: `<|im_start|>role`, the content, `<|im_end|>`.
    #[must_use]
    pub fn placeholder() -> Self {
        let tokens = SpecialTexts {
            bos: "<|bos|>".to_owned(),
            eos: "<|endoftext|>".to_owned(),
            ..SpecialTexts::default()
        };
        ChatTemplate::new(PLACEHOLDER, tokens).expect("it compiles: this is a bug")
    }

    /// Renders a conversation.
    ///
    /// [`Role::Developer`] is given to the template as `system` when the template's text nowhere
    /// mentions `developer`; other roles are given as they are.
    ///
    /// # Errors
    /// `Refused` with the template's own words when it raises; `Render` when it fails;
    /// `TooManySteps` and `OutputTooLong` when it goes too far.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        opts: RenderOptions,
    ) -> Result<String, ChatError> {
        let template =
            self.environment.get_template(NAME).expect("the constructor added it: this is a bug");
        let mut out = Bounded { bytes: Vec::new(), overflowed: false };
        let rendered = template.render_captured_to(self.context(messages, opts), &mut out);
        match rendered {
            _ if out.overflowed => Err(ChatError::OutputTooLong { limit: Self::MAX_OUTPUT_BYTES }),
            Err(error) => Err(explain(&error)),
            Ok(_) => Ok(String::from_utf8(out.bytes).expect("templates write text: this is a bug")),
        }
    }

    /// Whether a rendered text already begins with the model's beginning token.
    #[must_use]
    pub fn begins_with_bos(&self, rendered: &str) -> bool {
        !self.tokens.bos.is_empty() && rendered.starts_with(&self.tokens.bos)
    }

    /// The template's text, as it was given: it belongs to what produced an answer.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    fn context(&self, messages: &[ChatMessage], opts: RenderOptions) -> Value {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                let role = match message.role {
                    Role::Developer if !self.knows_developer => Role::System.as_str(),
                    ref role => role.as_str(),
                };
                Value::from_pairs([("role", role), ("content", &message.content)])
            })
            .collect();
        let mut context = vec![
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(opts.add_generation_prompt)),
            // Templates ask whether these are none, not whether they are defined.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let tokens = [
            ("bos_token", &self.tokens.bos),
            ("eos_token", &self.tokens.eos),
            ("unk_token", &self.tokens.unk),
            ("pad_token", &self.tokens.pad),
        ];
        let given = tokens.into_iter().filter(|(_, text)| !text.is_empty());
        context.extend(given.map(|(name, text)| (name, Value::from(text.as_str()))));
        if let Some(now) = opts.now_unix_s {
            let strftime_now = move |format: &str| strftime(format, now);
            context.push(("strftime_now", Value::from_function(strftime_now)));
        }
        Value::from_pairs(context)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source_bytes", &self.source.len())
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// What a template writes, up to the limit.
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > ChatTemplate::MAX_OUTPUT_BYTES {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The crate's error for the engine's: the template's own words when it raised.
fn explain(error: &Error) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return ChatError::Refused { message: message.clone() };
        }
        let kind = current.downcast_ref().map(Error::kind);
        if kind == Some(ErrorKind::OutOfFuel) {
            return ChatError::TooManySteps { limit: ChatTemplate::MAX_STEPS };
        }
        cause = current.source();
    }
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    ChatError::Render {
        line: error.line().unwrap_or(1),
        message: format!("{}{detail}", error.kind()),
    }
}
