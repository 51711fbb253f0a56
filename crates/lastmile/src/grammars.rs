//! The grammars of a model's answers. The vocabulary is indexed when the first one is asked for.
//!
//! It must never run on the engine's thread.
//!
//! Start reading at [`Grammars::states`].

use std::sync::{LazyLock, OnceLock};

use lm_grammar::{GrammarCompiler, GrammarError, GrammarState};
use lm_tokenizer::Tokenizer;
use lm_types::{AnswerForm, Constraint, GenerateError, GenerateRequest};

/// Whether answers can be held to a form, as far as that depends on no model: it is compiled for the placeholder's
/// vocabulary. Takes up to 2 s.
///
/// # Errors
/// What is wrong with it, or which budget it exceeds.
pub fn check_form(form: &AnswerForm) -> Result<(), GrammarError> {
    static COMPILER: LazyLock<Result<GrammarCompiler, GrammarError>> = LazyLock::new(|| {
        let tokenizer = Tokenizer::placeholder();
        GrammarCompiler::new(&tokenizer, tokenizer.vocab_size())
    });
    let compiler = LazyLock::force(&COMPILER).as_ref().map_err(Clone::clone)?;
    compiler.compile(form).map(drop)
}

/// Compiles grammars for one model.
#[derive(Debug, Default)]
pub(crate) struct Grammars(OnceLock<Result<GrammarCompiler, GrammarError>>);

impl Grammars {
    /// The states before the first token of each answer; none when their form is free.
    pub(crate) fn states(
        &self,
        request: &GenerateRequest,
        tokenizer: &Tokenizer,
        vocab_size: usize,
    ) -> Result<Vec<GrammarState>, GenerateError> {
        let Some(Constraint { field, form }) = &request.constraint else { return Ok(Vec::new()) };
        let min_tokens = request.stop.min_tokens;
        if min_tokens > 0 {
            let message = format!(
                "min_tokens is {min_tokens}, but must be 0 beside {field}, which says when an answer may end"
            );
            return Err(GenerateError::InvalidField { field: "min_tokens", message });
        }
        let compiler = self.0.get_or_init(|| GrammarCompiler::new(tokenizer, vocab_size));
        let refused = |error: &GrammarError| GenerateError::InvalidField {
            field,
            message: format!("{field} cannot be enforced: {error}"),
        };
        let compiler = compiler.as_ref().map_err(refused)?;
        let grammar = compiler.compile(form).map_err(|error| refused(&error))?;
        Ok((0..request.n).map(|_| grammar.start()).collect())
    }
}
