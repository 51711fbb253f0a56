//! A conversation whose last message is to be continued: its prompt ends where that message does.
//!
//! It must never look for the message's own text: a template may write the same elsewhere, behind it too. A mark goes
//! through the template behind the message, and the prompt is what comes before it.
//!
//! Start reading at [`Prefill::of`].

use std::ops::RangeInclusive;

use lm_types::{ChatMessage, Dialog};

use crate::ChatError;

/// Characters that Unicode keeps out of texts.
const MARKS: RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A conversation with a mark behind its last message.
pub(crate) struct Prefill {
    pub(crate) messages: Vec<ChatMessage>,
    mark: char,
}

impl Prefill {
    /// Marks the last message, without the blanks at its end. `None` when it is not to be continued.
    ///
    /// # Errors
    /// `CannotContinue` when the texts hold all characters that could be the mark.
    pub(crate) fn of(
        messages: &[ChatMessage],
        dialog: &Dialog,
        source: &str,
    ) -> Result<Option<Self>, ChatError> {
        if !dialog.continues_last {
            return Ok(None);
        }
        let contents = messages.iter().map(|message| message.content.as_str());
        let fields = dialog.message_fields.iter().map(|(_, json)| json.as_str());
        let others = dialog.tools.iter().chain(&dialog.template_kwargs).map(String::as_str);
        let texts = contents.chain(fields).chain(others).chain([source]);
        let is_free = |mark: &char| texts.clone().all(|text| !text.contains(*mark));
        let mark = MARKS.into_iter().find(is_free).ok_or(ChatError::CannotContinue)?;
        let mut messages = messages.to_vec();
        let Some(last) = messages.last_mut() else { return Ok(None) };
        last.content.truncate(last.content.trim_end().len());
        last.content.push(mark);
        Ok(Some(Prefill { messages, mark }))
    }

    /// What was rendered before the mark.
    ///
    /// # Errors
    /// `CannotContinue` when the template left the mark out, and so the message or its end.
    pub(crate) fn cut(&self, mut rendered: String) -> Result<String, ChatError> {
        let end = rendered.rfind(self.mark).ok_or(ChatError::CannotContinue)?;
        rendered.truncate(end);
        if rendered.contains(self.mark) {
            return Ok(rendered.replace(self.mark, ""));
        }
        Ok(rendered)
    }
}
