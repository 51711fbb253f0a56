//! One compiled chat template.
//!
//! It must never know tokens: special tokens are texts here, which the caller encodes.
//!
//! Start reading at [`ChatTemplate::render`].

use std::fmt;
use std::io;
use std::sync::OnceLock;

use lm_types::{ChatMessage, Dialog, ReasoningStart, Role};
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::ChatError;
use crate::date::strftime;
use crate::generation_tag::neutralise;
use crate::manners::{Manners, ToolsPlace};
use crate::prefill::Prefill;
use crate::python::{Raised, environment};
use crate::thinking::{self, Thinking};
use crate::tools::ToolFormat;
use crate::written_out::written_out;

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
    /// Found out when tools are first spoken of.
    manners: OnceLock<Manners>,
    needs_now: bool,
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
            manners: OnceLock::new(),
            needs_now: source.contains("strftime_now") && !source.contains("strftime_now is"),
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
        self.render_dialog(messages, &Dialog::default(), opts)
    }

    /// Renders a conversation with tools. What the template leaves out of them is written into contents: tools into the
    /// system message or the user's first, calls as the model writes them, and results into messages of the user.
    ///
    /// # Errors
    /// Those of [`Self::render`]; `Tools`; `CannotContinue`.
    pub fn render_dialog(
        &self,
        messages: &[ChatMessage],
        dialog: &Dialog,
        mut opts: RenderOptions,
    ) -> Result<String, ChatError> {
        let uses_tools = dialog.tools.is_some() || !dialog.message_fields.is_empty();
        opts.add_generation_prompt &= !dialog.continues_last;
        let prefill = Prefill::of(messages, dialog, &self.source)?;
        let messages = prefill.as_ref().map_or(messages, |prefill| prefill.messages.as_slice());
        let manners = uses_tools.then(|| self.manners()).filter(|manners| !manners.does_all());
        let rendered = match manners {
            Some(manners) => {
                let (messages, dialog) =
                    written_out(messages, dialog, manners, self.tool_format())?;
                self.render_with(&self.context(&messages, &dialog, opts)?)?
            }
            None => self.render_with(&self.context(messages, dialog, opts)?)?,
        };
        match prefill {
            Some(prefill) => prefill.cut(rendered),
            None => Ok(rendered),
        }
    }

    /// Whether it prints the date by `strftime_now` without asking whether there is such a function:
    /// without [`RenderOptions::now_unix_s`] it fails. Others have a date built in, which keeps
    /// prompts the same from day to day.
    #[must_use]
    pub fn needs_now(&self) -> bool {
        self.needs_now
    }

    /// The form in which the model calls tools.
    #[must_use]
    pub fn tool_format(&self) -> ToolFormat {
        match self.manners().tools {
            ToolsPlace::Variable => ToolFormat::of_template(&self.source),
            ToolsPlace::SystemField => ToolFormat::Phi,
            ToolsPlace::Nowhere => ToolFormat::Hermes,
        }
    }

    fn manners(&self) -> Manners {
        *self.manners.get_or_init(|| {
            Manners::of(|messages, dialog, text| {
                let opts = RenderOptions { add_generation_prompt: true, now_unix_s: Some(0) };
                let context = self.context(messages, dialog, opts);
                let rendered = context.and_then(|context| self.render_with(&context));
                rendered.is_ok_and(|rendered| rendered.contains(text))
            })
        })
    }

    /// How the model thinks before it answers; `None` when it does not.
    #[must_use]
    pub fn thinking(&self) -> Option<Thinking> {
        Thinking::of_template(&self.source)
    }

    /// Where the model's answer to a conversation that was rendered begins. `None` when it is told as it is: the
    /// model does not think, or goes on with text that was begun.
    #[must_use]
    pub fn reasoning_start(
        &self,
        rendered: &str,
        messages: &[ChatMessage],
        dialog: &Dialog,
    ) -> Option<ReasoningStart> {
        self.thinking().and_then(|_| thinking::start(rendered, messages, dialog))
    }

    /// Whether a conversation's own switches ask the model to think.
    #[must_use]
    pub fn asks_to_think(&self, dialog: &Dialog) -> bool {
        let switch = self.thinking().and_then(|thinking| thinking.switch);
        let switches = dialog.template_kwargs.as_deref().map(parsed);
        match (switch, switches) {
            (Some(switch), Some(Ok(switches))) => switches[switch] == true,
            _ => false,
        }
    }

    fn render_with(&self, context: &Value) -> Result<String, ChatError> {
        let template =
            self.environment.get_template(NAME).expect("the constructor added it: this is a bug");
        let mut out = Bounded { bytes: Vec::new(), overflowed: false };
        let rendered = template.render_captured_to(context, &mut out);
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

    fn context(
        &self,
        messages: &[ChatMessage],
        dialog: &Dialog,
        opts: RenderOptions,
    ) -> Result<Value, ChatError> {
        let mut fields: Vec<Vec<(String, Value)>> = vec![Vec::new(); messages.len()];
        for (i, json) in &dialog.message_fields {
            if let Some(fields) = fields.get_mut(*i) {
                *fields = pairs(json)?;
            }
        }
        let messages: Vec<Value> = messages
            .iter()
            .zip(fields)
            .map(|(message, fields)| {
                let role = match message.role {
                    Role::Developer if !self.knows_developer => Role::System.as_str(),
                    ref role => role.as_str(),
                };
                let plain = [("role", role), ("content", message.content.as_str())];
                let plain = plain.map(|(name, text)| (name.to_owned(), Value::from(text)));
                Value::from_pairs(plain.into_iter().chain(fields))
            })
            .collect();
        let tools = match &dialog.tools {
            Some(json) => Value::from(Serde(parsed(json)?)),
            None => Value::from(()),
        };
        let mut context = vec![
            ("messages".to_owned(), Value::from(messages)),
            ("add_generation_prompt".to_owned(), Value::from(opts.add_generation_prompt)),
            // Templates ask whether these are none, not whether they are defined.
            ("tools".to_owned(), tools),
            ("documents".to_owned(), Value::from(())),
        ];
        let tokens = [
            ("bos_token", &self.tokens.bos),
            ("eos_token", &self.tokens.eos),
            ("unk_token", &self.tokens.unk),
            ("pad_token", &self.tokens.pad),
        ];
        let given = tokens.into_iter().filter(|(_, text)| !text.is_empty());
        context.extend(given.map(|(name, text)| (name.to_owned(), Value::from(text.as_str()))));
        if let Some(now) = opts.now_unix_s {
            let strftime_now = move |format: &str| strftime(format, now);
            context.push(("strftime_now".to_owned(), Value::from_function(strftime_now)));
        }
        if let Some(json) = &dialog.template_kwargs {
            // What the server itself sets comes first and stands.
            let known: Vec<String> = context.iter().map(|(name, _)| name.clone()).collect();
            let more = pairs(json)?.into_iter().filter(|(name, _)| !known.contains(name));
            context.extend(more);
        }
        Ok(Value::from_pairs(context))
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

fn parsed(json: &str) -> Result<serde_json::Value, ChatError> {
    serde_json::from_str(json).map_err(|error| ChatError::Tools { message: error.to_string() })
}

/// The fields of a JSON object.
fn pairs(json: &str) -> Result<Vec<(String, Value)>, ChatError> {
    let serde_json::Value::Object(fields) = parsed(json)? else {
        return Err(ChatError::Tools { message: "an object was expected".to_owned() });
    };
    Ok(fields.into_iter().map(|(name, value)| (name, Value::from(Serde(value)))).collect())
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
