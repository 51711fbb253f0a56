//! The vocabulary of a model, and grammars compiled for it.
//!
//! It must never be called on the engine's thread: compiling takes milliseconds.
//!
//! Start reading at [`GrammarCompiler::compile`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use lm_tokenizer::Tokenizer;
use lm_types::AnswerForm;

use crate::budget::Budget;
use crate::error::first_lines;
use crate::{GrammarError, GrammarState, source};

/// Compiled grammars that are kept, the least recently used one going first.
const MAX_KEPT: usize = 64;
/// How long a compilation may take, waiting for others included.
const COMPILE_LIMIT: Duration = Duration::from_secs(2);

/// What the lexer may take for one mask and for the tokens after it until the next one, in the library's units.
pub(crate) const STEP_FUEL: u64 = 200_000;

/// Tokens that are allowed all at once where a text may go on for that long, as the library has it for up to 10 characters and 30: where
/// it may for 20, as near the end of a `maxLength`, each token of 11 to 30 was looked at. A third of all steps through the vocabulary.
const SLICE: &str = r#"[^"\\\x00-\x1F\x7F]{1,16}"#;

/// Compiles grammars for one vocabulary. Shared by threads; made once for a model.
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
    budget: Budget,
    /// The most recently used last.
    kept: Mutex<VecDeque<(AnswerForm, Grammar)>>,
}

/// A compiled grammar. Cheap to clone.
#[derive(Clone)]
pub struct Grammar {
    matcher: Arc<Mutex<Matcher>>,
    vocabulary: TokEnv,
}

impl GrammarCompiler {
    /// Indexes the vocabulary: every token's bytes in one trie. `vocab_size` is that of the logits.
    ///
    /// # Errors
    /// `Vocabulary` when no token ends an answer.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize) -> Result<Self, GrammarError> {
        let vocabulary = |message: String| GrammarError::Vocabulary { message };
        let in_range = |&&token: &&u32| (token as usize) < vocab_size;
        let ends: Vec<u32> = tokenizer.eog_ids().iter().filter(in_range).copied().collect();
        let Some(&eos) = ends.first() else {
            return Err(vocabulary("no token of its vocabulary ends an answer".to_owned()));
        };
        let n_tokens = u32::try_from(vocab_size).map_err(|error| vocabulary(error.to_string()))?;
        let words: Vec<Vec<u8>> = (0..n_tokens).map(|token| word(tokenizer, token)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(n_tokens, eos), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut slices = SlicedBiasComputer::json_slices();
        slices.push(SLICE.to_owned());
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| vocabulary(first_lines(&error)))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(GrammarCompiler {
            factory: Arc::new(factory),
            budget: Budget::default(),
            kept: Mutex::default(),
        })
    }

    /// Compiles `form`, or finds it among those compiled lately.
    ///
    /// # Errors
    /// What is wrong with it, or which budget it exceeds.
    pub fn compile(&self, form: &AnswerForm) -> Result<Grammar, GrammarError> {
        if let Some(grammar) = self.find(form) {
            return Ok(grammar);
        }
        let (factory, form) = (Arc::clone(&self.factory), form.clone());
        let asked = form.clone();
        let matcher = self.budget.run(COMPILE_LIMIT, move || {
            let refused = |message| GrammarError::Refused { message };
            let control = |name: &str| factory.tok_env().tok_trie().get_special_token(name);
            let parser = factory
                .create_parser(source::grammar(&form, control)?)
                .map_err(|error| refused(first_lines(&error)))?;
            let mut matcher = Matcher::new(Ok(parser));
            if let Some(warning) = matcher.grammar_warnings().into_iter().next() {
                return Err(refused(first_lines(&warning)));
            }
            // The first mask shows what cannot even begin.
            matcher.compute_mask().map_err(|error| refused(first_lines(&error)))?;
            // The second time it takes nothing of what each answer has for its first tokens.
            matcher.invalidate_bias_cache();
            matcher.compute_mask().map_err(|error| refused(first_lines(&error)))?;
            Ok(matcher)
        })?;
        let vocabulary = Arc::clone(self.factory.tok_env());
        let grammar = Grammar { matcher: Arc::new(Mutex::new(matcher)), vocabulary };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back((asked, grammar.clone()));
        Ok(grammar)
    }

    fn find(&self, form: &AnswerForm) -> Option<Grammar> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(known, _)| known == form)?;
        let entry = kept.remove(place)?;
        let grammar = entry.1.clone();
        kept.push_back(entry);
        Some(grammar)
    }
}

impl Grammar {
    /// The state before the first token. It shares nothing with other states, so that a fault ends one answer.
    #[must_use]
    pub fn start(&self) -> GrammarState {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        GrammarState::new(matcher.deep_clone(), Arc::clone(&self.vocabulary))
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

/// What a token writes. Control tokens are marked, so that no text of a grammar asks for one.
fn word(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    if (token as usize) < tokenizer.vocab_size() && tokenizer.is_control(token) {
        let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        marked.extend_from_slice(tokenizer.token_text(token).as_bytes());
        return marked;
    }
    tokenizer.token_bytes(token).to_vec()
}

/// Budgets in the library's own units; its docs give 50 of the first and 14 of the second for a microsecond's work.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: STEP_FUEL,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}
