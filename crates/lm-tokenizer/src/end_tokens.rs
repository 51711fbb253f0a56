//! Which tokens end a generation. Metadata names one or two; the others are known by their texts,
//! as llama.cpp knows them.
//!
//! It must never know vocabularies' formats.
//!
//! Start reading at [`EndTokens`].

/// Texts that end a turn or a document in every vocabulary that has them.
const ALWAYS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
];

/// Texts that end a generation only where they are control tokens: elsewhere they are ordinary
/// text, such as `</s>`, the tag of HTML that Gemma's vocabulary holds.
const WHEN_CONTROL: &[&str] = &[
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Collects the ids that end a generation.
#[derive(Debug, Default)]
pub(crate) struct EndTokens {
    ids: Vec<u32>,
    end: Option<u32>,
    has_call: bool,
    has_return_or_flush: bool,
}

impl EndTokens {
    /// Looks at one token of the vocabulary; says whether its text ends a generation.
    pub(crate) fn see(&mut self, id: u32, text: &str, is_control: bool) -> bool {
        let ends = ALWAYS.contains(&text) || (is_control && WHEN_CONTROL.contains(&text));
        if ends {
            self.ids.push(id);
            match text {
                "<|end|>" => self.end = Some(id),
                "<|call|>" | "<|calls|>" => self.has_call = true,
                "<|return|>" | "<|flush|>" => self.has_return_or_flush = true,
                _ => {}
            }
        }
        ends
    }

    /// All ids, ascending; `named` are those that the metadata names.
    pub(crate) fn finish(mut self, named: impl IntoIterator<Item = u32>) -> Vec<u32> {
        // In the Harmony format `<|end|>` parts the messages of one answer.
        if self.has_call && self.has_return_or_flush {
            self.ids.retain(|&id| Some(id) != self.end);
        }
        self.ids.extend(named);
        self.ids.sort_unstable();
        self.ids.dedup();
        self.ids
    }
}
