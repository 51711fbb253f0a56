//! Tokens in and out of a response.
//!
//! It must never count a prompt once for each of its answers.
//!
//! Start reading at [`sum_usage`].

use lastmile::Usage;
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct UsageBody {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptTokensDetails,
    /// Of answers that were thought about first.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Serialize)]
struct PromptTokensDetails {
    cached_tokens: u64,
}

#[derive(Serialize)]
struct CompletionTokensDetails {
    reasoning_tokens: u64,
}

/// The usage of a response from the usages of its choices: each prompt counts once. `usages` holds
/// `n` entries for each prompt, one prompt after the other.
#[must_use]
pub fn sum_usage(usages: &[Usage], n: usize) -> Usage {
    let mut sum = Usage::default();
    for (i, usage) in usages.iter().enumerate() {
        sum.completion_tokens = sum.completion_tokens.saturating_add(usage.completion_tokens);
        sum.reasoning_tokens = sum.reasoning_tokens.saturating_add(usage.reasoning_tokens);
        if i % n.max(1) == 0 {
            sum.prompt_tokens = sum.prompt_tokens.saturating_add(usage.prompt_tokens);
            sum.cached_tokens = sum.cached_tokens.saturating_add(usage.cached_tokens);
        }
    }
    sum
}

pub(crate) fn usage_body(usage: Usage) -> UsageBody {
    let (prompt, completion) = (u64::from(usage.prompt_tokens), u64::from(usage.completion_tokens));
    let reasoning_tokens = u64::from(usage.reasoning_tokens);
    let details = CompletionTokensDetails { reasoning_tokens };
    UsageBody {
        prompt_tokens: prompt,
        completion_tokens: completion,
        total_tokens: prompt + completion,
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: u64::from(usage.cached_tokens),
        },
        completion_tokens_details: (reasoning_tokens > 0).then_some(details),
    }
}
