//! What an answer is known by: everything that decides it, in one digest.
//!
//! It must never leave out what decides an answer. The structs are taken apart field by field, so that a new field does
//! not compile until it is said here whether it does.
//!
//! Start reading at [`Key::of`].

use std::hash::{Hash, Hasher};

use lastmile::{
    Dry, GenerateRequest, PromptReport, ReadyRequest, SamplingParams, Steering, StopRules,
};

/// The digest of everything that decides an answer, and of whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

/// How far the seed decides an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Draw {
    /// Not at all.
    Greedy,
    /// It was given.
    Seeded(u64),
    /// It was drawn, and any answer is as good.
    Any,
}

/// Never written down, so that it may depend on the machine's byte order.
struct Digest(blake3::Hasher);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.finalize();
        let (head, _) =
            digest.as_bytes().split_first_chunk().expect("it has 32 bytes: this is a bug");
        u64::from_le_bytes(*head)
    }
}

impl Key {
    /// The key of a request's answer, on the runtime that it was made ready for.
    pub(crate) fn of(ready: &ReadyRequest, draw: Draw) -> Key {
        // The prompt's tokens stand for prompt, options and dialog (but for whether it asks to think), the release for
        // the adapter; `max_new_tokens` is what the context leaves of `max_tokens`. Who goes first, for how long and for
        // whom within a key decides no token.
        let GenerateRequest {
            id: _,
            prompt: _,
            text: _,
            dialog: _,
            constraint,
            sampling,
            stop,
            n,
            report,
            priority: _,
            tenant,
            adapter: _,
            subject: _,
            deadline: _,
            max_queue: _,
            steering,
            allowance: _,
        } = &**ready.request();
        let PromptReport { tokens, logprobs } = report;
        let Steering {
            route: _,
            asked: _,
            opening,
            rules,
            before,
            hits: _,
            arm: _,
            read_as: _,
            again: _,
            trace: _,
        } = steering;
        let mut digest = Digest(blake3::Hasher::new());
        (ready.release().0, tenant.0, draw, n).hash(&mut digest);
        (ready.prompt_tokens(), ready.max_new_tokens(), ready.thinks()).hash(&mut digest);
        (tokens, logprobs, constraint.as_ref().map(|asked| &asked.form)).hash(&mut digest);
        (opening, rules, before).hash(&mut digest);
        hash_stop(stop, &mut digest);
        hash_sampling(sampling, &mut digest);
        Key(*digest.0.finalize().as_bytes())
    }
}

fn hash_stop(stop: &StopRules, digest: &mut Digest) {
    let StopRules {
        max_tokens: _,
        min_tokens,
        stop_strings,
        stop_token_ids,
        ignore_eos,
        max_reasoning_tokens,
    } = stop;
    (min_tokens, stop_strings, stop_token_ids, ignore_eos, max_reasoning_tokens).hash(digest);
}

fn hash_sampling(sampling: &SamplingParams, digest: &mut Digest) {
    let SamplingParams {
        temperature,
        top_k,
        top_p,
        min_p,
        typical_p,
        top_n_sigma,
        dry,
        processors,
        samplers,
        logit_bias,
        allowed_token_ids,
        bad_words,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        // As of `Draw`.
        seed: _,
        logprobs,
    } = sampling;
    let numbers = [
        temperature,
        top_p,
        min_p,
        typical_p,
        top_n_sigma,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
    ];
    numbers.map(|number| number.to_bits()).hash(digest);
    (top_k, processors, samplers, allowed_token_ids, bad_words, logprobs).hash(digest);
    let biases: Vec<(u32, u32)> =
        logit_bias.iter().map(|(token, bias)| (*token, bias.to_bits())).collect();
    biases.hash(digest);
    let dry = dry.as_ref().map(|dry| {
        let Dry { multiplier, base, allowed_length, breakers } = dry;
        (multiplier.to_bits(), base.to_bits(), *allowed_length, breakers)
    });
    dry.hash(digest);
}
