//! One computation that several requests read: who comes first leads, the others follow.
//!
//! Whoever asks for more takes what the engine has for all, so that a slow reader holds up nobody and no task stands between
//! the engine and its readers. When the leader leaves, fails or is ended, the next follower that asks computes.
//!
//! It must never call anything that takes a lock of the cache while its own is held.
//!
//! Start reading at [`Flight::next`].

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream;
use lastmile::{
    FinishReason, GenerateError, GenerateEvent, GenerateStream, Priority, ReleaseHash, RequestId,
    Usage,
};

use super::log::{Log, Said};
use super::table::Entry;

/// One of those who read a flight.
pub(crate) type Seat = u64;

/// One computation that several requests read.
pub(crate) struct Flight {
    /// Of the request that began it. Who is more urgent does not wait for it.
    pub(crate) priority: Priority,
    /// All of its computations draw with it.
    pub(crate) seed: u64,
    pub(crate) release: ReleaseHash,
    state: Mutex<State>,
    wakers: Arc<Wakers>,
    next_seat: AtomicU64,
    /// Changed under the cache's lock only.
    n_readers: AtomicU64,
}

struct State {
    run: Run,
    log: Log,
    /// The request that computed last.
    computed_by: Option<RequestId>,
    /// How it ended for one seat alone, after so many pieces.
    own_ends: Vec<(Seat, usize, GenerateEvent)>,
}

enum Run {
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
    /// It ended, and so for all.
    Over {
        by: Seat,
        end: GenerateEvent,
    },
}

/// What comes next for a reader.
pub(crate) enum Next {
    Event(GenerateEvent),
    /// The end of what the reader's own request computed, or its refusal: it is recorded already.
    OwnEnd(GenerateEvent),
    /// The end of what this request computed, which is the reader's, too.
    SharedEnd(GenerateEvent, RequestId),
    /// The reader's request is to be computed.
    Lead,
    Wait,
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) n_pieces: usize,
    pub(crate) has_prompt: bool,
}

/// Wakes all readers: whichever comes first takes what is new for all.
#[derive(Default)]
struct Wakers(Mutex<BTreeMap<Seat, Waker>>);

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Seat, Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        all.into_values().for_each(Waker::wake);
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

impl Flight {
    /// A flight that seat 0 is about to compute.
    pub(crate) fn new(priority: Priority, seed: u64, release: ReleaseHash) -> Self {
        let state = State {
            run: Run::Starting { by: 0 },
            log: Log::default(),
            computed_by: None,
            own_ends: Vec::new(),
        };
        Flight {
            priority,
            seed,
            release,
            state: Mutex::new(state),
            wakers: Arc::default(),
            next_seat: AtomicU64::new(0),
            n_readers: AtomicU64::new(0),
        }
    }

    /// One reader more; the first one is seat 0. Under the cache's lock.
    pub(crate) fn join(&self) -> Seat {
        self.n_readers.fetch_add(1, Relaxed);
        self.next_seat.fetch_add(1, Relaxed)
    }

    /// One reader less; whether there is none left. Under the cache's lock.
    pub(crate) fn part(&self) -> bool {
        self.n_readers.fetch_sub(1, Relaxed) == 1
    }

    /// What comes next for `seat`, which is woken when there may be more; and the answer, by whom it is complete.
    pub(crate) fn next(
        &self,
        seat: Seat,
        place: &mut Place,
        waker: &Waker,
    ) -> (Next, Option<Entry>) {
        // Before the look, so that nothing that comes after it is missed.
        self.wakers.lock().insert(seat, waker.clone());
        let (mut entry, mut is_news) = (None, false);
        let mut state = self.lock();
        let next = loop {
            if let Some(next) = state.told(seat, place) {
                break next;
            }
            match &mut state.run {
                Run::Over { by, end } if *by == seat => break Next::OwnEnd(end.clone()),
                Run::Over { end, .. } => {
                    let end = end.clone();
                    break match state.computed_by {
                        Some(computed_by) => Next::SharedEnd(end, computed_by),
                        None => Next::OwnEnd(end),
                    };
                }
                Run::Starting { .. } => break Next::Wait,
                Run::Vacant => {
                    state.run = Run::Starting { by: seat };
                    break Next::Lead;
                }
                Run::Computing { by, stream } => {
                    let by = *by;
                    let waker = Waker::from(Arc::clone(&self.wakers));
                    match Pin::new(stream).poll_next(&mut Context::from_waker(&waker)) {
                        Poll::Pending => break Next::Wait,
                        Poll::Ready(event) => {
                            let event =
                                event.unwrap_or(GenerateEvent::Failed(GenerateError::ShuttingDown));
                            is_news |= !matches!(event, GenerateEvent::Delta { .. });
                            if let Some(whole) = state.take_in(by, event) {
                                entry = self.entry(&state, whole);
                            }
                        }
                    }
                }
            }
        };
        is_news |= matches!(state.run, Run::Vacant);
        drop(state);
        // Somebody's end may have come by another's look, and whoever reads on takes the lead.
        if is_news {
            self.wakers.wake_all();
        }
        (next, entry)
    }

    /// The request of `seat` is computed; what was on its way for somebody who left is ended.
    pub(crate) fn start(&self, seat: Seat, id: RequestId, stream: GenerateStream) {
        let mut state = self.lock();
        let is_awaited = matches!(state.run, Run::Starting { by } if by == seat);
        let unwanted = if is_awaited {
            state.run = Run::Computing { by: seat, stream };
            state.computed_by = Some(id);
            None
        } else {
            Some(stream)
        };
        drop(state);
        drop(unwanted);
        self.wakers.wake_all();
    }

    /// The request of `seat` was refused: that is its end alone.
    pub(crate) fn refuse(&self, seat: Seat, error: GenerateError) {
        let mut state = self.lock();
        if matches!(state.run, Run::Starting { by } if by == seat) {
            state.end_alone(seat, GenerateEvent::Failed(error));
        }
        drop(state);
        self.wakers.wake_all();
    }

    /// `seat` reads no more; what is computed for it ends. Whether its own request was computed or refused: that is
    /// recorded elsewhere.
    pub(crate) fn leave(&self, seat: Seat) -> bool {
        let mut state = self.lock();
        let n_own = state.own_ends.len();
        state.own_ends.retain(|(of, ..)| *of != seat);
        let is_leader = state.leader() == Some(seat);
        let has_own = is_leader
            || state.own_ends.len() < n_own
            || matches!(state.run, Run::Over { by, .. } if by == seat);
        let ended = is_leader.then(|| state.vacate());
        drop(state);
        drop(ended);
        self.wakers.lock().remove(&seat);
        if is_leader {
            self.wakers.wake_all();
        }
        has_own
    }

    /// Whether the request of `seat` is what is computed.
    pub(crate) fn is_led_by(&self, seat: Seat) -> bool {
        self.lock().leader() == Some(seat)
    }

    /// Whether it ended with an error for all.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.lock().run, Run::Over { end: GenerateEvent::Failed(_), .. })
    }

    /// Has the engine end what it computes for `seat`, before its next step.
    pub(crate) fn abort(&self, seat: Seat) {
        if let Run::Computing { by, stream } = &self.lock().run
            && *by == seat
        {
            stream.aborter().abort();
        }
    }

    /// As [`Flight::abort`], and has `seat` look again.
    pub(crate) fn end(&self, seat: Seat) {
        self.abort(seat);
        self.wakers.wake_all();
    }

    /// What a reader was told so far, and by whose computation.
    pub(crate) fn told_until(&self, place: Place) -> (Said, Option<RequestId>) {
        let state = self.lock();
        (state.log.first(place.n_pieces), state.computed_by)
    }

    /// What is worth keeping of an answer that is whole.
    fn entry(&self, state: &State, (reason, usage): (FinishReason, Usage)) -> Option<Entry> {
        Some(Entry {
            computed_by: state.computed_by?,
            seed: self.seed,
            release: self.release,
            said: state.log.first(usize::MAX),
            reason,
            usage: Usage { cached_tokens: 0, ..usage },
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is there for a reader already.
    fn told(&mut self, seat: Seat, place: &mut Place) -> Option<Next> {
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
    fn take_in(&mut self, by: Seat, event: GenerateEvent) -> Option<(FinishReason, Usage)> {
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
                    self.run = Run::Over { by, end: GenerateEvent::Finished(finish) };
                    return Some(whole);
                }
                false
            }
            end @ (GenerateEvent::Finished(_) | GenerateEvent::Failed(_)) => {
                self.end_alone(by, end);
                true
            }
        };
        if !is_same {
            let message =
                "it was computed again, as who computed it first left, and came out otherwise";
            let error = GenerateError::Sequence { message: message.to_owned() };
            self.run = Run::Over { by, end: GenerateEvent::Failed(error) };
        }
        None
    }

    /// It ended for `seat` alone.
    fn end_alone(&mut self, seat: Seat, end: GenerateEvent) {
        self.own_ends.push((seat, self.log.n_pieces(), end));
        // What computed it has ended.
        drop(self.vacate());
    }

    /// Nobody computes. What did ends when it is dropped.
    fn vacate(&mut self) -> Run {
        self.log.begin_again();
        std::mem::replace(&mut self.run, Run::Vacant)
    }

    fn leader(&self) -> Option<Seat> {
        match self.run {
            Run::Starting { by } | Run::Computing { by, .. } => Some(by),
            Run::Vacant | Run::Over { .. } => None,
        }
    }
}
