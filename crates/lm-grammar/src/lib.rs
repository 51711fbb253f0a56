//! Structured output: from a JSON schema, a regular expression, a choice or a grammar to the tokens that may come next.
//! The work is done by `llguidance`; this crate gives it the vocabulary, budgets, and errors that name what is wrong.
//!
//! It must never know requests, schedulers or logits. It reads no clock but to give up on a compilation.
//!
//! Start reading at [`GrammarCompiler::compile`], then [`GrammarState`].

mod budget;
mod compiler;
mod error;
mod may_call;
mod narrow;
mod source;
mod state;

pub use compiler::{Grammar, GrammarCompiler};
pub use error::GrammarError;
pub use state::GrammarState;

#[cfg(test)]
mod tests;
