//! Several engines in one process: whose turn it is to compute.
//!
//! Each step takes all cores, so two that run at once only get in each other's way. It must never
//! know what a turn is used for.
//!
//! Start reading at [`StepArbiter::turn`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who holds its turn for longer loses it: others then go on beside it. So an engine that stands still
/// delays the others once, and not for ever.
const LONGEST_TURN: Duration = Duration::from_secs(1);
/// How often somebody who waits shows that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_millis(250);

/// Lets the engines of a process take turns, first come, first served. The queue holds one entry for each
/// thread that waits.
#[derive(Debug)]
pub struct StepArbiter {
    longest_turn: Duration,
    line: Mutex<Line>,
    came_free: Condvar,
    n_active: AtomicUsize,
    /// CPU time of the process that was shared out among answers.
    cpu_accounted: Mutex<Duration>,
}

#[derive(Debug, Default)]
struct Line {
    next_ticket: u64,
    holder: Option<(u64, Instant)>,
    waiting: VecDeque<u64>,
}

/// The right to compute, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    arbiter: &'a StepArbiter,
    ticket: u64,
}

/// Somebody has work for several turns, until this is dropped.
#[derive(Debug)]
pub struct Activity {
    arbiter: Arc<StepArbiter>,
}

impl Default for StepArbiter {
    fn default() -> Self {
        StepArbiter::with_longest_turn(LONGEST_TURN)
    }
}

impl StepArbiter {
    fn with_longest_turn(longest_turn: Duration) -> Self {
        StepArbiter {
            longest_turn,
            line: Mutex::default(),
            came_free: Condvar::new(),
            n_active: AtomicUsize::new(0),
            cpu_accounted: Mutex::default(),
        }
    }

    /// Waits for a turn; `while_waiting` is called a few times a second meanwhile. A thread that holds a
    /// turn must not ask for another.
    pub fn turn(&self, while_waiting: impl Fn()) -> Turn<'_> {
        let mut line = self.line();
        let ticket = line.next_ticket;
        line.next_ticket += 1;
        line.waiting.push_back(ticket);
        loop {
            let is_first = line.waiting.front() == Some(&ticket);
            let held = line.holder.map(|(_, since)| since.elapsed());
            if is_first && held.is_none_or(|held| held >= self.longest_turn) {
                line.waiting.pop_front();
                line.holder = Some((ticket, Instant::now()));
                return Turn { arbiter: self, ticket };
            }
            let left = self.longest_turn.saturating_sub(held.unwrap_or_default());
            let wait = left.clamp(Duration::from_millis(1), SIGN_OF_LIFE);
            let waited = self.came_free.wait_timeout(line, wait);
            line = waited.unwrap_or_else(PoisonError::into_inner).0;
            while_waiting();
        }
    }

    /// Notes that somebody has work from now on.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Activity {
        self.n_active.fetch_add(1, Relaxed);
        Activity { arbiter: Arc::clone(self) }
    }

    /// How many have work now.
    #[must_use]
    pub fn n_active(&self) -> usize {
        self.n_active.load(Relaxed)
    }

    /// CPU time of the process that nobody has accounted for: `now` is what it has spent so far. It is
    /// the caller's from here on.
    #[must_use]
    pub fn take_cpu_time(&self, now: Duration) -> Duration {
        let mut accounted = self.cpu_accounted.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = now.saturating_sub(*accounted);
        *accounted = now.max(*accounted);
        spent
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut line = self.arbiter.line();
        // It may have lost its turn meanwhile.
        if line.holder.is_some_and(|(ticket, _)| ticket == self.ticket) {
            line.holder = None;
            self.arbiter.came_free.notify_all();
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.arbiter.n_active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::channel;

    use super::*;

    /// Nobody loses a turn because the machine is slow.
    fn patient() -> StepArbiter {
        StepArbiter::with_longest_turn(Duration::from_secs(3600))
    }

    #[test]
    fn nobody_computes_beside_another_and_nobody_waits_twice_as_often() {
        let (arbiter, is_taken) = (patient(), AtomicBool::new(false));
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for who in 0..3 {
                let (arbiter, is_taken, order) = (&arbiter, &is_taken, &order);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let _turn = arbiter.turn(|| ());
                        assert!(!is_taken.swap(true, Relaxed), "two at once");
                        order.lock().unwrap().push(who);
                        std::thread::yield_now();
                        is_taken.store(false, Relaxed);
                    }
                });
            }
        });
        let order = order.into_inner().unwrap();
        assert_eq!(order.len(), 600);
        assert!(arbiter.line().waiting.is_empty() && arbiter.line().holder.is_none());
    }

    #[test]
    fn turns_go_by_arrival() {
        let arbiter = patient();
        let (sender, came) = channel();
        let first = arbiter.turn(|| ());
        std::thread::scope(|scope| {
            for who in 1..4 {
                let (arbiter, sender) = (&arbiter, sender.clone());
                scope.spawn(move || {
                    let _turn = arbiter.turn(|| ());
                    sender.send(who).unwrap();
                });
                while arbiter.line().waiting.len() < who {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(came.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_turn_that_does_not_end_is_lost_and_its_end_takes_no_other() {
        let arbiter = StepArbiter::default();
        let stuck = arbiter.turn(|| ());
        let (began, signs) = (Instant::now(), AtomicUsize::new(0));
        let second = arbiter.turn(|| {
            signs.fetch_add(1, Relaxed);
        });
        assert!(began.elapsed() >= LONGEST_TURN && signs.load(Relaxed) >= 1);
        drop(stuck);
        assert!(arbiter.line().holder.is_some(), "the second one's turn goes on");
        drop(second);
        assert!(arbiter.line().holder.is_none());
    }

    #[test]
    fn cpu_time_is_taken_once() {
        let arbiter = StepArbiter::default();
        let ms = Duration::from_millis;
        assert_eq!(arbiter.take_cpu_time(ms(10)), ms(10));
        assert_eq!(arbiter.take_cpu_time(ms(8)), ms(0));
        assert_eq!(arbiter.take_cpu_time(ms(15)), ms(5));
    }
}
