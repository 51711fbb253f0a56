//! How much a model is asked to think before it answers.
//!
//! It must never let a model that does not think pass for one that does: what asks it to is refused.
//!
//! Start reading at [`read`]; the fields of other APIs become a chat's before.

use lastmile::{Dialog, Thinking};
use serde_json::{Map, Value};

use crate::error::shown;
use crate::fields::{Fields, Warnings};
use crate::{ApiError, ParseOptions};

const EFFORT: &str = "reasoning_effort";
const BUDGET: &str = "max_reasoning_tokens";
const EFFORTS: &str = "none, minimal, low, medium or high";

/// A word for how much is to be thought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
}

impl Effort {
    fn of(value: &Value) -> Option<Effort> {
        match value.as_str()? {
            "none" => Some(Effort::None),
            "minimal" => Some(Effort::Minimal),
            "low" => Some(Effort::Low),
            "medium" => Some(Effort::Medium),
            "high" => Some(Effort::High),
            _ => None,
        }
    }

    /// The most tokens of reasoning, for a template that does not tell its model of efforts.
    fn budget(self) -> Option<u32> {
        match self {
            Effort::None => Some(0),
            Effort::Minimal => Some(512),
            Effort::Low => Some(1024),
            Effort::Medium => Some(8192),
            Effort::High => None,
        }
    }
}

/// Takes `reasoning_effort` and `max_reasoning_tokens` out of a chat: the first sets the template's switches, and
/// stands for a budget where the template knows no efforts. Gives the budget, in tokens.
///
/// # Errors
/// A field is malformed, asks a model to think that does not, or contradicts another one.
pub(crate) fn read(
    fields: &mut Fields,
    dialog: &mut Dialog,
    options: &ParseOptions<'_>,
) -> Result<Option<u32>, ApiError> {
    let given = fields.take(EFFORT);
    let wrong = |value: &Value| ApiError::invalid(EFFORT, value, EFFORTS);
    let effort = given.as_ref().map(|value| Effort::of(value).ok_or_else(|| wrong(value)));
    let effort = effort.transpose()?;
    let budget = fields.count(BUDGET, 0)?;
    let Some(thinking) = options.thinking else {
        // What thinks nothing may be asked to.
        if let Some(value) = given.filter(|_| effort != Some(Effort::None)) {
            return Err(unsupported(EFFORT, &value));
        }
        return match budget.filter(|&n| n > 0) {
            Some(n) => Err(unsupported(BUDGET, &n.into())),
            None => Ok(None),
        };
    };
    let (Some(effort), Some(word)) = (effort, given) else { return Ok(budget) };
    if let Some(n) = budget.filter(|&n| n > 0 && effort == Effort::None) {
        return Err(ApiError::Conflict {
            param: BUDGET,
            found: n.to_string(),
            other: EFFORT,
            other_found: shown(&word),
            wanted: "give one of them",
        });
    }
    if let Some(switch) = thinking.switch {
        set(dialog, switch, &Value::Bool(effort != Effort::None), &word)?;
    }
    let thinks = effort != Effort::None;
    let budget = if thinking.reads_effort && thinks {
        set(dialog, EFFORT, &word, &word)?;
        budget
    } else {
        budget.or(effort.budget())
    };
    // Without a switch only a budget asks to think.
    Ok(budget.or((thinking.switch.is_none() && thinks).then_some(u32::MAX)))
}

/// Sets a switch of the template, which the body may have set to the same.
fn set(dialog: &mut Dialog, name: &str, value: &Value, word: &Value) -> Result<(), ApiError> {
    let json = dialog.template_kwargs.as_deref().unwrap_or("{}");
    let mut switches: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
    if let Some(other) = switches.get(name).filter(|other| *other != value) {
        return Err(ApiError::Conflict {
            param: EFFORT,
            found: shown(word),
            other: "chat_template_kwargs",
            other_found: format!("one with {name} {}", shown(other)),
            wanted: "give one of them",
        });
    }
    switches.insert(name.to_owned(), value.clone());
    dialog.template_kwargs = Some(Value::Object(switches).to_string());
    Ok(())
}

fn unsupported(param: impl Into<String>, value: &Value) -> ApiError {
    ApiError::Unsupported { param: param.into(), found: shown(value) }
}

/// Anthropic's `thinking`. Without it nothing is thought, as far as a model has a choice.
pub(crate) fn of_messages(
    body: &mut Fields,
    chat: &mut Map<String, Value>,
    warnings: &mut Warnings,
    options: &ParseOptions<'_>,
) -> Result<(), ApiError> {
    let Some(value) = body.take("thinking") else {
        let has_switch = |thinking: Thinking| thinking.switch.is_some();
        if options.thinking.is_some_and(has_switch) {
            chat.insert(EFFORT.to_owned(), "none".into());
        }
        return Ok(());
    };
    let mut fields = Fields::nested("thinking", value.clone())?;
    let (kind, budget) = (fields.take("type"), fields.count("budget_tokens", 1)?);
    let wanted = "enabled, adaptive or disabled";
    let wrong = |kind: &Value| ApiError::invalid("thinking.type", kind, wanted);
    let asks = match kind.as_ref().and_then(Value::as_str) {
        Some("disabled") => false,
        Some("enabled" | "adaptive") => true,
        _ => return Err(wrong(kind.as_ref().unwrap_or(&Value::Null))),
    };
    if asks && options.thinking.is_none() {
        return Err(unsupported("thinking", &value));
    }
    chat.insert(EFFORT.to_owned(), if asks { "high" } else { "none" }.into());
    if let Some(n) = budget.filter(|_| asks) {
        chat.insert(BUDGET.to_owned(), n.into());
    }
    fields.finish(options.strict, warnings)
}

/// Ollama's `think`: a boolean or a word.
pub(crate) fn of_ollama(
    body: &mut Fields,
    chat: &mut Map<String, Value>,
    options: &ParseOptions<'_>,
) -> Result<(), ApiError> {
    let Some(value) = body.take("think") else { return Ok(()) };
    let word = match &value {
        Value::Bool(true) => "high",
        Value::Bool(false) => "none",
        Value::String(word) if matches!(word.as_str(), "low" | "medium" | "high") => word.as_str(),
        other => return Err(ApiError::invalid("think", other, "true, false, low, medium or high")),
    };
    if word != "none" && options.thinking.is_none() {
        return Err(unsupported("think", &value));
    }
    chat.insert(EFFORT.to_owned(), word.into());
    Ok(())
}

/// The Responses API's `reasoning`. What was thought is told whole, and no summary is written of it.
pub(crate) fn of_responses(
    body: &mut Fields,
    chat: &mut Map<String, Value>,
    warnings: &mut Warnings,
    options: &ParseOptions<'_>,
) -> Result<(), ApiError> {
    let Some(value) = body.take("reasoning") else { return Ok(()) };
    let mut fields = Fields::nested("reasoning", value)?;
    for name in ["summary", "generate_summary"] {
        if let Some(value) = fields.take(name) {
            return Err(unsupported(fields.path(name), &value));
        }
    }
    if let Some(value) = fields.take("effort") {
        let effort = Effort::of(&value);
        let effort =
            effort.ok_or_else(|| ApiError::invalid("reasoning.effort", &value, EFFORTS))?;
        if effort != Effort::None && options.thinking.is_none() {
            return Err(unsupported("reasoning.effort", &value));
        }
        chat.insert(EFFORT.to_owned(), value);
    }
    fields.finish(options.strict, warnings)
}
