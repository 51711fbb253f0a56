//! What a flight knows: who computes, what was said, and how it ended for whom.
//!
//! It must never wake anybody, nor take a lock: the flight's own is held.
//!
//! Start reading at [`State::take_in`].

use std::collections::BTreeMap;

use lastmile::{
    FinishReason, GenerateError, GenerateEvent, GenerateStream, Priority, RequestId, Usage,
};

use super::flight::{Next, Place, Seat};
use super::log::Log;

pub(super) struct State {
    pub(super) run: Run,
    pub(super) log: Log,
    /// The request that computed last.
    pub(super) computed_by: Option<RequestId>,
    /// The class in which it is computed. Who is more urgent does not wait for it.
    pub(super) priority: Priority,
    /// Who reads, and in which class each asked.
    pub(super) seats: BTreeMap<Seat, Priority>,
    /// How it ended for one seat alone, after so many pieces.
    own_ends: Vec<(Seat, usize, GenerateEvent)>,
}

pub(super) enum Run {
    /// Nobody computes: who asks next does.
    Vacant,
    /// Its request is on its way to the engine.
    Starting {
        by: Seat,
    },
    Computing {
        by: Seat,
        stream: GenerateStream,
    },
    /// It ended, and so for all. `by` has its end from the engine.
    Over {
        by: Option<Seat>,
        end: GenerateEvent,
    },
    /// It ended as it would end for each of the others: each of them computes for itself.
    Disbanded,
}

impl State {
    /// Nothing runs yet.
    pub(super) fn new(run: Run, log: Log, priority: Priority) -> Self {
        State {
            run,
            log,
            computed_by: None,
            priority,
            seats: BTreeMap::new(),
            own_ends: Vec::new(),
        }
    }

    /// What is there for a reader already.
    pub(super) fn told(&mut self, seat: Seat, place: &mut Place) -> Option<Next> {
        let own = self.own_ends.iter().position(|(of, ..)| *of == seat);
        let n_own = own.map_or(usize::MAX, |i| self.own_ends[i].1);
        if !place.has_prompt
            && let Some(prompt) = self.log.prompt()
        {
            place.has_prompt = true;
            return Some(Next::Event(prompt));
        }
        if place.n_pieces < n_own
            && let Some(piece) = self.log.piece(place.n_pieces)
        {
            place.n_pieces += 1;
            return Some(Next::Event(piece));
        }
        own.map(|i| Next::OwnEnd(self.own_ends.swap_remove(i).2))
    }

    /// Takes in what the computation of `by` says. How the answer ended, when it is whole.
    pub(super) fn take_in(
        &mut self,
        by: Seat,
        event: GenerateEvent,
    ) -> Option<(FinishReason, Usage)> {
        let is_same = match event {
            GenerateEvent::Prompt { tokens, logprobs } => {
                self.log.push_prompt(tokens, logprobs);
                true
            }
            GenerateEvent::Delta { text, tokens, logprobs } => {
                self.log.push(&text, &tokens, logprobs).is_ok()
            }
            GenerateEvent::Finished(finish)
                if matches!(finish.reason, FinishReason::Stop | FinishReason::Length) =>
            {
                if self.log.is_caught_up() {
                    let whole = (finish.reason, finish.usage);
                    self.run = Run::Over { by: Some(by), end: GenerateEvent::Finished(finish) };
                    return Some(whole);
                }
                false
            }
            end @ (GenerateEvent::Finished(_) | GenerateEvent::Failed(_)) => {
                let is_for_all = would_come_again(&end);
                self.end_alone(by, end);
                if is_for_all {
                    self.run = Run::Disbanded;
                }
                true
            }
        };
        if !is_same {
            let message =
                "it was computed again, as who computed it first left, and came out otherwise";
            self.fail_all(Some(by), message);
        }
        None
    }

    /// It failed for all. `by` has its end from the engine.
    pub(super) fn fail_all(&mut self, by: Option<Seat>, message: &str) {
        let error = GenerateError::Sequence { message: message.to_owned() };
        self.run = Run::Over { by, end: GenerateEvent::Failed(error) };
    }

    /// It ended for `seat` alone.
    pub(super) fn end_alone(&mut self, seat: Seat, end: GenerateEvent) {
        self.own_ends.push((seat, self.log.n_pieces(), end));
        // What computed it has ended.
        drop(self.vacate());
    }

    /// Nobody computes. What did ends when it is dropped.
    pub(super) fn vacate(&mut self) -> Run {
        self.log.begin_again();
        std::mem::replace(&mut self.run, Run::Vacant)
    }

    /// `seat` is to compute, as urgently as the most urgent of those who read.
    pub(super) fn hand_to(&mut self, seat: Seat) -> Next {
        self.run = Run::Starting { by: seat };
        self.priority = self.seats.values().min().copied().unwrap_or(self.priority);
        Next::Lead(self.priority)
    }

    /// Forgets who reads no more.
    pub(super) fn remove(&mut self, seat: Seat) {
        self.own_ends.retain(|(of, ..)| *of != seat);
        self.seats.remove(&seat);
    }

    /// Whether the engine has, or had, the request of `seat`, and records its end. It is told to nobody else.
    pub(super) fn is_own(&self, seat: Seat) -> bool {
        self.leader() == Some(seat)
            || self.own_ends.iter().any(|(of, ..)| *of == seat)
            || matches!(self.run, Run::Over { by, .. } if by == Some(seat))
    }

    pub(super) fn leader(&self) -> Option<Seat> {
        match self.run {
            Run::Starting { by } | Run::Computing { by, .. } => Some(by),
            Run::Vacant | Run::Over { .. } | Run::Disbanded => None,
        }
    }
}

/// Whether who computes the same is likely to end so, too: then nobody waits for another one's try. What its client did,
/// its own limits of time and a full queue are of one request.
fn would_come_again(end: &GenerateEvent) -> bool {
    match end {
        GenerateEvent::Finished(finish) => finish.reason != FinishReason::Abort,
        GenerateEvent::Failed(error) => !matches!(
            error,
            GenerateError::DeadlineExceeded { .. }
                | GenerateError::DeadlineUnreachable { .. }
                | GenerateError::QueueFull { .. }
        ),
        GenerateEvent::Prompt { .. } | GenerateEvent::Delta { .. } => false,
    }
}
