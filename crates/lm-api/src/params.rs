//! The fields that chat and completions share: how tokens are drawn, when to end, how to answer.
//!
//! It must never know prompts.
//!
//! Start reading at [`Parsed`].

use lastmile::{
    Constraint, Dialog, GenerateRequest, Prompt, PromptReport, RequestId, SamplingParams, Steering,
    StopRules, TenantId, TextOptions, Thinking, ToolFormat,
};
use serde_json::Value;

use crate::error::shown;
use crate::fields::{Fields, Warnings};
use crate::prompt_report::Told;
use crate::samplers::{self, Words};
use crate::tools::ToolUse;
use crate::{ApiError, Urgency, structured, tools, unsupported};

/// Stop strings of one request.
const MAX_STOP_STRINGS: usize = 16;
/// Stop tokens of one request.
const MAX_STOP_TOKENS: usize = 64;
/// Answers of one prompt.
const MAX_N: i64 = 64;
/// Alternatives that a token's log-probability comes with.
pub(crate) const MAX_TOP_LOGPROBS: i64 = 20;

/// What parsing needs besides the body.
#[derive(Clone, Copy, Debug)]
pub struct ParseOptions<'a> {
    /// The parameters of a request that says nothing.
    pub defaults: &'a SamplingParams,
    /// The seed of a request without one.
    pub entropy: u64,
    /// The form in which the model calls tools.
    pub tool_format: ToolFormat,
    /// How the model thinks; `None` when it does not.
    pub thinking: Option<Thinking>,
    /// Whether an unknown field is an error rather than a warning.
    pub strict: bool,
}

/// A body that passed.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The model that was asked for; absent means whichever is served.
    pub model: Option<String>,
    /// At least one; a chat has exactly one.
    pub prompts: Vec<Prompt>,
    /// How a raw prompt becomes tokens.
    pub text: TextOptions,
    /// What the chat template is given besides the messages.
    pub dialog: Dialog,
    /// The tools that may be called.
    pub tools: Option<ToolUse>,
    /// The form that the answer must have.
    pub constraint: Option<Constraint>,
    /// Words of the sampling parameters, which the vocabulary must spell.
    pub words: Words,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Whether the body had a seed; without one each prompt draws its own.
    pub has_seed: bool,
    /// When to end.
    pub stop: StopRules,
    /// Answers for each prompt.
    pub n: u32,
    /// What is told of each prompt.
    pub report: PromptReport,
    /// Each answer's text begins with its prompt's.
    pub echo: bool,
    /// Whether the body wants `prompt_logprobs` by that name.
    pub has_prompt_logprobs: bool,
    /// How urgent it is; headers may say more.
    pub urgency: Urgency,
    /// Answer by server-sent events.
    pub stream: bool,
    /// The last chunk of a stream carries the usage.
    pub include_usage: bool,
    /// The answer says what it took.
    pub timings: bool,
    /// The answer comes with its tokens' log-probabilities.
    pub has_logprobs: bool,
    /// The answer says how sure the model was: log-probabilities are computed, whether or not they are told.
    pub confidence: bool,
    /// On whose behalf.
    pub subject: Option<String>,
    /// What was not understood and is ignored.
    pub warnings: Vec<String>,
}

impl Parsed {
    /// One request for each prompt, with ids from `mint`. Takes the prompts out.
    pub fn take_requests(&mut self, mut mint: impl FnMut() -> RequestId) -> Vec<GenerateRequest> {
        let prompts = std::mem::take(&mut self.prompts);
        let request = |(idx, prompt): (usize, Prompt)| {
            let mut sampling = self.sampling.clone();
            if !self.has_seed {
                // Choice i draws with seed + i, so the prompts' ranges lie side by side.
                sampling.seed = sampling.seed.wrapping_add(idx as u64 * u64::from(self.n));
            }
            GenerateRequest {
                id: mint(),
                prompt,
                text: self.text,
                dialog: self.dialog.clone(),
                constraint: self.constraint.clone(),
                sampling,
                stop: self.stop.clone(),
                n: self.n,
                report: self.report,
                priority: self.urgency.priority.unwrap_or_default(),
                tenant: TenantId::ANONYMOUS,
                // The server knows which names are adapters'.
                adapter: None,
                subject: self.subject.clone(),
                deadline: self.urgency.deadline,
                max_queue: self.urgency.max_queue,
                steering: Steering::default(),
                allowance: None,
            }
        };
        prompts.into_iter().enumerate().map(request).collect()
    }
}

/// Reads everything but the prompt. `logprobs` is read by the caller, as the APIs differ there.
pub(crate) fn read(
    mut fields: Fields,
    mut warnings: Warnings,
    prompts: Vec<Prompt>,
    mut dialog: Dialog,
    logprobs: Option<u32>,
    told: Told,
    options: &ParseOptions<'_>,
) -> Result<Parsed, ApiError> {
    let tools = match prompts.first() {
        Some(Prompt::Chat(_)) => tools::tool_use(&mut fields, &mut warnings, options.strict)?,
        _ => None,
    };
    let mut constraint = structured::constraint(&mut fields, &mut warnings, options.strict)?;
    if let Some(tools) = &tools
        && let Some(calls) = tools::enforced(tools, options.tool_format)?
    {
        if let Some(other) = &constraint {
            return Err(ApiError::Conflict {
                param: "tool_choice",
                found: "one that requires a call".to_owned(),
                other: other.field,
                other_found: "given".to_owned(),
                wanted: "an answer has one form",
            });
        }
        constraint = Some(calls);
    }
    dialog.tools = tools.as_ref().map(|tools| tools.json.clone());
    unsupported::refuse(&mut fields)?;
    let seed = seed(&mut fields)?;
    let (mut words, mut sampling) = (Words::default(), options.defaults.clone());
    samplers::read(&mut fields, &mut sampling, &mut words)?;
    sampling = basic_sampling(&mut fields, logprobs, seed.unwrap_or(options.entropy), &sampling)?;
    let confidence = fields.boolean("confidence")?.unwrap_or(false);
    sampling.logprobs = logprobs.or(confidence.then_some(0));
    let stop = stop_rules(&mut fields, told.report)?;
    let (stream, include_usage) = streaming(&mut fields, &mut warnings, options.strict)?;
    let subject = subject(&mut fields)?;
    let timings = fields.boolean("timings")?.unwrap_or(false);
    let urgency = Urgency::read(&mut fields)?;
    let model = fields.string("model")?;
    let n = fields.integer("n", 1..=MAX_N)?.unwrap_or(1) as u32;
    told.check_stream(stream, n)?;
    fields.finish(options.strict, &mut warnings)?;
    Ok(Parsed {
        model,
        prompts,
        text: TextOptions::default(),
        dialog,
        tools,
        constraint,
        words,
        sampling,
        has_seed: seed.is_some(),
        stop,
        n,
        report: told.report,
        echo: told.echo,
        has_prompt_logprobs: told.has_prompt_logprobs,
        urgency,
        stream,
        include_usage,
        timings,
        has_logprobs: logprobs.is_some(),
        confidence,
        subject,
        warnings: warnings.into_list(),
    })
}

/// Chat's way to ask for log-probabilities: a switch and a number.
pub(crate) fn chat_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    match top {
        Some(top) if top > 0 && !wanted => Err(ApiError::Conflict {
            param: "top_logprobs",
            found: top.to_string(),
            other: "logprobs",
            other_found: "false".to_owned(),
            wanted: "logprobs must be true",
        }),
        top => Ok(wanted.then_some(top.unwrap_or(0) as u32)),
    }
}

/// The way of completions: one number.
pub(crate) fn completion_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    Ok(fields.integer("logprobs", 0..=MAX_TOP_LOGPROBS)?.map(|top| top as u32))
}

/// On whose behalf: OpenAI's older and newer name for it. The newer one is meant to be a hash already.
fn subject(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let (user, identifier) = (fields.string("user")?, fields.string("safety_identifier")?);
    Ok(user.or(identifier).filter(|subject| !subject.is_empty()))
}

/// Any 64-bit integer; a negative one is taken modulo 2^64.
fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    match value.as_i64().map(i64::cast_unsigned).or_else(|| value.as_u64()) {
        Some(seed) => Ok(Some(seed)),
        None => Err(ApiError::invalid("seed", &value, "a 64-bit integer")),
    }
}

fn basic_sampling(
    fields: &mut Fields,
    logprobs: Option<u32>,
    seed: u64,
    base: &SamplingParams,
) -> Result<SamplingParams, ApiError> {
    let mut number = |name: &'static str, default: f32| {
        // Infinity is outside of every range, so what overflows is refused below.
        Ok(fields.number(name)?.map_or(default, |number| number as f32))
    };
    let mut sampling = SamplingParams {
        temperature: number("temperature", base.temperature)?,
        top_p: number("top_p", base.top_p)?,
        min_p: number("min_p", base.min_p)?,
        repetition_penalty: number("repetition_penalty", base.repetition_penalty)?,
        presence_penalty: number("presence_penalty", base.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", base.frequency_penalty)?,
        seed,
        logprobs,
        ..base.clone()
    };
    // Clients of vLLM write -1 for all tokens.
    if let Some(top_k) = fields.integer("top_k", -1..=i64::from(u32::MAX))? {
        sampling.top_k = u32::try_from(top_k).unwrap_or(0);
    }
    sampling.validate().map_err(|error| ApiError::Invalid {
        param: error.name.to_owned(),
        found: error.value,
        wanted: error.limit.to_owned(),
    })?;
    Ok(sampling)
}

fn stop_rules(fields: &mut Fields, report: PromptReport) -> Result<StopRules, ApiError> {
    // Without an answer there must be something to say of the prompt.
    let least = u32::from(!report.is_wanted());
    Ok(StopRules {
        max_tokens: max_tokens(fields, least)?,
        min_tokens: fields.count("min_tokens", 0)?.unwrap_or(0),
        stop_strings: stop_strings(fields)?,
        stop_token_ids: stop_token_ids(fields)?,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        // A chat's own.
        max_reasoning_tokens: None,
    })
}

fn max_tokens(fields: &mut Fields, least: u32) -> Result<Option<u32>, ApiError> {
    let old = fields.count("max_tokens", least)?;
    let new = fields.count("max_completion_tokens", least)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(ApiError::Conflict {
            param: "max_tokens",
            found: old.to_string(),
            other: "max_completion_tokens",
            other_found: new.to_string(),
            wanted: "give one of them, or both with the same value",
        }),
        _ => Ok(old.or(new)),
    }
}

fn stop_strings(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let wanted = || format!("a string or an array of at most {MAX_STOP_STRINGS} strings");
    let Some(value) = fields.take("stop") else { return Ok(Vec::new()) };
    let too_many = |list: &Vec<Value>| list.len() > MAX_STOP_STRINGS;
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) if !too_many(&list) && list.iter().all(Value::is_string) => {
            Ok(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        other => Err(ApiError::invalid("stop", &other, wanted())),
    }
}

fn stop_token_ids(fields: &mut Fields) -> Result<Vec<u32>, ApiError> {
    let Some(value) = fields.take("stop_token_ids") else { return Ok(Vec::new()) };
    let ids = value.as_array().filter(|list| list.len() <= MAX_STOP_TOKENS);
    ids.and_then(|list| list.iter().map(token_id).collect()).ok_or_else(|| {
        let wanted = format!("an array of at most {MAX_STOP_TOKENS} token ids");
        ApiError::invalid("stop_token_ids", &value, wanted)
    })
}

/// A token id; whether the vocabulary holds it is for the runtime to say.
pub(crate) fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn streaming(
    fields: &mut Fields,
    warnings: &mut Warnings,
    strict: bool,
) -> Result<(bool, bool), ApiError> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(value) = fields.take("stream_options") else { return Ok((stream, false)) };
    if !stream {
        return Err(ApiError::Conflict {
            param: "stream_options",
            found: shown(&value),
            other: "stream",
            other_found: "false".to_owned(),
            wanted: "stream must be true",
        });
    }
    let mut fields = Fields::nested("stream_options", value)?;
    let include_usage = fields.boolean("include_usage")?.unwrap_or(false);
    // Padding against traffic analysis: absent or present, the answer is the same.
    fields.boolean("include_obfuscation")?;
    fields.finish(strict, warnings)?;
    Ok((stream, include_usage))
}
