//! What a response tells of its prompt: the entries of `echo` and of `prompt_logprobs`.
//!
//! It must never compute anything: what comes here was scored by the engine.
//!
//! Start reading at [`echoed`].

use lastmile::{PromptLogprob, Runtime, TokenId};
use lm_api::{LogprobEntry, ScoredCandidate, ScoredToken, TextOffset, TokenName};

/// A prompt as it was told with the first of its answers.
#[derive(Clone, Default)]
pub(crate) struct ToldPrompt {
    pub(crate) tokens: Vec<TokenId>,
    /// From the second token on.
    pub(crate) scored: Vec<PromptLogprob>,
}

/// Entries of a completion's `logprobs` for an echoed prompt, each with at most `n_top` alternatives.
pub(crate) fn echoed(
    runtime: &Runtime,
    told: &ToldPrompt,
    n_top: usize,
    text_offset: &mut TextOffset,
) -> Vec<LogprobEntry> {
    let name = |token: TokenId| TokenName {
        text: runtime.token_text(token),
        bytes: runtime.token_bytes(token).to_vec(),
    };
    let scored = std::iter::once(None).chain(told.scored.iter().map(Some));
    let entry = |(&token, scored): (&TokenId, Option<&PromptLogprob>)| LogprobEntry {
        text_offset: text_offset.advance(runtime.token_bytes(token)),
        token: name(token),
        logprob: scored.map(|scored| scored.logprob),
        top: scored.map_or_else(Vec::new, |scored| {
            scored.top.iter().take(n_top).map(|&(token, logprob)| (name(token), logprob)).collect()
        }),
    };
    told.tokens.iter().zip(scored).map(entry).collect()
}

/// The entries of `prompt_logprobs`: none for the first token, before which nothing stands.
pub(crate) fn scored(runtime: &Runtime, told: &ToldPrompt) -> Vec<Option<ScoredToken>> {
    let candidate = |token, logprob, rank| {
        let text = runtime.token_text(token);
        ScoredCandidate { token, logprob, rank, text }
    };
    let entry = |scored: &PromptLogprob| {
        let own = candidate(scored.token, scored.logprob, scored.rank);
        let others = scored.top.iter().zip(1..).filter(|((token, _), _)| *token != scored.token);
        let others = others.map(|(&(token, logprob), rank)| candidate(token, logprob, rank));
        Some(ScoredToken { candidates: std::iter::once(own).chain(others).collect() })
    };
    std::iter::once(None).chain(told.scored.iter().map(entry)).collect()
}
