//! A request as JSON, from which the same request can be made again.
//!
//! It must never leave out what decides an answer.
//!
//! Start reading at [`to_json`].

mod form;

use lm_types::{
    ChatMessage, Constraint, Dialog, Dry, GenerateRequest, Priority, Prompt, PromptReport,
    RequestId, Role, SamplerStep, SamplingParams, Steering, StopRules, TenantId, TextOptions,
    TokenId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use form::{ConstraintRecipe, FORM_FIELDS, form_from, form_to};

/// Why a request cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The JSON is not of this form.
    #[error("the recorded request cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A word that stands for nothing.
    #[error("the recorded request's {field} is {value:?}, which this version does not know")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// The prompt is missing.
    #[error("the recorded request has no prompt")]
    NoPrompt,
}

/// Numbers are `f64`, which holds every `f32` exactly.
#[derive(Serialize, Deserialize)]
struct Recipe {
    temperature: f64,
    top_k: u32,
    top_p: f64,
    min_p: f64,
    typical_p: f64,
    top_n_sigma: f64,
    dry: Option<DryRecipe>,
    logit_bias: Vec<(TokenId, f64)>,
    allowed_token_ids: Option<Vec<TokenId>>,
    bad_words: Vec<Vec<TokenId>>,
    repetition_penalty: f64,
    presence_penalty: f64,
    frequency_penalty: f64,
    seed: u64,
    logprobs: Option<u32>,
    max_tokens: Option<u32>,
    min_tokens: u32,
    stop: Vec<String>,
    stop_token_ids: Vec<TokenId>,
    ignore_eos: bool,
    n: u32,
    tools: Option<String>,
    message_fields: Vec<(usize, String)>,
    template_kwargs: Option<String>,
    continues_last: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    now_unix_s: Option<i64>,
    constraint: Option<ConstraintRecipe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    samplers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    processors: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adapter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_reasoning_tokens: Option<u32>,
    #[serde(default = "as_before")]
    add_special: bool,
    #[serde(default = "as_before")]
    parse_special: bool,
}

/// What was done before it could be said.
fn as_before() -> bool {
    true
}

#[derive(Serialize, Deserialize)]
struct DryRecipe {
    multiplier: f64,
    base: f64,
    allowed_length: u32,
    breakers: Vec<TokenId>,
}

/// Everything of a request that decides its answers, but its prompt.
#[must_use]
pub fn to_json(request: &GenerateRequest) -> Value {
    let (sampling, stop, dialog) = (&request.sampling, &request.stop, &request.dialog);
    let recipe = Recipe {
        temperature: sampling.temperature.into(),
        top_k: sampling.top_k,
        top_p: sampling.top_p.into(),
        min_p: sampling.min_p.into(),
        typical_p: sampling.typical_p.into(),
        top_n_sigma: sampling.top_n_sigma.into(),
        dry: sampling.dry.as_ref().map(|dry| DryRecipe {
            multiplier: dry.multiplier.into(),
            base: dry.base.into(),
            allowed_length: dry.allowed_length,
            breakers: dry.breakers.clone(),
        }),
        samplers: sampling.samplers.as_deref().map(names_of),
        processors: sampling.processors.clone(),
        logit_bias: sampling.logit_bias.iter().map(|&(id, bias)| (id, bias.into())).collect(),
        allowed_token_ids: sampling.allowed_token_ids.clone(),
        bad_words: sampling.bad_words.clone(),
        repetition_penalty: sampling.repetition_penalty.into(),
        presence_penalty: sampling.presence_penalty.into(),
        frequency_penalty: sampling.frequency_penalty.into(),
        seed: sampling.seed,
        logprobs: sampling.logprobs,
        max_tokens: stop.max_tokens,
        min_tokens: stop.min_tokens,
        stop: stop.stop_strings.clone(),
        stop_token_ids: stop.stop_token_ids.clone(),
        ignore_eos: stop.ignore_eos,
        n: request.n,
        tools: dialog.tools.clone(),
        message_fields: dialog.message_fields.clone(),
        template_kwargs: dialog.template_kwargs.clone(),
        continues_last: dialog.continues_last,
        now_unix_s: dialog.now_unix_s,
        constraint: request.constraint.as_ref().map(|constraint| ConstraintRecipe {
            field: constraint.field.to_owned(),
            form: form_to(&constraint.form),
        }),
        adapter: request.adapter.clone(),
        max_reasoning_tokens: stop.max_reasoning_tokens,
        add_special: request.text.add_special,
        parse_special: request.text.parse_special,
    };
    serde_json::to_value(&recipe).expect("numbers and texts are JSON: this is a bug")
}

/// The prompt alone, as it is stored beside the recipe.
#[must_use]
pub fn prompt_to_json(prompt: &Prompt) -> Value {
    match prompt {
        Prompt::Text(text) => json!({ "text": text }),
        Prompt::Infill { prefix, suffix } => json!({ "text": prefix, "suffix": suffix }),
        Prompt::Tokens(tokens) => json!({ "tokens": tokens }),
        Prompt::Chat(messages) => {
            let message =
                |m: &ChatMessage| json!({ "role": m.role.as_str(), "content": m.content });
            json!({ "messages": messages.iter().map(message).collect::<Vec<Value>>() })
        }
    }
}

/// The request again, with neither tenant nor time limits: they decide no token.
///
/// # Errors
/// What cannot be read, or is not known.
pub fn from_json(
    id: RequestId,
    prompt: &Value,
    recipe: &Value,
) -> Result<GenerateRequest, RecipeError> {
    let recipe = Recipe::deserialize(recipe)?;
    let constraint = recipe.constraint.map(|constraint| {
        let field = FORM_FIELDS.into_iter().find(|field| *field == constraint.field);
        Constraint { field: field.unwrap_or("response_format"), form: form_from(constraint.form) }
    });
    let sampling = SamplingParams {
        temperature: recipe.temperature as f32,
        top_k: recipe.top_k,
        top_p: recipe.top_p as f32,
        min_p: recipe.min_p as f32,
        typical_p: recipe.typical_p as f32,
        top_n_sigma: recipe.top_n_sigma as f32,
        dry: recipe.dry.map(|dry| Dry {
            multiplier: dry.multiplier as f32,
            base: dry.base as f32,
            allowed_length: dry.allowed_length,
            breakers: dry.breakers,
        }),
        samplers: recipe.samplers.map(steps_of).transpose()?,
        processors: recipe.processors,
        logit_bias: recipe.logit_bias.into_iter().map(|(id, bias)| (id, bias as f32)).collect(),
        allowed_token_ids: recipe.allowed_token_ids,
        bad_words: recipe.bad_words,
        repetition_penalty: recipe.repetition_penalty as f32,
        presence_penalty: recipe.presence_penalty as f32,
        frequency_penalty: recipe.frequency_penalty as f32,
        seed: recipe.seed,
        logprobs: recipe.logprobs,
    };
    Ok(GenerateRequest {
        id,
        prompt: prompt_from(prompt)?,
        text: TextOptions { add_special: recipe.add_special, parse_special: recipe.parse_special },
        dialog: Dialog {
            tools: recipe.tools,
            message_fields: recipe.message_fields,
            template_kwargs: recipe.template_kwargs,
            continues_last: recipe.continues_last,
            now_unix_s: recipe.now_unix_s,
        },
        constraint,
        sampling,
        stop: StopRules {
            max_tokens: recipe.max_tokens,
            min_tokens: recipe.min_tokens,
            stop_strings: recipe.stop,
            stop_token_ids: recipe.stop_token_ids,
            ignore_eos: recipe.ignore_eos,
            max_reasoning_tokens: recipe.max_reasoning_tokens,
        },
        n: recipe.n,
        report: PromptReport::default(),
        priority: Priority::Interactive,
        tenant: TenantId::ANONYMOUS,
        adapter: recipe.adapter,
        subject: None,
        deadline: None,
        max_queue: None,
        steering: Steering::default(),
        allowance: None,
    })
}

pub(crate) fn names_of(steps: &[SamplerStep]) -> Vec<String> {
    steps.iter().map(|step| step.as_str().to_owned()).collect()
}

fn steps_of(names: Vec<String>) -> Result<Vec<SamplerStep>, RecipeError> {
    let step = |name: String| {
        SamplerStep::named(&name).ok_or(RecipeError::Unknown { field: "samplers", value: name })
    };
    names.into_iter().map(step).collect()
}

pub(crate) fn prompt_from(prompt: &Value) -> Result<Prompt, RecipeError> {
    #[derive(Deserialize)]
    struct Message {
        role: String,
        content: String,
    }
    if let Some(text) = prompt.get("text") {
        let text = String::deserialize(text)?;
        return Ok(match prompt.get("suffix") {
            Some(suffix) => Prompt::Infill { prefix: text, suffix: String::deserialize(suffix)? },
            None => Prompt::Text(text),
        });
    }
    if let Some(tokens) = prompt.get("tokens") {
        return Ok(Prompt::Tokens(Vec::deserialize(tokens)?));
    }
    let messages = prompt.get("messages").ok_or(RecipeError::NoPrompt)?;
    let message = |message: Message| {
        let roles = [Role::System, Role::User, Role::Assistant, Role::Tool, Role::Developer];
        let role = roles.into_iter().find(|role| role.as_str() == message.role);
        let role = role.ok_or(RecipeError::Unknown { field: "role", value: message.role })?;
        Ok(ChatMessage { role, content: message.content })
    };
    let messages = Vec::<Message>::deserialize(messages)?.into_iter().map(message);
    Ok(Prompt::Chat(messages.collect::<Result<_, RecipeError>>()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lm_types::{AnswerForm, CallForm, MayCall};

    use super::*;

    #[track_caller]
    fn check(request: &GenerateRequest) {
        let recipe = to_json(request).to_string();
        let prompt = prompt_to_json(&request.prompt).to_string();
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(&from_json(request.id, &read(&prompt), &read(&recipe)).unwrap(), request);
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let chat = |role| ChatMessage { role, content: "a \"b\"\n\u{e9}".to_owned() };
        let prompt = Prompt::Chat([Role::System, Role::Tool, Role::Developer].map(chat).into());
        let mut request = GenerateRequest::new(RequestId(7), prompt);
        check(&request);
        request.dialog = Dialog {
            tools: Some("[]".to_owned()),
            message_fields: vec![(1, "{\"name\":\"x\"}".to_owned())],
            template_kwargs: Some("{}".to_owned()),
            continues_last: true,
            now_unix_s: Some(1_767_225_600),
        };
        request.sampling = SamplingParams {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.05,
            typical_p: 0.3,
            top_n_sigma: 1.1,
            dry: Some(Dry { multiplier: 0.8, base: 1.75, allowed_length: 2, breakers: vec![1, 9] }),
            processors: vec!["x".to_owned()],
            samplers: Some(vec![SamplerStep::TypicalP, SamplerStep::Temperature]),
            logit_bias: vec![(3, -1.3), (4, f32::MIN_POSITIVE)],
            allowed_token_ids: Some(vec![1, 2, 3]),
            bad_words: vec![vec![1], vec![2, 3]],
            repetition_penalty: 1.1,
            presence_penalty: -0.1,
            frequency_penalty: 0.3,
            seed: u64::MAX - 1,
            logprobs: Some(5),
        };
        request.stop = StopRules {
            max_tokens: Some(9),
            min_tokens: 2,
            stop_strings: vec!["END".to_owned()],
            stop_token_ids: vec![4],
            ignore_eos: true,
            max_reasoning_tokens: Some(7),
        };
        request.n = 3;
        request.adapter = Some("sql".to_owned());
        check(&request);
        request.prompt = Prompt::Text("x".to_owned());
        request.text = TextOptions { add_special: false, parse_special: false };
        let calls = CallForm {
            schema: "{}".to_owned(),
            open: "[".into(),
            begin: "<call>\n".into(),
            end: "</call>".into(),
            between: ", ".into(),
            close: "]".into(),
            max_calls: 4,
            others: vec![("g".to_owned(), "{}".to_owned())],
        };
        let text = || "x".to_owned();
        let otherwise = Some(Box::new(AnswerForm::JsonObject));
        for form in [
            AnswerForm::JsonObject,
            AnswerForm::JsonSchema(text()),
            AnswerForm::Regex(text()),
            AnswerForm::Choice(vec![text()]),
            AnswerForm::Lark(text()),
            AnswerForm::Calls(calls.clone()),
            AnswerForm::MayCall(MayCall { calls, marker: "[C]".into(), otherwise }),
        ] {
            request.constraint = Some(Constraint { field: "guided_regex", form });
            check(&request);
        }
    }

    #[test]
    fn prompts_that_are_no_chat_come_back_as_they_were() {
        let infill = Prompt::Infill { prefix: "a".to_owned(), suffix: "ä".to_owned() };
        for prompt in [Prompt::Tokens(vec![1, 2, 3]), infill] {
            check(&GenerateRequest::new(RequestId(7), prompt));
        }
    }
}
