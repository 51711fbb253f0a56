//! What can go wrong with a template.
//!
//! It must never know who renders.
//!
//! Start reading at [`ChatError`].

/// Why a template cannot be used, or a conversation not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The template is longer than any template should be.
    #[error("the chat template has {bytes} bytes, but at most {limit} are taken")]
    SourceTooLong {
        /// Bytes of the template.
        bytes: usize,
        /// The most that are taken.
        limit: usize,
    },
    /// The template does not compile.
    #[error("line {line} of the chat template: {message}")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The template called `raise_exception`: it does not take this conversation.
    #[error("{message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template failed.
    #[error("line {line} of the chat template: {message}")]
    Render {
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Tools, calls or switches that are no JSON of the expected form, or name what is not there.
    #[error("tools: {message}")]
    Tools {
        /// What is wrong.
        message: String,
    },
    /// The template does not write the message that is to be continued to its end.
    #[error("the template changes the last message, so it cannot be continued")]
    CannotContinue,
    /// The template took too many steps.
    #[error("the chat template took more than {limit} steps")]
    TooManySteps {
        /// The most that it may take.
        limit: u64,
    },
    /// The template wrote too much.
    #[error("the chat template wrote more than {limit} bytes")]
    OutputTooLong {
        /// The most that it may write.
        limit: usize,
    },
}
