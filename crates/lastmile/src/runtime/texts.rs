//! Texts to tokens and back, without the engine.

use lm_chat::{ChatTemplate, Thinking};
use lm_tokenizer::{EncodeOptions, TokenizerError};
use lm_types::{
    ChatMessage, Dialog, GenerateError, GenerateRequest, Prompt, ReasoningStart, TextOptions,
    TokenId,
};

use super::Runtime;
use crate::{prepare, thinking};

impl Runtime {
    /// A token as text, control tokens by their names.
    #[must_use]
    pub fn token_text(&self, token: TokenId) -> String {
        self.tokenizer.token_text(token).into_owned()
    }

    /// The bytes that a token adds to a text.
    #[must_use]
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.tokenizer.token_bytes(token)
    }

    /// The tokens of a text; with `add_special` those that begin and end a text, as far as the model wants them.
    ///
    /// # Errors
    /// The text is too long, or cannot be encoded.
    pub fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, GenerateError> {
        let options = EncodeOptions { add_special, parse_special: true };
        self.tokenizer.encode(text, options).map_err(cannot("prompt"))
    }

    /// The tokens of a text that follows another one; names of special tokens in it are text.
    ///
    /// # Errors
    /// As [`Runtime::tokenize`].
    pub fn tokenize_continuing(&self, text: &str) -> Result<Vec<TokenId>, GenerateError> {
        self.tokenizer.encode_continuing(text).map_err(cannot("text"))
    }

    /// A conversation as the model sees it.
    ///
    /// # Errors
    /// The model has no chat template, or it refuses the conversation.
    pub fn apply_template(
        &self,
        messages: &[ChatMessage],
        dialog: &Dialog,
    ) -> Result<String, GenerateError> {
        prepare::render(messages, dialog, self.template.as_ref())
    }

    /// How the model thinks before it answers; `None` when it does not.
    #[must_use]
    pub fn thinking(&self) -> Option<Thinking> {
        self.template.as_ref().and_then(ChatTemplate::thinking)
    }

    /// Where answers to a request begin: with reasoning, if the model thinks. `None` when they are told as they are: it
    /// does not think, the prompt is no conversation, or the answer goes on with text that was begun.
    #[must_use]
    pub fn reasoning_start(&self, request: &GenerateRequest) -> Option<ReasoningStart> {
        thinking::start(request, self.template.as_ref())
    }

    /// The tokens of a prompt, as an answer to it would begin with them.
    ///
    /// # Errors
    /// The prompt cannot be rendered or encoded.
    pub fn prompt_tokens(
        &self,
        prompt: &Prompt,
        text: TextOptions,
        dialog: &Dialog,
    ) -> Result<Vec<TokenId>, GenerateError> {
        let template = self.template.as_ref();
        Ok(prepare::tokens(prompt, text, dialog, &self.tokenizer, template)?.0)
    }

    /// The text of tokens, control tokens by their names.
    ///
    /// # Errors
    /// `UnknownToken`.
    pub fn detokenize(&self, tokens: &[TokenId]) -> Result<String, GenerateError> {
        let mut bytes = Vec::new();
        for &token in tokens {
            let vocab_size = self.tokenizer.vocab_size();
            if token as usize >= vocab_size {
                return Err(GenerateError::UnknownToken { token, vocab_size });
            }
            match self.tokenizer.is_control(token) {
                true => bytes.extend_from_slice(self.tokenizer.token_text(token).as_bytes()),
                false => bytes.extend_from_slice(self.tokenizer.token_bytes(token)),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The token sequences that spell `words`, at the beginning of a text and after a space.
    ///
    /// # Errors
    /// A word cannot be encoded.
    pub fn spelled(&self, words: &[String]) -> Result<Vec<Vec<TokenId>>, GenerateError> {
        let mut spelled = Vec::new();
        for word in words {
            for text in [word.clone(), format!(" {}", word.trim_start())] {
                let tokens = self.tokenizer.encode(&text, EncodeOptions::default());
                let tokens = tokens.map_err(|error| GenerateError::InvalidField {
                    field: "bad_words",
                    message: format!("bad_words holds what cannot be tokenised: {error}"),
                })?;
                if !tokens.is_empty() && !spelled.contains(&tokens) {
                    spelled.push(tokens);
                }
            }
        }
        Ok(spelled)
    }

    /// The tokens whose text holds one of `texts`, ascending.
    #[must_use]
    pub fn tokens_with(&self, texts: &[String]) -> Vec<TokenId> {
        let all = 0..self.tokenizer.vocab_size() as TokenId;
        let holds = |token: &TokenId| {
            let bytes = String::from_utf8_lossy(self.tokenizer.token_bytes(*token));
            texts.iter().any(|text| bytes.contains(text.as_str()))
        };
        all.filter(holds).collect()
    }
}

fn cannot(field: &'static str) -> impl Fn(TokenizerError) -> GenerateError {
    move |error| GenerateError::InvalidField {
        field,
        message: format!("the text cannot be tokenised: {error}"),
    }
}
