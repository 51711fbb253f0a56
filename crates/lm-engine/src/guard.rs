//! Phrases that an answer must not hold: they are held back until they are certain, and what comes then is decided here.
//!
//! A token is handed out when all of its text is: a phrase shows neither in the text nor in tokens and log-probabilities.
//!
//! It must never rewind a sequence: an answer that turns back goes on as a new one, whose prompt ends before the phrase.
//!
//! Start reading at [`Active::guarded`].

use std::collections::VecDeque;
use std::sync::Arc;

use lm_scheduler::Sequence;
use lm_tokenizer::{DecodeStream, EncodeOptions, Tokenizer};
use lm_types::{
    CacheMissReason, FinishReason, OnHit, Outcome, OutputRules, PhraseScan, ReasoningScanner,
    RuleHit, SeqId, Timestamp, TokenId, TokenLogprobs,
};

use crate::Engine;
use crate::active::{Accepted, Active};
use crate::submit::never_runs;

/// How often an answer may turn back; then it ends before the phrase.
const MAX_TURNS: usize = 8;

/// What is forbidden, and what waits until it is certain.
#[derive(Debug)]
pub(crate) struct Guard {
    rules: Arc<OutputRules>,
    /// The answer's tokens that were not handed out, the last ones.
    held: VecDeque<Held>,
    /// Where each of the answer's tokens ends.
    places: Vec<Place>,
    /// Tokens that may not be drawn as the answer's token of this number.
    banned: Option<(usize, Vec<TokenId>)>,
    n_turns: usize,
    n_kept: Option<usize>,
    hits: Vec<RuleHit>,
    /// What answers go on with.
    before: String,
    /// The end of what was told that may begin a phrase: of what the answer goes on with, and after it turned back of its
    /// own text, as what followed then told otherwise.
    open_end: String,
}

#[derive(Debug)]
struct Held {
    token: TokenId,
    logprobs: Option<TokenLogprobs>,
    /// Text up to here must be certain before it is handed out.
    needs: usize,
}

/// The end of a token in the answer's text.
#[derive(Clone, Copy, Debug)]
struct Place {
    end: usize,
    /// Whether no character is cut there.
    is_whole: bool,
}

/// What is known of an answer's sequence before the answer turned back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    pub(crate) first_scheduled: Option<Timestamp>,
    pub(crate) n_prompt: usize,
    pub(crate) n_cached: usize,
    pub(crate) n_cached_blocks: usize,
    pub(crate) first_miss: Option<(usize, CacheMissReason)>,
}

impl Before {
    pub(crate) fn of(seq: &Sequence) -> Self {
        Before {
            first_scheduled: seq.first_scheduled(),
            n_prompt: seq.n_prompt(),
            n_cached: seq.n_cached(),
            n_cached_blocks: seq.n_cached_blocks(),
            first_miss: seq.first_miss(),
        }
    }
}

impl Guard {
    /// A guard of an answer that goes on with the text `before`.
    pub(crate) fn new(rules: Arc<OutputRules>, before: &str) -> Self {
        let open_end = rules.open_end(before).to_owned();
        Guard {
            rules,
            before: open_end.clone(),
            held: VecDeque::new(),
            places: Vec::new(),
            banned: None,
            n_turns: 0,
            n_kept: None,
            hits: Vec::new(),
            open_end,
        }
    }

    /// The end of the answer's text, with what stands before it, that may begin a phrase.
    fn open_end_of(&self, text: &str) -> String {
        self.rules.open_end(&format!("{}{text}", self.before)).to_owned()
    }

    /// What may not be drawn as the answer's token of this number, counted from 0.
    pub(crate) fn banned_at(&self, n_generated: usize) -> Option<&[TokenId]> {
        let (at, banned) = self.banned.as_ref()?;
        (*at == n_generated).then_some(banned.as_slice())
    }

    /// How many tokens of an answer that was cut its reader got.
    pub(crate) fn n_kept(&self) -> Option<usize> {
        self.n_kept
    }

    pub(crate) fn into_hits(self) -> Vec<RuleHit> {
        self.hits
    }

    /// Takes the tokens that hold a phrase out of alternatives.
    pub(crate) fn present(&self, top: &mut Vec<(TokenId, f32)>, tokenizer: &Tokenizer) {
        let text = |token| String::from_utf8_lossy(tokenizer.token_bytes(token));
        top.retain(|&(token, _)| !self.rules.holds(&text(token)));
    }

    fn hit(&mut self, ban: usize) {
        let action = match self.rules.bans()[ban].then {
            OnHit::Stop => "ban_stop",
            OnHit::Replace(_) => "ban_replace",
            OnHit::Resubmit => "ban_resubmit",
        };
        let hit = RuleHit { rule: Arc::clone(&self.rules.bans()[ban].rule), action };
        if !self.hits.contains(&hit) {
            self.hits.push(hit);
        }
    }
}

impl Active {
    /// Hands out what is certain with a drawn token, of which `n_safe` bytes may be as far as stop strings go.
    pub(crate) fn guarded(
        &mut self,
        token: TokenId,
        logprobs: Option<TokenLogprobs>,
        n_safe: usize,
        reason: Option<FinishReason>,
        tokenizer: &Tokenizer,
    ) -> Accepted {
        let n_thought = self.n_thought();
        let guard = self.guard.as_mut().expect("there is a guard: this is a bug");
        let is_whole = self.decode.pending_bytes() == 0;
        let end = self.text.len() + self.held_back.len();
        guard.places.push(Place { end, is_whole });
        let is_thought = guard.places.len() <= n_thought;
        let needs = end + usize::from(!is_whole);
        let mut logprobs = logprobs;
        logprobs.iter_mut().for_each(|entry| guard.present(&mut entry.top, tokenizer));
        guard.held.push_back(Held { token, logprobs, needs });
        let n_open = guard.open_end.len();
        let found = match n_open {
            0 => guard.rules.scan(&self.held_back),
            _ => {
                let told = format!("{}{}", guard.open_end, self.held_back);
                guard.rules.scan_after(&told, n_open)
            }
        };
        let (at, ban) = match found {
            PhraseScan::Safe(n) => {
                let n = n.saturating_sub(n_open);
                self.hand_out(if reason.is_some() { n_safe } else { n.min(n_safe) });
                return reason.map_or(Accepted::GoesOn, Accepted::Ends);
            }
            // What was handed out stays; that the phrase is not completed can be seen to.
            PhraseScan::Found { at, ban } => (at.saturating_sub(n_open), ban),
        };
        guard.hit(ban);
        let cut = self.text.len() + at;
        let rules = Arc::clone(&guard.rules);
        match &rules.bans()[ban].then {
            OnHit::Resubmit if guard.n_turns < MAX_TURNS => return Accepted::TurnsBack { cut },
            OnHit::Stop | OnHit::Resubmit => self.cut(cut),
            OnHit::Replace(text) => {
                self.cut(cut);
                // It is text for people, also where it takes the place of a thought.
                let close = if is_thought { ReasoningScanner::CLOSE } else { "" };
                let guard = self.guard.as_ref().expect("there is a guard: this is a bug");
                let mut replaced = guard.open_end_of(&self.text);
                let n_open = replaced.len();
                replaced.push_str(close);
                replaced.push_str(text);
                if matches!(rules.scan_after(&replaced, n_open), PhraseScan::Safe(_)) {
                    let text = format!("{close}{text}");
                    self.text.push_str(&text);
                    self.output.push_all(std::iter::empty(), &text);
                }
            }
        }
        Accepted::Ends(FinishReason::Filtered)
    }

    /// Hands out the text up to this byte of the answer, and nothing that comes after it.
    pub(crate) fn cut(&mut self, cut: usize) {
        let at = cut - self.text.len();
        self.held_back.truncate(at);
        self.hand_out(at);
        let guard = self.guard.as_mut().expect("there is a guard: this is a bug");
        guard.n_kept = Some(guard.places.len() - guard.held.len());
        guard.held.clear();
    }

    /// Hands out so many bytes of what is held back, and the tokens whose text is certain with them.
    fn hand_out(&mut self, n_bytes: usize) {
        let guard = self.guard.as_mut().expect("there is a guard: this is a bug");
        let certain = &self.held_back[..n_bytes];
        self.text.push_str(certain);
        if n_bytes > 0 && !guard.open_end.is_empty() {
            guard.open_end.push_str(certain);
            guard.open_end = guard.rules.open_end(&guard.open_end).to_owned();
        }
        let n_certain = self.text.len();
        let n_tokens = guard.held.iter().take_while(|held| held.needs <= n_certain).count();
        for known in guard.held.range(..n_tokens).filter_map(|held| held.logprobs.as_ref()) {
            self.story.handed_out(known.logprob);
        }
        let tokens = guard.held.drain(..n_tokens).map(|held| (held.token, held.logprobs));
        self.output.push_all(tokens, certain);
        self.held_back.drain(..n_bytes);
    }

    /// Turns back to byte `cut` of its text, where a phrase began, and gives the prompt to go on from. `None` when there is
    /// no way on from there.
    pub(crate) fn resume(
        &mut self,
        cut: usize,
        old: &Sequence,
        tokenizer: &Tokenizer,
    ) -> Option<Vec<TokenId>> {
        let n_opening = self.request.steering.opening.len();
        let guard = self.guard.as_mut()?;
        if cut < n_opening {
            return None;
        }
        let n_before = old.n_prompt() - self.carried;
        let answer = &old.tokens()[n_before..];
        let is_kept = |place: &Place| place.end <= cut && place.is_whole;
        let n_kept = guard.places.iter().rposition(is_kept).map_or(0, |last| last + 1);
        // A character that two tokens share is out with the first of them, though the answer cannot end between them.
        let n_handed_out = guard.places.len() - guard.held.len();
        let n_still_held = n_kept.checked_sub(n_handed_out)?;
        let kept_end = n_kept.checked_sub(1).map_or(n_opening, |last| guard.places[last].end);
        let (in_text, at) = (self.text.len(), cut - self.text.len());
        // The beginning of the token in which the phrase begins is spelled anew.
        let mut rest = self.text[kept_end.min(in_text)..].to_owned();
        rest.push_str(&self.held_back[kept_end.saturating_sub(in_text)..at]);
        let spell = |text: &str| tokenizer.encode(text, EncodeOptions::default()).ok();
        let spelled = spell(&rest)?;
        let bytes = spelled.iter().flat_map(|&token| tokenizer.token_bytes(token));
        if !bytes.eq(rest.as_bytes()) {
            return None;
        }
        let n_carried = n_kept + spelled.len();
        if n_carried >= self.max_new_tokens {
            return None;
        }
        self.rewind(&answer[..n_kept], &spelled, tokenizer)?;
        let is_form_due = self.grammar.is_some() && self.is_thinking();
        let guard = self.guard.as_mut()?;
        let mut banned = match guard.banned.take() {
            Some((at, banned)) if at == n_carried => banned,
            _ if is_form_due || n_carried < self.request.stop.min_tokens as usize => {
                self.end_tokens.clone()
            }
            _ => Vec::new(),
        };
        // Without it the same would be drawn; after a beginning that was spelled anew something else is, as a rule.
        banned.extend(answer.get(n_kept).filter(|_| spelled.is_empty()));
        guard.banned = Some((n_carried, banned));
        avoid(&guard.rules, &mut self.sampling.bad_words, spell);
        guard.held.truncate(n_still_held);
        guard.places.truncate(n_kept);
        let mut end = kept_end;
        for &token in &spelled {
            end += tokenizer.token_bytes(token).len();
            let is_whole = rest.is_char_boundary((end - kept_end).min(rest.len()));
            guard.places.push(Place { end, is_whole });
            // Nothing was drawn: it is as certain as can be.
            let certain = || TokenLogprobs { token, logprob: 0.0, top: Vec::new() };
            let logprobs = self.sampling.logprobs.map(|_| certain());
            guard.held.push_back(Held { token, logprobs, needs: end });
        }
        guard.n_turns += 1;
        guard.open_end = guard.open_end_of(&self.text);
        self.before.get_or_insert_with(|| Before::of(old));
        self.held_back.truncate(at);
        self.decode = DecodeStream::new();
        self.carried = n_carried;
        let mut prompt = old.tokens()[..n_before + n_kept].to_vec();
        prompt.extend(spelled);
        Some(prompt)
    }
}

impl Engine {
    /// Lets an answer go on from before a banned phrase, as a sequence whose prompt ends there; where that cannot be,
    /// it ends there.
    pub(crate) fn turn_back(&mut self, id: SeqId, cut: usize) {
        let seq = self.scheduler.remove(id).expect("a drawn-for sequence is known");
        let mut active = self.active.remove(&id).expect("a drawn-for sequence is active");
        let Some(again) = active.resume(cut, &seq, &self.parts.tokenizer) else {
            active.cut(cut);
            self.active.insert(id, active);
            return self.finish(id, Some(&seq), Outcome::Finished(FinishReason::Filtered));
        };
        let id = SeqId(self.next_seq);
        self.next_seq += 1;
        let sequence = active.sequence(id, again);
        self.active.insert(id, active);
        if let Err(refused) = self.scheduler.add(sequence) {
            self.end(id, Outcome::Failed(never_runs(&refused)));
        }
    }
}

/// Lets no phrase be drawn again as it is spelled at the beginning of a text and after a space.
fn avoid(
    rules: &OutputRules,
    bad_words: &mut Vec<Vec<TokenId>>,
    spell: impl Fn(&str) -> Option<Vec<TokenId>>,
) {
    for ban in rules.bans().iter().filter(|ban| ban.then == OnHit::Resubmit) {
        for text in [ban.phrase.clone(), format!(" {}", ban.phrase.trim_start())] {
            let word = spell(&text).filter(|word| !word.is_empty());
            bad_words.extend(word.filter(|word| !bad_words.contains(word)));
        }
    }
}
