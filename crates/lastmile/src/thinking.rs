//! How the answers to a request may think: where they begin, and the tags that end it.
//!
//! It must never let an answer that goes on with a given text think before it.
//!
//! Start reading at [`plan`].

use lm_chat::ChatTemplate;
use lm_engine::ThinkingPlan;
use lm_tokenizer::{EncodeOptions, Tokenizer};
use lm_types::{GenerateError, GenerateRequest, Prompt, ReasoningScanner, ReasoningStart, TokenId};

use crate::prepare::{Materials, invalid, render};

const BUDGET: &str = "max_reasoning_tokens";

/// How the answers to a request may think; `None` when they are told as they are, or must have a form from their
/// beginning.
pub(crate) fn plan(
    request: &GenerateRequest,
    materials: &Materials<'_>,
) -> Result<Option<ThinkingPlan>, GenerateError> {
    let template = materials.template;
    let budget = request.stop.max_reasoning_tokens;
    let thinks = template.and_then(ChatTemplate::thinking).is_some();
    if let (Some(n @ 1..), Prompt::Chat(_), false) = (budget, &request.prompt, thinks) {
        return Err(invalid(BUDGET, format!("{BUDGET} is {n}, but this model does not think")));
    }
    let Some(start) = start(request, template) else { return Ok(None) };
    let asks = || {
        let by_switch = template.is_some_and(|template| template.asks_to_think(&request.dialog));
        by_switch || budget.is_some_and(|n| n > 0)
    };
    // A form that takes any text holds from the beginning, and again from the closing tag.
    let must_form = request.constraint.as_ref().is_some_and(|asked| !asked.form.takes_any_text());
    let has_form = must_form && start == ReasoningStart::Closed;
    if has_form && !asks() {
        return Ok(None);
    }
    let tag = |text| spelled(materials.tokenizer, text);
    let (close, max_tokens) = (tag(ReasoningScanner::CLOSE), budget.map(|n| n as usize));
    let open = if has_form { tag(ReasoningScanner::OPEN) } else { Some(Vec::new()) };
    match (open, close) {
        (Some(open), Some(close)) => Ok(Some(ThinkingPlan { start, open, close, max_tokens })),
        _ if has_form || budget.is_some() => {
            let field = if budget.is_some() { BUDGET } else { "chat_template_kwargs" };
            let message = "the model's vocabulary cannot spell <think> and </think>";
            Err(invalid(field, message.to_owned()))
        }
        (_, close) => {
            let (open, close) = (Vec::new(), close.unwrap_or_default());
            Ok(Some(ThinkingPlan { start, open, close, max_tokens }))
        }
    }
}

/// The tokens of a tag; `None` when their text is another one.
fn spelled(tokenizer: &Tokenizer, tag: &str) -> Option<Vec<TokenId>> {
    let options = EncodeOptions { add_special: false, parse_special: true };
    let tokens = tokenizer.encode(tag, options).ok()?;
    let bytes: Vec<u8> =
        tokens.iter().flat_map(|&token| tokenizer.token_bytes(token)).copied().collect();
    (bytes.trim_ascii() == tag.as_bytes()).then_some(tokens)
}

/// Has the text that an override lets answers begin with stand after what is thought.
pub(crate) fn say_opening(request: &mut GenerateRequest, template: Option<&ChatTemplate>) {
    let opening = &request.steering.opening;
    if opening.is_empty() || opening.starts_with(ReasoningScanner::CLOSE) {
        return;
    }
    if start(request, template) == Some(ReasoningStart::Open) {
        let opening = format!("{}\n\n{opening}", ReasoningScanner::CLOSE);
        request.steering.opening = opening;
    }
}

/// Where the answer to a prompt begins; `None` when it is told as it is.
pub(crate) fn start(
    request: &GenerateRequest,
    template: Option<&ChatTemplate>,
) -> Option<ReasoningStart> {
    let dialog = &request.dialog;
    let (Prompt::Chat(messages), Some(template)) = (&request.prompt, template) else {
        return None;
    };
    template.thinking()?;
    // A conversation that cannot be rendered has no answer.
    let rendered = render(messages, dialog, Some(template)).ok()?;
    template.reasoning_start(&rendered, messages, dialog)
}
