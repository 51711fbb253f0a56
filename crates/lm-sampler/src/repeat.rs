//! DRY: what would extend a sequence that occurred before becomes less likely the longer that sequence is.
//!
//! It must never know text: what breaks a sequence is a list of tokens.
//!
//! Start reading at [`penalise`]. Source: "DRY: A modern repetition penalty", p-e-w 2024.

use lm_types::{Dry, TokenId};

/// Longer repeats are penalised as this one; it bounds the work for a text that repeats itself all along.
const MAX_LENGTH: usize = 64;

/// Lowers the logits of tokens that would go on with a repetition. `[vocab_size]`
pub(crate) fn penalise(logits: &mut [f32], dry: &Dry, prompt: &[TokenId], generated: &[TokenId]) {
    let at = |i: usize| prompt.get(i).or_else(|| generated.get(i.wrapping_sub(prompt.len())));
    let n = prompt.len() + generated.len();
    let Some(&last) = n.checked_sub(1).and_then(at) else { return };
    let breaks = |token: TokenId| dry.breakers.binary_search(&token).is_ok();
    if breaks(last) {
        return;
    }
    // [token that followed, longest sequence before it that ends the text, too]
    let mut longest: Vec<(TokenId, usize)> = Vec::new();
    for end in (0..n - 1).filter(|&i| at(i) == Some(&last)) {
        let matches = |back: usize| {
            let (here, there) = (at(n - 1 - back), end.checked_sub(back).and_then(at));
            here == there && here.is_some_and(|&token| !breaks(token))
        };
        let length = (0..MAX_LENGTH.min(n)).take_while(|&back| matches(back)).count();
        if let Some(&follower) = at(end + 1)
            && length >= dry.allowed_length as usize
        {
            longest.push((follower, length));
        }
    }
    longest.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    longest.dedup_by_key(|entry| entry.0);
    for (token, length) in longest {
        if let Some(logit) = logits.get_mut(token as usize) {
            let over = length as i32 - dry.allowed_length as i32;
            *logit -= dry.multiplier * dry.base.powi(over);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[TokenId], breakers: &[TokenId], expect: &[f32]) {
        let dry =
            Dry { multiplier: 1.0, base: 2.0, allowed_length: 2, breakers: breakers.to_vec() };
        let mut logits = vec![0.0; 8];
        let (prompt, generated) = text.split_at(text.len() / 2);
        penalise(&mut logits, &dry, prompt, generated);
        assert_eq!(logits, expect);
    }

    #[test]
    fn what_repeats_loses_by_the_length_of_the_repeat() {
        check(&[1, 2, 3, 4, 1, 2], &[], &[0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0]);
        check(&[1, 2, 3, 4, 1, 2, 3], &[], &[0.0, 0.0, 0.0, 0.0, -2.0, 0.0, 0.0, 0.0]);
        check(&[1, 2, 3, 4, 1, 2, 3], &[2], &[0.0; 8]);
        check(&[2, 3, 4, 1, 5, 3], &[], &[0.0; 8]);
        check(&[], &[], &[0.0; 8]);
    }
}
