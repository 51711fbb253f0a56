//! What a client wants generated, after validation.

use std::time::Duration;

use crate::{
    ChatMessage, Constraint, Dialog, RequestId, SamplingParams, SharedAllowance, Steering,
    TenantId, TokenId,
};

/// One request of a client, ready to be tokenised.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// Chosen by the caller; unique among the requests in flight.
    pub id: RequestId,
    /// What to continue.
    pub prompt: Prompt,
    /// How a raw text becomes tokens; of no use when the prompt is anything else.
    pub text: TextOptions,
    /// What its chat template is given besides the messages; nothing when the prompt is no chat.
    pub dialog: Dialog,
    /// The form that the answer must have.
    pub constraint: Option<Constraint>,
    /// How tokens are drawn. Choice `i` of `n` draws with seed `seed + i`.
    pub sampling: SamplingParams,
    /// When to end.
    pub stop: StopRules,
    /// How many independent answers.
    pub n: u32,
    /// What is told of the prompt, besides the answers.
    pub report: PromptReport,
    /// Who goes first when there is too little room.
    pub priority: Priority,
    /// On whose behalf.
    pub tenant: TenantId,
    /// The adapter that it is computed with, by its name; `None` is the model as it is.
    pub adapter: Option<String>,
    /// On whose behalf the client says that it asks, in its own words.
    pub subject: Option<String>,
    /// How long after its arrival its answer is worth nothing.
    pub deadline: Option<Duration>,
    /// How long it may wait before its first step.
    pub max_queue: Option<Duration>,
    /// How it came, and what overrides do to its answers.
    pub steering: Steering,
    /// What its answers may use while they run; `None` is as much as there is.
    pub allowance: Option<SharedAllowance>,
}

/// What to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Raw text; the model's own beginning-of-sequence rule applies.
    Text(String),
    /// What stands before and after a gap, which the answer fills.
    Infill {
        /// Before the gap.
        prefix: String,
        /// After it.
        suffix: String,
    },
    /// Token ids, taken as they are.
    Tokens(Vec<TokenId>),
    /// A conversation, rendered by the model's chat template.
    Chat(Vec<ChatMessage>),
}

/// How a raw text becomes tokens. What is said in a chat is always text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Add the tokens that begin and end a text, as far as the model wants them.
    pub add_special: bool,
    /// Read names of control tokens, such as `<|im_end|>`, as these tokens.
    pub parse_special: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        TextOptions { add_special: true, parse_special: true }
    }
}

impl Prompt {
    /// The prompt, or where it takes more than `max_bytes`, its beginning as text and how much there was.
    #[must_use]
    pub fn excerpt(&self, max_bytes: usize) -> Prompt {
        let mut text = String::new();
        let n_bytes = match self {
            Prompt::Text(prompt) => {
                push_up_to(&mut text, prompt, max_bytes);
                prompt.len()
            }
            Prompt::Infill { prefix, suffix } => {
                push_up_to(&mut text, prefix, max_bytes);
                push_up_to(&mut text, suffix, max_bytes);
                prefix.len() + suffix.len()
            }
            Prompt::Chat(messages) => {
                for message in messages {
                    push_up_to(&mut text, message.role.as_str(), max_bytes);
                    push_up_to(&mut text, ": ", max_bytes);
                    push_up_to(&mut text, &message.content, max_bytes);
                    push_up_to(&mut text, "\n", max_bytes);
                }
                // Roles and separators are small beside their allocations, which count too.
                let of_message = |message: &ChatMessage| message.content.len() + 32;
                messages.iter().map(of_message).sum()
            }
            Prompt::Tokens(tokens) => {
                for token in tokens.iter().take(max_bytes) {
                    push_up_to(&mut text, &format!("{token} "), max_bytes);
                }
                size_of_val(tokens.as_slice())
            }
        };
        if n_bytes <= max_bytes {
            return self.clone();
        }
        text.push_str(&format!("[cut: {n_bytes} bytes in all]"));
        Prompt::Text(text)
    }
}

/// Appends as much of `more` as keeps `text` within `max_bytes`, whole characters only.
fn push_up_to(text: &mut String, more: &str, max_bytes: usize) {
    let room = max_bytes.saturating_sub(text.len());
    text.push_str(&more[..more.floor_char_boundary(room)]);
}

/// When an answer ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StopRules {
    /// At most this many tokens; `None` is as many as the context holds.
    pub max_tokens: Option<u32>,
    /// End-of-sequence tokens are held back until this many were generated.
    pub min_tokens: u32,
    /// The answer ends before the first of these.
    pub stop_strings: Vec<String>,
    /// The answer ends at the first of these, besides the model's own end tokens.
    pub stop_token_ids: Vec<TokenId>,
    /// Go on after the model's own end tokens.
    pub ignore_eos: bool,
    /// At most this many tokens of reasoning between the tags, of a model that thinks; then the closing tag follows. `None`
    /// is as many as there may be in all.
    pub max_reasoning_tokens: Option<u32>,
}

/// What is told of a prompt, besides its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptReport {
    /// Its tokens.
    pub tokens: bool,
    /// How likely each token after the first was, with so many alternatives. At most 20. Told with the first
    /// answer.
    pub logprobs: Option<u32>,
}

impl PromptReport {
    /// Whether anything is told.
    #[must_use]
    pub fn is_wanted(self) -> bool {
        self.tokens || self.logprobs.is_some()
    }
}

/// Who goes first. Lower classes are preempted first and admitted last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A person waits.
    #[default]
    Interactive,
    /// A program waits.
    Batch,
    /// Nobody waits: probes, shadows, audits.
    Background,
}

impl GenerateRequest {
    /// A request for one answer with the default parameters.
    #[must_use]
    pub fn new(id: RequestId, prompt: Prompt) -> Self {
        GenerateRequest {
            id,
            prompt,
            text: TextOptions::default(),
            dialog: Dialog::default(),
            constraint: None,
            sampling: SamplingParams::default(),
            stop: StopRules::default(),
            n: 1,
            report: PromptReport::default(),
            priority: Priority::Interactive,
            tenant: TenantId::ANONYMOUS,
            adapter: None,
            subject: None,
            deadline: None,
            max_queue: None,
            steering: Steering::default(),
            allowance: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    #[test]
    fn a_long_prompt_is_cut_and_says_so() {
        let cut = |prompt: &Prompt| match prompt.excerpt(10) {
            Prompt::Text(text) => text,
            other => panic!("{other:?} is no text"),
        };
        assert_eq!(
            cut(&Prompt::Text("123456789äöü".to_owned())),
            "123456789[cut: 15 bytes in all]"
        );
        let chat =
            [1, 2].map(|i| ChatMessage { role: Role::User, content: format!("message {i}") });
        assert_eq!(cut(&Prompt::Chat(chat.into())), "user: mess[cut: 82 bytes in all]");
        assert_eq!(cut(&Prompt::Tokens(vec![123; 4])), "123 123 12[cut: 16 bytes in all]");
        let infill = |prefix: &str| {
            let (prefix, suffix) = (prefix.to_owned(), "789äöü".to_owned());
            Prompt::Infill { prefix, suffix }
        };
        assert_eq!(cut(&infill("12345")), "12345789ä[cut: 14 bytes in all]");
        assert_eq!(infill("1").excerpt(10), infill("1"));
        let short = Prompt::Text("0123456789".to_owned());
        assert_eq!(short.excerpt(10), short);
    }
}
