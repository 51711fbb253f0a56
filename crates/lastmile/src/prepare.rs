//! From a request to tokens: the last validation, the template, the tokenizer.

use std::time::{SystemTime, UNIX_EPOCH};

use lm_chat::{ChatTemplate, RenderOptions};
use lm_engine::ThinkingPlan;
use lm_tokenizer::{EncodeOptions, StopMatcher, Tokenizer, TokenizerError};
use lm_types::{
    ChatMessage, Dialog, GenerateError, GenerateRequest, Prompt, PromptReport, SamplingParams,
    StopRules, TextOptions, TokenId,
};

use crate::said::{NoGuard, Said};
use crate::thinking;

/// Most answers that one request may ask for.
const MAX_N: u32 = 64;

/// What the engine needs of a request, but the form that its answers must have.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) max_new_tokens: usize,
    pub(crate) stop: StopMatcher,
    /// How its answers may think, when the model does.
    pub(crate) thinking: Option<ThinkingPlan>,
    /// What was changed about the request.
    pub(crate) warnings: Vec<String>,
}

/// What preparing needs of a loaded model.
pub(crate) struct Materials<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) template: Option<&'a ChatTemplate>,
    pub(crate) vocab_size: usize,
    pub(crate) max_model_len: usize,
    /// What it would be with enough memory.
    pub(crate) own_len: usize,
}

pub(crate) fn prepare(
    request: &GenerateRequest,
    materials: &Materials<'_>,
) -> Result<Prepared, GenerateError> {
    let &Materials { tokenizer, template, vocab_size, .. } = materials;
    request.sampling.validate().map_err(|error| invalid(error.name, error.to_string()))?;
    if !(1..=MAX_N).contains(&request.n) {
        return Err(invalid("n", format!("n is {}, but must be 1 to {MAX_N}", request.n)));
    }
    check_tokens(&request.sampling, vocab_size)?;
    let stop = StopMatcher::new(&request.stop.stop_strings)
        .map_err(|error| invalid("stop", error.to_string()))?;
    let out_of_vocabulary = |&token: &TokenId| token as usize >= vocab_size;
    let mut stop_ids = request.stop.stop_token_ids.iter().copied();
    if let Some(token) = stop_ids.find(out_of_vocabulary) {
        let message = format!("stop_token_ids holds {token}, but ids end at {}", vocab_size - 1);
        return Err(invalid("stop_token_ids", message));
    }
    let (mut prompt, warnings) =
        tokens(&request.prompt, request.text, &request.dialog, tokenizer, template)?;
    if let Some(token) = prompt.iter().copied().find(out_of_vocabulary) {
        return Err(GenerateError::UnknownToken { token, vocab_size });
    }
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if !request.steering.opening.is_empty() {
        let opening = tokenizer.encode_continuing(&request.steering.opening);
        prompt.extend(opening.map_err(|error| {
            invalid("opening", format!("the answer's beginning cannot be tokenised: {error}"))
        })?);
    }
    let max_new_tokens = max_new_tokens(&request.stop, request.report, prompt.len(), materials)?;
    check_report(request)?;
    let thinking = thinking::plan(request, materials)?;
    Ok(Prepared { prompt, max_new_tokens, stop, thinking, warnings })
}

/// Token ids of the sampling parameters lie within the vocabulary.
fn check_tokens(sampling: &SamplingParams, vocab_size: usize) -> Result<(), GenerateError> {
    let check =
        |field: &'static str, mut tokens: Box<dyn Iterator<Item = TokenId> + '_>| match tokens
            .find(|&token| token as usize >= vocab_size)
        {
            Some(token) => {
                let message = format!("{field} holds {token}, but ids end at {}", vocab_size - 1);
                Err(invalid(field, message))
            }
            None => Ok(()),
        };
    check("logit_bias", Box::new(sampling.logit_bias.iter().map(|&(token, _)| token)))?;
    check("allowed_token_ids", Box::new(sampling.allowed_token_ids.iter().flatten().copied()))
}

/// The prompt's tokens, and what of it they do not hold.
pub(crate) fn tokens(
    prompt: &Prompt,
    text_options: TextOptions,
    dialog: &Dialog,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<(Vec<TokenId>, Vec<String>), GenerateError> {
    let failed = |error: TokenizerError| {
        invalid("prompt", format!("the prompt cannot be tokenised: {error}"))
    };
    let lost = |text: &str| {
        let n_lost = tokenizer.unspelled_bytes(text);
        let warning = || format!("{n_lost} bytes of the prompt are not in the model's vocabulary");
        (n_lost > 0).then(warning).into_iter().collect()
    };
    match prompt {
        Prompt::Text(text) => {
            let TextOptions { add_special, parse_special } = text_options;
            let options = EncodeOptions { add_special, parse_special };
            Ok((tokenizer.encode(text, options).map_err(failed)?, lost(text)))
        }
        Prompt::Tokens(tokens) => Ok((tokens.clone(), vec![])),
        Prompt::Chat(messages) => {
            let said = Said::of(messages, dialog, tokenizer).map_err(|NoGuard| {
                let what = "messages hold names of control tokens and all of U+FDD0 to U+FDEF";
                invalid("messages", what.to_owned())
            })?;
            let (mut tokens, warnings) = match said {
                None => {
                    let text = render(messages, dialog, template)?;
                    let options = EncodeOptions { add_special: false, parse_special: true };
                    (tokenizer.encode(&text, options).map_err(failed)?, lost(&text))
                }
                Some(Said { messages, dialog, guard }) => {
                    let text = render(&messages, &dialog, template)?;
                    let tokens = tokenizer.encode_guarded(&text, guard).map_err(failed)?;
                    (tokens, lost(&text.replace(guard, "")))
                }
            };
            // Templates that do not write the beginning of a text themselves rely on the tokenizer.
            if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos())
                && tokens.first() != Some(&bos)
            {
                tokens.insert(0, bos);
            }
            Ok((tokens, warnings))
        }
    }
}

pub(crate) fn render(
    messages: &[ChatMessage],
    dialog: &Dialog,
    template: Option<&ChatTemplate>,
) -> Result<String, GenerateError> {
    if messages.is_empty() {
        return Err(invalid("messages", "messages is empty, but must hold at least 1".to_owned()));
    }
    let Some(template) = template else {
        return Err(GenerateError::Template {
            message: "this model has none, because it is a base model; use completions, or start \
                      the server with a chat template"
                .to_owned(),
        });
    };
    // Templates that have a date of their own keep it: prompts that change every day share no prefix.
    let now = || dialog.now_unix_s.unwrap_or_else(|| unix_s(SystemTime::now()));
    let options =
        RenderOptions { add_generation_prompt: true, now_unix_s: template.needs_now().then(now) };
    template
        .render_dialog(messages, dialog, options)
        .map_err(|error| GenerateError::Template { message: error.to_string() })
}

/// Seconds since 1970-01-01 in UTC.
pub(crate) fn unix_s(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// More alternatives than these would be most of the vocabulary, for each token of a prompt.
fn check_report(request: &GenerateRequest) -> Result<(), GenerateError> {
    match request.report.logprobs {
        Some(n) if n > 20 => {
            let message = format!("prompt_logprobs is {n}, but must be at most 20");
            Err(invalid("prompt_logprobs", message))
        }
        _ => Ok(()),
    }
}

fn max_new_tokens(
    rules: &StopRules,
    report: PromptReport,
    prompt_tokens: usize,
    materials: &Materials<'_>,
) -> Result<usize, GenerateError> {
    let &Materials { max_model_len, own_len, .. } = materials;
    if prompt_tokens >= max_model_len {
        return Err(GenerateError::ContextTooLong { prompt_tokens, max_model_len, own_len });
    }
    let room = max_model_len - prompt_tokens;
    let max_tokens = rules.max_tokens.map_or(room, |n| n as usize);
    // Without an answer there must be something to say of the prompt.
    if max_tokens == 0 && !report.is_wanted() {
        let message = "max_tokens is 0, but must be at least 1 unless the prompt is told back: echo or \
                       prompt_logprobs";
        return Err(invalid("max_tokens", message.to_owned()));
    }
    if max_tokens > room {
        return Err(GenerateError::MaxTokensTooLarge {
            prompt_tokens,
            max_tokens,
            max_model_len,
            own_len,
        });
    }
    if rules.min_tokens as usize > max_tokens {
        let min_tokens = rules.min_tokens;
        let message = format!("min_tokens is {min_tokens}, but max_tokens only {max_tokens}");
        return Err(invalid("min_tokens", message));
    }
    Ok(max_tokens)
}

pub(crate) fn invalid(field: &'static str, message: String) -> GenerateError {
    GenerateError::InvalidField { field, message }
}
