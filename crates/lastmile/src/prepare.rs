//! From a request to tokens: the last validation, the template, the tokenizer.

use lm_chat::{ChatTemplate, RenderOptions};
use lm_tokenizer::{EncodeOptions, StopMatcher, Tokenizer, TokenizerError};
use lm_types::{ChatMessage, GenerateError, GenerateRequest, Prompt, StopRules, TokenId};

/// Most answers that one request may ask for.
const MAX_N: u32 = 64;

/// What the engine needs of a request.
pub(crate) struct Prepared {
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) max_new_tokens: usize,
    pub(crate) stop: StopMatcher,
    /// What was changed about the request.
    pub(crate) warnings: Vec<String>,
}

pub(crate) fn prepare(
    request: &GenerateRequest,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    vocab_size: usize,
    max_model_len: usize,
) -> Result<Prepared, GenerateError> {
    request.sampling.validate().map_err(|error| invalid(error.name, error.to_string()))?;
    if !(1..=MAX_N).contains(&request.n) {
        return Err(invalid("n", format!("n is {}, but must be 1 to {MAX_N}", request.n)));
    }
    let stop = StopMatcher::new(&request.stop.stop_strings)
        .map_err(|error| invalid("stop", error.to_string()))?;
    let out_of_vocabulary = |&token: &TokenId| token as usize >= vocab_size;
    let mut stop_ids = request.stop.stop_token_ids.iter().copied();
    if let Some(token) = stop_ids.find(out_of_vocabulary) {
        let message = format!("stop_token_ids holds {token}, but ids end at {}", vocab_size - 1);
        return Err(invalid("stop_token_ids", message));
    }
    let (prompt, warnings) = tokens(&request.prompt, tokenizer, template)?;
    if let Some(token) = prompt.iter().copied().find(out_of_vocabulary) {
        return Err(GenerateError::UnknownToken { token, vocab_size });
    }
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    let max_new_tokens = max_new_tokens(&request.stop, prompt.len(), max_model_len)?;
    Ok(Prepared { prompt, max_new_tokens, stop, warnings })
}

/// The prompt's tokens, and what of it they do not hold.
pub(crate) fn tokens(
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<(Vec<TokenId>, Vec<String>), GenerateError> {
    let encode = |text: &str, add_special| {
        let options = EncodeOptions { add_special, parse_special: true };
        let tokens = tokenizer.encode(text, options).map_err(|error: TokenizerError| {
            invalid("prompt", format!("the prompt cannot be tokenised: {error}"))
        })?;
        let n_lost = tokenizer.unspelled_bytes(text);
        let warning = || format!("{n_lost} bytes of the prompt are not in the model's vocabulary");
        Ok((tokens, (n_lost > 0).then(warning).into_iter().collect()))
    };
    match prompt {
        Prompt::Text(text) => encode(text, true),
        Prompt::Tokens(tokens) => Ok((tokens.clone(), vec![])),
        Prompt::Chat(messages) => {
            let (mut tokens, warnings) = encode(&render(messages, template)?, false)?;
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

fn render(
    messages: &[ChatMessage],
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
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    template
        .render(messages, options)
        .map_err(|error| GenerateError::Template { message: error.to_string() })
}

fn max_new_tokens(
    rules: &StopRules,
    prompt_tokens: usize,
    max_model_len: usize,
) -> Result<usize, GenerateError> {
    if prompt_tokens >= max_model_len {
        return Err(GenerateError::ContextTooLong { prompt_tokens, max_model_len });
    }
    let room = max_model_len - prompt_tokens;
    let max_tokens = rules.max_tokens.map_or(room, |n| n as usize);
    if max_tokens == 0 {
        return Err(invalid("max_tokens", "max_tokens is 0, but must be at least 1".to_owned()));
    }
    if max_tokens > room {
        return Err(GenerateError::MaxTokensTooLarge { prompt_tokens, max_tokens, max_model_len });
    }
    if rules.min_tokens as usize > max_tokens {
        let min_tokens = rules.min_tokens;
        let message = format!("min_tokens is {min_tokens}, but max_tokens only {max_tokens}");
        return Err(invalid("min_tokens", message));
    }
    Ok(max_tokens)
}

fn invalid(field: &'static str, message: String) -> GenerateError {
    GenerateError::InvalidField { field, message }
}
