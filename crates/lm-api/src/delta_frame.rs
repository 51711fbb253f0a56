//! The chunk that nearly every token is sent in.
//!
//! It must never differ from [`Head::delta_chunk`].

use crate::{Head, Style};

/// The chunks of one choice that bring text and nothing else: all are the same but for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaFrame {
    before: String,
    after: String,
}

impl Head {
    /// What is around the texts of a choice. As the head is now: what it says of usage and cost is part of it.
    #[must_use]
    pub fn delta_frame(&self, index: u32) -> DeltaFrame {
        // Within a string, a quotation mark has a backslash before it: nothing but the field looks like this.
        let field = match self.style {
            Style::Chat => "\"content\":\"\"",
            Style::Text => "\"text\":\"\"",
        };
        let chunk = self.delta_chunk(index, "", None);
        let (before, after) = chunk.split_once(field).expect("a chunk has a text: this is a bug");
        let name = &field[..field.len() - 2];
        let before = format!("{before}{name}");
        DeltaFrame { before, after: after.to_owned() }
    }
}

impl DeltaFrame {
    /// Appends the chunk that brings `text`.
    pub fn write(&self, text: &str, bytes: &mut Vec<u8>) {
        bytes.reserve(self.before.len() + text.len() + self.after.len() + 16);
        bytes.extend_from_slice(self.before.as_bytes());
        serde_json::to_writer(&mut *bytes, text).expect("a text always serialises: this is a bug");
        bytes.extend_from_slice(self.after.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_gives_the_chunk_whatever_the_text_and_the_names_are() {
        let hostile =
            ["", " a", "\"content\":\"\"", "\"text\":\"\"", "\\\"", "\n\r\u{0}\u{2028}", "é𝄞"];
        for style in [Style::Chat, Style::Text] {
            for (name, text) in hostile.iter().flat_map(|name| hostile.map(|text| (*name, text))) {
                let head = Head {
                    style,
                    id: name.to_owned(),
                    created: 7,
                    model: name.to_owned(),
                    fingerprint: name.to_owned(),
                    warnings: vec![name.to_owned()],
                    include_usage: name.is_empty(),
                    spent: None,
                    prompt_logprobs: None,
                };
                let mut bytes = Vec::new();
                head.delta_frame(3).write(text, &mut bytes);
                assert_eq!(String::from_utf8_lossy(&bytes), head.delta_chunk(3, text, None));
            }
        }
    }
}
