//! Tokens that probably come next: those that were suggested, else what is looked up in the sequence's own text; and
//! whether computing them ahead pays.
//!
//! It must never change what is drawn: a draft is a guess that a step verifies, see [`Sequence::accept`].
//!
//! Start reading at [`Scheduler::draft`]. Source: Saxena 2023, "Prompt Lookup Decoding"; verification draws
//! as decoding does, so that Leviathan et al. 2023 is not needed.

use std::time::Duration;

use lm_types::{Priority, SeqId, TokenId};

use crate::{Scheduler, SchedulerCounters, Sequence, StepShape};

/// Drafts of one sequence in one step, at most.
pub(crate) const MAX_DRAFTS: usize = 15;
/// Fewer equal tokens before it tell nothing of the next one.
const LEAST_MATCH: usize = 3;
/// More of them tell nothing more.
const LONGEST_MATCH: usize = 16;
/// A match of so many tokens is a copy rather than a turn of phrase.
const COPY: usize = 6;
/// How much more a draft must be expected to gain than it costs, as predictions err.
const MARGIN: f64 = 1.3;
/// What part of the token gap's bound a step with drafts may take.
const PART: f64 = 0.6;
/// What a guess is believed to take, in parts of the step without any, until so many steps with guesses were
/// measured, and again when none was for long: on what is never tried nothing is learnt.
const HOPED_PART: f64 = 0.1;
const N_TRIALS: u64 = 4;
const TRIAL_EVERY: u64 = 512;
/// What remains of a verdict's weight after the next one.
const FORGETTING: f64 = 0.8;
/// The same for each time that a match was not tried, so that a text which becomes a copy late is found out.
const FADING: f64 = 0.99;

/// The records of a drafter: after short matches, after those of [`COPY`] tokens and more, and of what was suggested.
const N_KINDS: usize = 3;
const COPIED: usize = 1;
const SUGGESTED: usize = 2;

/// How often drafts of a sequence were right.
#[derive(Clone, Debug)]
pub(crate) struct Drafter {
    records: [Record; N_KINDS],
    /// Whose drafts are being verified.
    tried: usize,
    /// What follows its last token, as somebody says who knows more than its text.
    suggested: Vec<TokenId>,
    /// How many of those, the first ones, cannot be wrong.
    n_certain: usize,
    pub(crate) n_drafted: u32,
    pub(crate) n_accepted: u32,
}

/// Verdicts over drafts, the older the less weight.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// What is believed before any verdict.
    prior: f64,
    right: f64,
    tried: f64,
}

/// Where an earlier text goes on that equals the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    next: usize,
    length: usize,
}

impl Default for Drafter {
    fn default() -> Self {
        let record = |prior| Record { prior, right: 0.0, tried: 0.0 };
        Drafter {
            records: [record(0.4), record(0.8), record(0.9)],
            tried: 0,
            suggested: Vec::new(),
            n_certain: 0,
            n_drafted: 0,
            n_accepted: 0,
        }
    }
}

impl Drafter {
    /// The probability that a draft is right when all before it are.
    fn likelihood(&self, kind: usize) -> f64 {
        let Record { prior, right, tried } = self.records[kind];
        (prior + right) / (1.0 + tried)
    }

    fn fade(&mut self, kind: usize) {
        self.records[kind].right *= FADING;
        self.records[kind].tried *= FADING;
    }

    /// Of `n_drafts` so many were right. What was certain proves nothing.
    pub(crate) fn judge(&mut self, n_drafts: usize, n_right: usize) {
        let n_certain = self.n_certain.min(n_right);
        let record = &mut self.records[self.tried];
        record.right = FORGETTING * record.right + (n_right - n_certain) as f64;
        let n_judged = n_right - n_certain + usize::from(n_right < n_drafts);
        record.tried = FORGETTING * record.tried + n_judged as f64;
        self.n_drafted = self.n_drafted.saturating_add(n_drafts as u32);
        self.n_accepted = self.n_accepted.saturating_add(n_right as u32);
    }
}

impl SchedulerCounters {
    /// Before a sequence takes in what was drawn, `n_right` of its drafts among it: the last one, too, where the answer ends
    /// with it.
    pub(crate) fn count_drafts(&mut self, seq: &Sequence, n_right: usize) {
        self.drafts += u64::from(seq.n_drafts > 0);
        self.draft_tokens += seq.n_drafts as u64;
        self.accepted_tokens += n_right as u64;
        if seq.n_drafts > 0 && seq.drafter.tried == SUGGESTED {
            self.suggested_tokens[0] += seq.n_drafts as u64;
            self.suggested_tokens[1] += n_right as u64;
        }
    }
}

impl Scheduler {
    /// Says what follows a sequence's last token, before a step is planned: the first `n_certain` cannot be wrong. Nothing
    /// else is guessed in its place; a copy that begins so may be guessed beyond it.
    pub fn suggest(&mut self, id: SeqId, tokens: impl Iterator<Item = TokenId>, n_certain: usize) {
        let Some(seq) = self.sequences.get_mut(&id) else { return };
        seq.drafter.suggested.clear();
        seq.drafter.suggested.extend(tokens);
        seq.drafter.n_certain = n_certain.min(seq.drafter.suggested.len());
    }

    /// For how many sequences it may pay to look for guesses before the next step: none where one that cannot be wrong
    /// would not pay beside the sequences that decode now; one while what guesses take is tried out.
    #[must_use]
    pub fn n_may_guess(&self) -> usize {
        if !self.config.speculate {
            return 0;
        }
        // Not the last step's shape: after one of prompts alone it would say that nobody waits for a guess.
        let mut shape = StepShape::default();
        let running = self.running.iter().map(|id| &self.sequences[id]);
        let decoding = running.filter(|seq| seq.n_remaining() == 1);
        let mut class = Priority::Background;
        decoding.for_each(|seq| {
            shape.add_decode(seq.n_computed);
            class = class.min(seq.class);
        });
        if shape.n_decodes == 0 || self.n_paying(&shape, class, (1, 1.0), 0, 1) == 0 {
            return 0;
        }
        let n_rows = self.config.max_extra_logits;
        if self.is_trial() { n_rows.min(1) } else { n_rows }
    }

    /// Appends drafts to the step's decodes where they are expected to gain more tokens than the time that they
    /// take would otherwise. They come after everything else: nobody waits or loses blocks for a guess, and a
    /// step with prompts, which has other use for its time, has none. Nor has background where the step `is_urgent`.
    pub(crate) fn draft(&mut self, mut n_tokens: usize, is_urgent: bool) {
        if !self.config.speculate || self.step.shape.n_prefill_tokens > 0 {
            return;
        }
        let mut n_extra = self.config.max_extra_logits;
        for i in 0..self.step.rows.len() {
            let id = self.step.rows[i].seq;
            if is_urgent && self.sequences[&id].class == Priority::Background {
                continue;
            }
            let most = n_tokens.min(n_extra).min(MAX_DRAFTS).min(self.free_positions(id));
            let n_drafts = self.draft_for(id, most);
            let row = &mut self.step.rows[i];
            row.n_tokens += n_drafts;
            row.n_drafts = n_drafts;
            row.n_logits += n_drafts;
            n_tokens -= n_drafts;
            n_extra -= n_drafts;
        }
    }

    /// How many positions after its next one a sequence can have: within its limits, and in blocks that leave
    /// one for each runner.
    fn free_positions(&self, id: SeqId) -> usize {
        let seq = &self.sequences[&id];
        let n_blocks = self.blocks.n_free().saturating_sub(self.running.len());
        let n_slots = (seq.block_table.len() + n_blocks) * self.config.block_size;
        // The step draws one token more than it verifies.
        let n_left = seq.max_new_tokens - seq.n_generated();
        (n_left - 1).min(n_slots.saturating_sub(seq.tokens.len()))
    }

    /// Drafts for a sequence of the step, and blocks under them. How many.
    fn draft_for(&mut self, id: SeqId, most: usize) -> usize {
        let seq = &self.sequences[&id];
        let (start, n_suggested) = (seq.n_computed + 1, seq.drafter.suggested.len());
        let n_drafts = match n_suggested {
            _ if most == 0 => return 0,
            0 => self.draft_from_text(id, start, most),
            n => match self.copy_beyond(id, start, most) {
                Some(found) => self.draft_copy(id, start, most, found),
                None => self.draft_suggested(id, start, most.min(n)),
            },
        };
        let seq = self.sequences.get_mut(&id).expect("a scheduled sequence is known");
        while seq.block_table.len() * self.config.block_size < seq.tokens.len() {
            let block = self.blocks.allocate().expect("free blocks were counted: a bug");
            seq.block_table.push(block);
        }
        self.step.shape.add_drafts(start, n_drafts);
        if n_drafts > 0 {
            self.last_draft_step = self.n_steps;
        }
        n_drafts
    }

    /// Appends what was suggested for a sequence, as far as it pays. How many tokens.
    fn draft_suggested(&mut self, id: SeqId, start: usize, most: usize) -> usize {
        let Sequence { drafter, class, .. } = &self.sequences[&id];
        let odds = (drafter.n_certain, drafter.likelihood(SUGGESTED));
        let n_drafts = self.n_paying(&self.step.shape, *class, odds, start, most);
        let seq = self.sequences.get_mut(&id).expect("a scheduled sequence is known");
        seq.drafter.tried = SUGGESTED;
        if n_drafts == 0 {
            seq.drafter.fade(SUGGESTED);
        }
        seq.tokens.extend_from_slice(&seq.drafter.suggested[..n_drafts]);
        seq.n_drafts = n_drafts;
        n_drafts
    }

    /// A copy that begins with what was suggested, if more than that would pay.
    fn copy_beyond(&self, id: SeqId, start: usize, most: usize) -> Option<Match> {
        let Sequence { tokens, drafter, class, .. } = &self.sequences[&id];
        let (n, odds) = (drafter.suggested.len(), (drafter.n_certain, drafter.likelihood(COPIED)));
        if n >= most || self.n_paying(&self.step.shape, *class, odds, start, n + 1) <= n {
            return None;
        }
        let begins = |found: &Match| {
            tokens.get(found.next..found.next + n) == Some(drafter.suggested.as_slice())
        };
        find(tokens).filter(|found| found.length >= COPY).filter(begins)
    }

    /// Appends what followed an earlier text that equals a sequence's end, as far as it pays. How many tokens.
    fn draft_from_text(&mut self, id: SeqId, start: usize, most: usize) -> usize {
        let seq = &self.sequences[&id];
        let likelihood = [0, 1].map(|kind| seq.drafter.likelihood(kind));
        // Most of the time in a large batch: nothing pays, whatever the text.
        let odds = (0, likelihood[0].max(likelihood[1]));
        let may_pay = self.n_paying(&self.step.shape, seq.class, odds, start, most) > 0;
        let found = if may_pay { find(&seq.tokens) } else { None };
        match found {
            Some(found) => self.draft_copy(id, start, most, found),
            None => {
                let seq = self.sequences.get_mut(&id).expect("a scheduled sequence is known");
                (0..2).for_each(|kind| seq.drafter.fade(kind));
                0
            }
        }
    }

    /// Appends what followed an earlier text, as far as it pays. How many tokens.
    fn draft_copy(&mut self, id: SeqId, start: usize, most: usize, found: Match) -> usize {
        let Sequence { drafter, class, .. } = &self.sequences[&id];
        let kind = if found.length >= COPY { COPIED } else { 0 };
        let odds = (drafter.n_certain, drafter.likelihood(kind));
        let n_drafts = self.n_paying(&self.step.shape, *class, odds, start, most);
        let seq = self.sequences.get_mut(&id).expect("a scheduled sequence is known");
        seq.drafter.tried = kind;
        if n_drafts == 0 {
            seq.drafter.fade(kind);
        }
        seq.guess(found.next, n_drafts);
        n_drafts
    }

    /// Whether what guesses take has yet to be measured, or was not for long.
    fn is_trial(&self) -> bool {
        self.counters.drafts < N_TRIALS || self.n_steps - self.last_draft_step > TRIAL_EVERY
    }

    /// How many drafts from position `start` on are worth their time in a step of `shape`: the first `n_certain` are right,
    /// and each after them with a probability of `likelihood` when all before it are. For background they have no more
    /// time than its steps have.
    fn n_paying(
        &self,
        shape: &StepShape,
        class: Priority,
        (n_certain, likelihood): (usize, f64),
        start: usize,
        most: usize,
    ) -> usize {
        let bound = self.config.max_token_gap;
        let longest = match class {
            _ if bound == Duration::ZERO => f64::INFINITY,
            Priority::Background => self.most_alone().min(PART * bound.as_secs_f64()),
            _ => PART * bound.as_secs_f64(),
        };
        let before = self.cost.predict(shape);
        let is_trial = self.is_trial();
        let n_decodes = shape.n_decodes as f64;
        let mut gained = 1.0;
        let mut last = before;
        for n in 1..=most {
            gained *= if n <= n_certain { 1.0 } else { likelihood };
            let mut with = *shape;
            with.add_drafts(start, n);
            let predicted = self.cost.predict(&with);
            let hoped = before * (1.0 + n as f64 * HOPED_PART);
            let seconds = if is_trial { predicted.min(hoped) } else { predicted };
            // [tokens] against [seconds * tokens / second] as without drafts.
            let costs = (seconds - last).max(0.0) * n_decodes / before.max(f64::MIN_POSITIVE);
            if gained < MARGIN * costs || gained < 0.05 || predicted > longest {
                return n - 1;
            }
            last = seconds;
        }
        most
    }
}

impl Sequence {
    /// How many of its drafts, the first ones, were drawn.
    pub(crate) fn n_right(&self, drawn: impl Iterator<Item = TokenId>) -> usize {
        let drafts = &self.tokens[self.tokens.len() - self.n_drafts..];
        drafts.iter().zip(drawn).take_while(|(draft, drawn)| *draft == drawn).count()
    }

    /// Appends `n` drafts: what followed at `next`, which may be a draft itself where a text repeats itself.
    fn guess(&mut self, next: usize, n: usize) {
        for i in next..next + n {
            self.tokens.push(self.tokens[i]);
        }
        self.n_drafts = n;
    }

    /// Takes in what was drawn after its last token, and after each draft before the first wrong one.
    ///
    /// # Panics
    /// When something was drawn after a wrong draft, or its KV is not in place.
    pub(crate) fn accept(&mut self, drawn: impl ExactSizeIterator<Item = TokenId> + Clone) {
        let (known, n_drawn) = (self.tokens.len() - self.n_drafts, drawn.len());
        assert!(self.n_computed == known, "drawn after the sequence's last token");
        assert!(n_drawn <= self.n_drafts + 1, "at most one token more than drafts is drawn");
        let n_right = self.n_right(drawn.clone());
        // The last of what is drawn is not computed, even where it is what was guessed.
        let n_in_place = n_drawn.saturating_sub(1);
        assert!(n_right >= n_in_place, "nothing is drawn after a wrong draft");
        if self.n_drafts > 0 {
            self.drafter.judge(self.n_drafts, n_right);
        }
        self.drop_drafts();
        self.drafter.suggested.clear();
        self.drafter.n_certain = 0;
        self.tokens.extend(drawn);
        // The KV of right drafts is in place.
        self.n_computed += n_in_place;
    }

    /// Forgets the drafts that were not verified.
    pub(crate) fn drop_drafts(&mut self) {
        self.tokens.truncate(self.tokens.len() - self.n_drafts);
        self.n_drafts = 0;
    }
}

/// The longest earlier text that equals the end, the last one among equals.
fn find(tokens: &[TokenId]) -> Option<Match> {
    let (&last, before) = tokens.split_last()?;
    let mut best = None::<Match>;
    for end in (LEAST_MATCH - 1..before.len()).rev() {
        if tokens[end] != last {
            continue;
        }
        let backwards = tokens[..end].iter().rev().zip(before.iter().rev());
        let length = 1 + backwards.take(LONGEST_MATCH - 1).take_while(|(a, b)| a == b).count();
        if length >= LEAST_MATCH && best.is_none_or(|best| length > best.length) {
            best = Some(Match { next: end + 1, length });
            if length == LONGEST_MATCH {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[TokenId], expect: Option<(usize, usize)>) {
        let found = find(tokens).map(|found| (found.next, found.length));
        assert_eq!(found, expect);
    }

    #[test]
    fn the_longest_and_then_the_last_match_is_found() {
        check(&[], None);
        check(&[1, 2, 3], None);
        check(&[1, 2, 3, 9, 2, 3], None);
        check(&[1, 2, 3, 9, 1, 2, 3], Some((3, 3)));
        check(&[0, 1, 2, 3, 9, 1, 2, 3, 8, 0, 1, 2, 3], Some((4, 4)));
        check(&[1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], Some((7, 3)));
        check(&[7; 5], Some((4, 4)));
        check(&[7; 50], Some((49, 16)));
    }

    #[test]
    fn what_is_wrong_is_tried_less_and_less_and_once_more_later() {
        let mut drafter = Drafter::default();
        let before = drafter.likelihood(0);
        (0..5).for_each(|_| drafter.judge(1, 0));
        let after = drafter.likelihood(0);
        assert!(after < before / 3.0, "{after} after {before}");
        (0..300).for_each(|_| drafter.fade(0));
        assert!(drafter.likelihood(0) > 0.7 * before);
        (0..5).for_each(|_| drafter.judge(4, 4));
        assert!(drafter.likelihood(0) > 0.9);
    }
}
