//! Hits that are computed again in idle slots and compared bit for bit.
//!
//! It must never hold up a client, nor keep a model in memory that is to be unloaded.
//!
//! Start reading at [`turn`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lastmile::{
    Answer, FinishReason, GenerateRequest, GenerateStream, Priority, PromptLogprob, RequestId,
    Runtime, Steering, TenantId, TokenId, TokenLogprobs,
};

use super::ResponseCache;
use super::key::Key;
use super::log::Said;
use super::table::{Entry, Evicted, Table};
use super::told::Asked;
use crate::app::{App, mint_id};

/// Hits that wait to be computed again; more are counted and not computed.
const MAX_WAITING: usize = 64;
/// How often one makes way before it is given up.
const MAX_TRIES: u32 = 8;
/// How long a mismatch is told of.
const TOLD_FOR: Duration = Duration::from_hours(24);
/// After so many hits that were the same again it is told of no more.
pub(super) const ENOUGH_IDENTICAL: u64 = 100;

/// A hit that is to be computed again.
pub(crate) struct Recheck {
    key: Key,
    entry: Arc<Entry>,
    runtime: Weak<Runtime>,
    request: GenerateRequest,
    /// Who was told the entry.
    told_to: RequestId,
    n_tries: u32,
}

/// An entry that is not what is computed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Who was told it.
    pub(crate) told_to: RequestId,
    /// Whose computation it was.
    pub(crate) computed_by: RequestId,
    /// The first token that differs, from 0.
    pub(crate) at: usize,
    /// Whether the backend gives the same bits whatever runs beside; else near ties may be drawn otherwise.
    pub(crate) is_exact: bool,
}

/// A mismatch, and when it was.
pub(super) struct Seen {
    mismatch: Mismatch,
    when: Instant,
    /// Hits that had been the same again until then.
    n_identical: u64,
}

impl ResponseCache {
    /// Lets a hit wait to be computed again, when it is its turn.
    pub(super) fn consider(&self, asked: &Asked, key: Key, entry: &Arc<Entry>) {
        let every = self.options.recheck_every;
        let n_told = self.counts.told.fetch_add(1, Relaxed) + 1;
        // Without bits that stay, only what is always the most likely token can be compared.
        let is_comparable = asked.runtime.info().backend.rows_are_exact
            || asked.request.sampling.temperature <= 0.0;
        if every == 0 || !n_told.is_multiple_of(every) || !is_comparable {
            return;
        }
        let steering = &asked.request.steering;
        let request = GenerateRequest {
            priority: Priority::Background,
            tenant: TenantId::ANONYMOUS,
            subject: None,
            deadline: None,
            max_queue: None,
            allowance: None,
            steering: Steering {
                again: true,
                opening: steering.opening.clone(),
                rules: steering.rules.clone(),
                before: steering.before.clone(),
                ..Steering::default()
            },
            ..asked.request.clone()
        };
        let (runtime, told_to) = (Arc::downgrade(&asked.runtime), asked.request.id);
        let entry = Arc::clone(entry);
        self.let_wait(Recheck { key, entry, runtime, request, told_to, n_tries: 0 });
    }

    /// Lets a check wait behind the others, unless its answer was forgotten meanwhile.
    pub(super) fn let_wait(&self, check: Recheck) {
        let mut waiting = self.waiting();
        if waiting.len() < MAX_WAITING && self.table().holds(&check.key, &check.entry) {
            waiting.push_back(check);
        } else {
            count(&self.counts.unchecked);
        }
    }

    /// Forgets every answer, and every prompt that was to be computed again.
    /// Gives back what there was, as freeing it takes a while.
    #[must_use]
    pub(super) fn empty(&self, why: Evicted) -> (Table, VecDeque<Recheck>) {
        let entries = self.table().clear(why);
        // After the entries: who looked for one before it was gone has let its check wait by now.
        (entries, std::mem::take(&mut *self.waiting()))
    }

    /// The last entry that was not what was computed again, and how many there were since the start; `None` when that is a
    /// day ago, or many hits were the same again since.
    pub(crate) fn mismatches(&self) -> Option<(Mismatch, u64)> {
        let last = self.last_mismatch.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen { mismatch, when, n_identical } = last.as_ref()?;
        let n_since = self.counts.identical.load(Relaxed).saturating_sub(*n_identical);
        let is_told = when.elapsed() < TOLD_FOR && n_since < ENOUGH_IDENTICAL;
        is_told.then(|| (mismatch.clone(), self.counts.mismatches.load(Relaxed)))
    }

    /// Drops an entry that is not what was computed again.
    fn judge(&self, check: &Recheck, answer: &Answer, is_exact: bool) {
        let Some(at) = first_difference(&check.entry, answer, is_exact) else {
            count(&self.counts.identical);
            return;
        };
        self.table().forget_entry(&check.key, &check.entry, Evicted::Mismatch);
        let (told_to, computed_by) = (check.told_to, check.entry.computed_by);
        let message = "ALERT: an answer from the response cache is not what is computed again";
        match is_exact {
            true => tracing::error!(request_id = %told_to, %computed_by, at, "{message}"),
            false => tracing::warn!(request_id = %told_to, %computed_by, at, "{message}"),
        }
        count(&self.counts.mismatches);
        let mut last = self.last_mismatch.lock().unwrap_or_else(PoisonError::into_inner);
        let mismatch = Mismatch { told_to, computed_by, at, is_exact };
        let n_identical = self.counts.identical.load(Relaxed);
        *last = Some(Seen { mismatch, when: Instant::now(), n_identical });
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, VecDeque<Recheck>> {
        self.rechecks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a hit waits to be computed once more.
pub(crate) fn waits(app: &App) -> bool {
    !app.response_cache.waiting().is_empty()
}

/// Computes the next hit again in an idle slot; false when none waits.
pub(crate) fn turn(app: &App) -> bool {
    let cache = &app.response_cache;
    let Some(mut check) = cache.waiting().pop_front() else { return false };
    let Some(runtime) = check.runtime.upgrade().filter(|runtime| is_same(runtime, &check)) else {
        count(&cache.counts.unchecked);
        return true;
    };
    let request = GenerateRequest { id: mint_id(), ..check.request.clone() };
    let read = |streams: Vec<GenerateStream>| {
        streams.into_iter().next().and_then(|stream| stream.collect_answer().ok())
    };
    match app.idle.run(|| runtime.generate(request), read) {
        Ok(Some(Some(answer))) if is_whole(answer.finish.reason) => {
            cache.judge(&check, &answer, runtime.info().backend.rows_are_exact);
        }
        Ok(None) if check.n_tries + 1 < MAX_TRIES => {
            check.n_tries += 1;
            cache.let_wait(check);
        }
        // It made way too often, failed, or was refused.
        Ok(_) | Err(_) => count(&cache.counts.unchecked),
    }
    true
}

/// Whether the runtime would compute it with the release that it was computed with.
fn is_same(runtime: &Runtime, check: &Recheck) -> bool {
    let release = match &check.request.adapter {
        Some(name) => runtime.adapter(name).map(|adapter| adapter.release_hash),
        None => Some(runtime.info().release_hash),
    };
    release == Some(check.entry.release)
}

fn is_whole(reason: FinishReason) -> bool {
    matches!(reason, FinishReason::Stop | FinishReason::Length)
}

/// The first token at which an answer is not the entry; its length, when only what follows the tokens differs.
fn first_difference(entry: &Entry, answer: &Answer, is_exact: bool) -> Option<usize> {
    let Said { prompt, text, tokens, logprobs } = &entry.said;
    let n_same = tokens.iter().zip(&answer.tokens).take_while(|(a, b)| a == b).count();
    if n_same < tokens.len().max(answer.tokens.len()) {
        return Some(n_same);
    }
    if is_exact {
        let are_same = |(a, b): &(&TokenLogprobs, &TokenLogprobs)| {
            a.logprob.to_bits() == b.logprob.to_bits() && same_top(&a.top, &b.top)
        };
        let n_same = logprobs.iter().zip(&answer.logprobs).take_while(are_same).count();
        if n_same < logprobs.len().max(answer.logprobs.len()) {
            return Some(n_same);
        }
        if prompt.as_ref().is_some_and(|(ids, scores)| !same_prompt(ids, scores, answer)) {
            return Some(0);
        }
    }
    let is_same = *text == answer.text && entry.reason == answer.finish.reason;
    (!is_same).then_some(tokens.len())
}

fn same_prompt(ids: &[TokenId], scores: &[PromptLogprob], answer: &Answer) -> bool {
    let are_same = |(a, b): (&PromptLogprob, &PromptLogprob)| {
        (a.token, a.rank, a.logprob.to_bits()) == (b.token, b.rank, b.logprob.to_bits())
            && same_top(&a.top, &b.top)
    };
    ids == answer.prompt_tokens
        && scores.len() == answer.prompt_logprobs.len()
        && scores.iter().zip(&answer.prompt_logprobs).all(are_same)
}

fn same_top(a: &[(TokenId, f32)], b: &[(TokenId, f32)]) -> bool {
    let bits = |all: &[(TokenId, f32)]| -> Vec<(TokenId, u32)> {
        all.iter().map(|(token, logprob)| (*token, logprob.to_bits())).collect()
    };
    bits(a) == bits(b)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
