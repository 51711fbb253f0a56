//! One request's part in a flight: its events, its end, and its row.
//!
//! It must never tell an end before the answer is recorded.
//!
//! Start reading at [`Reader`]'s `poll_next`.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use lastmile::{
    Finish, FinishReason, GenerateError, GenerateEvent, GenerateRequest, GenerateStream, Outcome,
    Priority, RequestId, Runtime, Usage,
};

use super::ResponseCache;
use super::flight::{Flight, Next, Place, Seat};
use super::key::Key;
use super::log::Said;
use super::told::Asked;

/// One request's part in a flight. Dropping it leaves the flight.
pub(crate) struct Reader {
    cache: Arc<ResponseCache>,
    key: Key,
    flight: Arc<Flight>,
    seat: Seat,
    place: Place,
    /// What is computed when the leader left; `None` is of who began the flight, whose request the engine records.
    asked: Option<Box<Asked>>,
    ttft: Option<Duration>,
    ender: Arc<SharedEnder>,
    is_over: bool,
}

/// Ends one request's part in a flight from elsewhere.
pub(crate) struct SharedEnder {
    /// Where its reader is now.
    at: Mutex<(Arc<Flight>, Seat)>,
    is_ended: AtomicBool,
}

impl SharedEnder {
    /// Its reader hears of the end; others read on.
    pub(crate) fn end(&self) {
        self.is_ended.store(true, Relaxed);
        let (flight, seat) = self.at.lock().unwrap_or_else(PoisonError::into_inner).clone();
        flight.end(seat);
    }

    fn move_to(&self, flight: &Arc<Flight>, seat: Seat) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        *at = (Arc::clone(flight), seat);
    }
}

/// A follower's way to the engine.
struct Attempt {
    flight: Arc<Flight>,
    seat: Seat,
    id: RequestId,
}

impl Attempt {
    /// Hands the request to the engine, unless what it would be computed by is not what said the beginning.
    fn run(self, cache: &ResponseCache, runtime: &Runtime, request: GenerateRequest) {
        match runtime.ready(vec![request]) {
            Err(error) => self.flight.refuse(self.seat, error),
            Ok(ready) if ready.iter().any(|one| one.release() != self.flight.release) => {
                self.flight.end_replaced(self.seat);
            }
            Ok(ready) => {
                cache.idle.make_way();
                self.done(runtime.start_ready(ready));
            }
        }
    }

    fn done(&self, started: Result<Vec<Vec<GenerateStream>>, GenerateError>) {
        let first = started
            .and_then(|all| all.into_iter().flatten().next().ok_or(GenerateError::EngineDied));
        match first {
            Ok(stream) => self.flight.start(self.seat, self.id, stream),
            Err(error) => self.flight.refuse(self.seat, error),
        }
    }
}

impl Drop for Attempt {
    /// Nothing happens when it is done; else the others must not wait for it.
    fn drop(&mut self) {
        self.flight.refuse(self.seat, GenerateError::EngineDied);
    }
}

impl Reader {
    /// Under the cache's lock.
    pub(crate) fn new(
        cache: &Arc<ResponseCache>,
        key: Key,
        flight: &Arc<Flight>,
        priority: Priority,
        asked: Option<Box<Asked>>,
    ) -> Self {
        let seat = flight.join(priority);
        let (at, is_ended) = (Mutex::new((Arc::clone(flight), seat)), AtomicBool::new(false));
        Reader {
            cache: Arc::clone(cache),
            key,
            flight: Arc::clone(flight),
            seat,
            place: Place::default(),
            asked,
            ttft: None,
            ender: Arc::new(SharedEnder { at, is_ended }),
            is_over: false,
        }
    }

    pub(crate) fn ender(&self) -> Arc<SharedEnder> {
        Arc::clone(&self.ender)
    }

    /// The engine computes the request that began the flight.
    pub(crate) fn begin(&self, id: RequestId, stream: GenerateStream) {
        self.flight.start(self.seat, id, stream);
    }

    /// The follower's request is computed now. Making it into tokens takes a thread that may block.
    fn lead(&self, priority: Priority) {
        let Some(asked) = &self.asked else {
            return self.flight.refuse(self.seat, GenerateError::ShuttingDown);
        };
        self.cache.count_handed_on();
        let (cache, runtime) = (Arc::clone(&self.cache), Arc::clone(&asked.runtime));
        // Others may wait for it who are more urgent.
        let request = GenerateRequest { priority, ..asked.request.clone() };
        let attempt = Attempt { flight: Arc::clone(&self.flight), seat: self.seat, id: request.id };
        // It hears from the flight when that is done.
        drop(tokio::task::spawn_blocking(move || attempt.run(&cache, &runtime, request)));
    }

    /// Goes on in a flight that nobody else reads.
    fn move_to(&mut self, flight: Arc<Flight>) {
        let seat = flight.join(flight.priority());
        let left = std::mem::replace(&mut self.flight, flight);
        left.leave(self.seat);
        // Who comes next begins anew.
        self.cache.call_off(&self.key, &left);
        self.cache.parted(&self.key, &left);
        self.seat = seat;
        self.ender.move_to(&self.flight, seat);
    }

    /// What comes next, wherever it comes from.
    fn next(&mut self, context: &Context<'_>) -> Next {
        loop {
            let (next, entry) = self.flight.next(self.seat, &mut self.place, context.waker());
            if let Some(entry) = entry {
                self.cache.keep(self.key, &self.flight, entry);
            }
            match next {
                Next::Apart(flight) => self.move_to(flight),
                next => return next,
            }
        }
    }

    /// The end of what another request computed, recorded as this one's.
    fn shared_end(&self, end: GenerateEvent, computed_by: Option<RequestId>) -> GenerateEvent {
        let Some(asked) = &self.asked else { return end };
        let (said, _) = self.flight.told_until(self.place);
        match end {
            GenerateEvent::Finished(Finish { reason, usage, .. }) => {
                let usage = Usage { cached_tokens: 0, ..usage };
                let outcome = Outcome::Finished(reason);
                let timings = asked.note(said, outcome, usage, computed_by, self.ttft);
                GenerateEvent::Finished(Finish { reason, usage, timings })
            }
            GenerateEvent::Failed(error) => {
                let usage = self.usage_of(&said);
                let outcome = Outcome::Failed(error.clone());
                asked.note(said, outcome, usage, computed_by, self.ttft);
                GenerateEvent::Failed(error)
            }
            other => other,
        }
    }

    /// Records an answer that its client, or somebody else, ended before it was whole.
    fn cut_short(&self) -> Option<Finish> {
        let asked = self.asked.as_ref()?;
        let (said, computed_by) = self.flight.told_until(self.place);
        let usage = self.usage_of(&said);
        let reason = FinishReason::Abort;
        let timings = asked.note(said, Outcome::Finished(reason), usage, computed_by, self.ttft);
        Some(Finish { reason, usage, timings })
    }

    /// What a follower was told that was not told its end.
    fn usage_of(&self, said: &Said) -> Usage {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        match (&self.asked, self.place.n_pieces) {
            (None, _) | (_, 0) => Usage::default(),
            (Some(asked), _) => Usage {
                prompt_tokens: count(asked.prompt_tokens.len()),
                completion_tokens: count(said.tokens.len()),
                // Nobody is told how much of it was thought: it ended early.
                ..Usage::default()
            },
        }
    }

    fn leave(&mut self) {
        self.is_over = true;
        self.flight.leave(self.seat);
    }
}

impl Stream for Reader {
    type Item = GenerateEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<GenerateEvent>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        if this.ender.is_ended.load(Relaxed) {
            if this.flight.is_own(this.seat) {
                // It hears of the end from the engine, which records it; another reader may have taken it in already.
                this.flight.abort(this.seat);
            } else if let Some(finish) = this.cut_short() {
                this.leave();
                return Poll::Ready(Some(GenerateEvent::Finished(finish)));
            }
        }
        let event = match this.next(context) {
            // No flight is left by `next`.
            Next::Wait | Next::Apart(_) => return Poll::Pending,
            Next::Lead(priority) => {
                this.lead(priority);
                return Poll::Pending;
            }
            Next::Event(event) => {
                let began = this.asked.as_ref().map(|asked| asked.began);
                this.ttft = this.ttft.or_else(|| began.map(|began| began.elapsed()));
                return Poll::Ready(Some(event));
            }
            Next::OwnEnd(end) => end,
            Next::SharedEnd(end, computed_by) => this.shared_end(end, computed_by),
        };
        if this.flight.is_useless() {
            // Who comes next begins anew.
            this.cache.call_off(&this.key, &this.flight);
        }
        this.leave();
        Poll::Ready(Some(event))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.is_over && !self.flight.leave(self.seat) {
            self.cut_short();
        }
        self.cache.parted(&self.key, &self.flight);
    }
}
