//! A thread beside the engine that works in rounds for as long as there is something to work for. A round that panics ends that
//! round alone; how the thread is can be asked at any time.
//!
//! It must never end in silence: what it attends to would go on without anybody noticing.
//!
//! Start reading at [`attend`].

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// The wait after the first panic; it doubles with each that follows at once, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Whether there is another round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Round,
    /// What it worked for is gone.
    Over,
}

/// How such a thread is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttendantStanding {
    /// The thread's name.
    pub thread: &'static str,
    /// Rounds that panicked since the start.
    pub panics: u64,
    /// What the last of them said.
    pub last_panic: Option<String>,
    /// Milliseconds since a round ended well.
    pub idle_ms: u64,
    /// What it could not do in the last round; `None` when it could do all.
    pub failing: Option<String>,
    /// For how many milliseconds it could not.
    pub failing_ms: u64,
}

/// What a thread and those who ask for it share.
pub(crate) struct Pulse {
    thread: &'static str,
    beat: Mutex<Beat>,
}

struct Beat {
    panics: u64,
    last_panic: Option<String>,
    went_well: Instant,
    failing: Option<(Instant, String)>,
}

impl Pulse {
    pub(crate) fn new(thread: &'static str) -> Arc<Pulse> {
        let beat = Beat { panics: 0, last_panic: None, went_well: Instant::now(), failing: None };
        Arc::new(Pulse { thread, beat: Mutex::new(beat) })
    }

    pub(crate) fn standing(&self) -> AttendantStanding {
        let beat = self.beat();
        let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        AttendantStanding {
            thread: self.thread,
            panics: beat.panics,
            last_panic: beat.last_panic.clone(),
            idle_ms: ms(beat.went_well),
            failing: beat.failing.as_ref().map(|(_, what)| what.clone()),
            failing_ms: beat.failing.as_ref().map_or(0, |(since, _)| ms(*since)),
        }
    }

    /// What could not be done in this round; nothing when all could. Only a change is logged, not each round.
    pub(crate) fn note(&self, failed: Option<String>) {
        let mut beat = self.beat();
        let was_failing = beat.failing.is_some();
        match failed {
            Some(what) => {
                if !was_failing {
                    tracing::error!(thread = self.thread, what, "it cannot do its work");
                }
                let since = beat.failing.take().map_or_else(Instant::now, |(since, _)| since);
                beat.failing = Some((since, what));
            }
            None if was_failing => {
                tracing::warn!(thread = self.thread, "it does its work again");
                beat.failing = None;
            }
            None => {}
        }
    }

    /// Also within a round that takes long, at each step that was done.
    pub(crate) fn went_well(&self) {
        self.beat().went_well = Instant::now();
    }

    fn panicked(&self, payload: &(dyn Any + Send)) {
        let text = said(payload);
        tracing::error!(thread = self.thread, panic = text, "a round panicked; it goes on");
        let mut beat = self.beat();
        beat.panics += 1;
        beat.last_panic = Some(text);
    }

    fn beat(&self) -> MutexGuard<'_, Beat> {
        self.beat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The words of a panic.
pub(crate) fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "something that is no text".to_owned())
}

/// Starts the thread. It ends when a round says that it is over.
///
/// # Errors
/// The system has no thread left.
pub(crate) fn attend(
    pulse: Arc<Pulse>,
    mut round: impl FnMut() -> Next + Send + 'static,
) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name(pulse.thread.to_owned());
    let run = move || {
        let mut wait = FIRST_WAIT;
        loop {
            // What a round holds is its own, or behind locks that look past a panic.
            match catch_unwind(AssertUnwindSafe(&mut round)) {
                Ok(Next::Over) => return,
                Ok(Next::Round) => {
                    pulse.went_well();
                    wait = FIRST_WAIT;
                }
                Err(payload) => {
                    pulse.panicked(payload.as_ref());
                    std::thread::sleep(wait);
                    wait = wait.saturating_mul(2).min(LONGEST_WAIT);
                }
            }
        }
    };
    thread.spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_round_that_panics_is_counted_and_the_next_one_comes() {
        let pulse = Pulse::new("lm-test");
        let (told, rounds) = channel();
        let mut n = 0;
        let round = move || {
            n += 1;
            told.send(n).unwrap();
            match n {
                1 => panic!("the {n}st goes wrong"),
                2 => Next::Round,
                _ => Next::Over,
            }
        };
        attend(Arc::clone(&pulse), round).unwrap();
        // It ends with the sender, which is the thread's.
        assert_eq!(rounds.iter().collect::<Vec<i32>>(), [1, 2, 3]);
        let standing = pulse.standing();
        assert_eq!((standing.thread, standing.panics), ("lm-test", 1));
        assert_eq!(standing.last_panic.unwrap(), "the 1st goes wrong");
    }

    #[test]
    fn what_cannot_be_done_is_told_until_it_can() {
        let pulse = Pulse::new("lm-test");
        let failing = || pulse.standing().failing;
        assert_eq!(failing(), None);
        pulse.note(Some("the disk is full".to_owned()));
        pulse.note(Some("the disk is gone".to_owned()));
        assert_eq!(failing().unwrap(), "the disk is gone");
        pulse.note(None);
        assert_eq!((failing(), pulse.standing().failing_ms), (None, 0));
    }
}
