//! What can go wrong with a grammar.
//!
//! It must never know who asked for it.
//!
//! Start reading at [`GrammarError`].

/// Why a grammar cannot be used, or an answer under it not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The grammar is wrong, or asks for something that cannot be enforced.
    #[error("{message}")]
    Refused {
        /// What, with the keyword or place.
        message: String,
    },
    /// The source is too long.
    #[error("it has {bytes} bytes, but at most {limit} are taken")]
    TooLong {
        /// Bytes of the source.
        bytes: usize,
        /// The most that are taken.
        limit: usize,
    },
    /// Brackets in it are nested too deeply.
    #[error("its brackets are nested {depth} deep, but at most {limit} are taken")]
    TooDeep {
        /// The deepest nesting.
        depth: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// Compiling it took too long, or had to wait too long for others.
    #[error("it was not compiled within {limit_ms} ms")]
    TooSlow {
        /// The budget.
        limit_ms: u128,
    },
    /// The model has no token that ends an answer, or a vocabulary that cannot be indexed.
    #[error("this model cannot be held to a grammar: {message}")]
    Vocabulary {
        /// Why not.
        message: String,
    },
    /// An answer cannot go on: a budget of one token was exceeded, or a fault.
    #[error("the grammar cannot go on: {message}")]
    Stuck {
        /// What happened.
        message: String,
    },
}

/// The library's words without its dumps of state and backtraces.
pub(crate) fn first_lines(error: &dyn std::fmt::Display) -> String {
    const MAX_CHARS: usize = 300;
    let text = error.to_string();
    let end = text.find("\n<").unwrap_or(text.len());
    text[..end].chars().take(MAX_CHARS).collect::<String>().replace('\n', " ")
}
