//! One computation that several requests read: who comes first leads, the others follow.
//!
//! Whoever asks for more takes what the engine has for all, so that a slow reader holds up nobody and no task stands between
//! the engine and its readers. When the leader leaves, is ended or is refused, the next follower that asks computes, as urgently
//! as the most urgent of them. When what it computed ends as it would end for the others, too, they part: each computes in a
//! flight of its own, all at once.
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
use super::state::{Run, State};
use super::table::Entry;

/// One of those who read a flight.
pub(crate) type Seat = u64;

/// One computation that several requests read.
pub(crate) struct Flight {
    /// All of its computations draw with it.
    pub(crate) seed: u64,
    pub(crate) release: ReleaseHash,
    state: Mutex<State>,
    wakers: Arc<Wakers>,
    next_seat: AtomicU64,
    /// Changed under the cache's lock only.
    n_readers: AtomicU64,
}

/// What comes next for a reader.
pub(crate) enum Next {
    Event(GenerateEvent),
    /// The end of what the reader's own request computed, or its refusal: it is recorded already.
    OwnEnd(GenerateEvent),
    /// The end of what this request computed, if any did, which is the reader's, too.
    SharedEnd(GenerateEvent, Option<RequestId>),
    /// The reader's request is to be computed, in this class.
    Lead(Priority),
    /// The reader goes on in this flight, alone.
    Apart(Arc<Flight>),
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
        Self::of(State::new(Run::Starting { by: 0 }, Log::default(), priority), seed, release)
    }

    fn of(state: State, seed: u64, release: ReleaseHash) -> Self {
        Flight {
            seed,
            release,
            state: Mutex::new(state),
            wakers: Arc::default(),
            next_seat: AtomicU64::new(0),
            n_readers: AtomicU64::new(0),
        }
    }

    /// The flight of `seat` alone, which goes on where this one ends.
    fn apart(&self, state: &State, seat: Seat) -> Arc<Flight> {
        let mut log = state.log.clone();
        log.begin_again();
        let priority = state.seats.get(&seat).copied().unwrap_or(state.priority);
        let mut alone = State::new(Run::Vacant, log, priority);
        alone.computed_by = state.computed_by;
        Arc::new(Self::of(alone, self.seed, self.release))
    }

    /// The class in which it is computed.
    pub(crate) fn priority(&self) -> Priority {
        self.lock().priority
    }

    /// One reader more, who asked in this class; the first one is seat 0. Under the cache's lock, if it is in its table.
    pub(crate) fn join(&self, priority: Priority) -> Seat {
        self.n_readers.fetch_add(1, Relaxed);
        let seat = self.next_seat.fetch_add(1, Relaxed);
        self.lock().seats.insert(seat, priority);
        seat
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
                Run::Over { by, end } if *by == Some(seat) => break Next::OwnEnd(end.clone()),
                Run::Over { end, .. } => {
                    let end = end.clone();
                    break Next::SharedEnd(end, state.computed_by);
                }
                Run::Disbanded => break Next::Apart(self.apart(&state, seat)),
                Run::Starting { .. } => break Next::Wait,
                Run::Vacant => break state.hand_to(seat),
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
        let (is_leader, has_own) = (state.leader() == Some(seat), state.is_own(seat));
        state.remove(seat);
        let ended = is_leader.then(|| state.vacate());
        drop(state);
        drop(ended);
        self.wakers.lock().remove(&seat);
        if is_leader {
            self.wakers.wake_all();
        }
        has_own
    }

    /// Whether the engine has, or had, the request of `seat`: then it records the end, and `seat` is told it.
    pub(crate) fn is_own(&self, seat: Seat) -> bool {
        self.lock().is_own(seat)
    }

    /// Whether nobody who comes now has anything of it: it failed for all, or those who read it parted.
    pub(crate) fn is_useless(&self) -> bool {
        let state = self.lock();
        matches!(state.run, Run::Disbanded | Run::Over { end: GenerateEvent::Failed(_), .. })
    }

    /// What would compute the request of `seat` is not what said the beginning of the answer: that ends it for all.
    pub(crate) fn end_replaced(&self, seat: Seat) {
        let mut state = self.lock();
        if matches!(state.run, Run::Starting { by } if by == seat) {
            let message = "what computed it was replaced before it was handed on; ask again";
            state.fail_all(None, message);
        }
        drop(state);
        self.wakers.wake_all();
    }

    /// Has the engine end what it computes for `seat`, at its next step at the latest.
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
