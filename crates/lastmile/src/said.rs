//! A conversation in which names of control tokens are text, whoever said them: only what the template itself
//! writes becomes a control token.
//!
//! It must never know tokens' ids.
//!
//! Start reading at [`Said::of`].

use lm_tokenizer::Tokenizer;
use lm_types::{ChatMessage, Dialog};

/// Messages and what belongs to them, with every name of a control token guarded.
pub(crate) struct Said {
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) dialog: Dialog,
    pub(crate) guard: char,
}

/// There is no character left to guard with: the conversation holds 32 that Unicode keeps out of texts.
#[derive(Debug)]
pub(crate) struct NoGuard;

impl Said {
    /// `None` when nothing needs to be guarded, as almost always.
    pub(crate) fn of(
        messages: &[ChatMessage],
        dialog: &Dialog,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Said>, NoGuard> {
        let texts = || {
            let contents = messages.iter().map(|message| message.content.as_str());
            let fields = dialog.message_fields.iter().map(|(_, json)| json.as_str());
            let others = dialog.tools.iter().chain(&dialog.template_kwargs).map(String::as_str);
            contents.chain(fields).chain(others)
        };
        if !texts().any(|text| tokenizer.names_control(text)) {
            return Ok(None);
        }
        let guard = Tokenizer::guard_for(texts()).ok_or(NoGuard)?;
        let guarded = |text: &str| tokenizer.guarded(text, guard).into_owned();
        let message = |message: &ChatMessage| ChatMessage {
            role: message.role.clone(),
            content: guarded(&message.content),
        };
        let fields = dialog.message_fields.iter().map(|(i, json)| (*i, guarded(json)));
        Ok(Some(Said {
            messages: messages.iter().map(message).collect(),
            dialog: Dialog {
                tools: dialog.tools.as_deref().map(guarded),
                message_fields: fields.collect(),
                template_kwargs: dialog.template_kwargs.as_deref().map(guarded),
                continues_last: dialog.continues_last,
                now_unix_s: dialog.now_unix_s,
            },
            guard,
        }))
    }
}
