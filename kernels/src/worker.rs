//! The life of a pool's worker: it spins for a job, takes items of it, and parks.
//! Must never keep a core from its caller or from another program while it only waits.
//! Start at [`work`].

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::denormals::flush_denormals;
use crate::share::{Share, fetch};

/// How often a worker looks for the next job before it parks, as a rule: for less than a millisecond, if nobody else wants its core.
pub(crate) const SPINS: u32 = if cfg!(miri) { 20 } else { 20_000 };
/// After so many looks it offers its core to other programs at each. One of them may be the caller.
const SPINS_ALONE: u32 = 500;
/// As so many looks counts one that offers the core.
const SPINS_OF_OFFER: u32 = 50;
/// After so long a worker offers its core to other programs before the next item: if it were taken away in the middle of
/// one, all would wait.
pub(crate) const TURN: Duration = Duration::from_millis(1);

/// The parts of [`Shared::state`]: the number of the job, whether it takes workers, and how many it has.
pub(crate) const JOB: u64 = 1 << 32;
pub(crate) const OPEN: u64 = 1 << 31;
pub(crate) const JOINED: u64 = OPEN - 1;

/// What a pool's threads share.
pub(crate) struct Shared {
    /// The job's number, whether it is open, and how many workers are inside.
    pub(crate) state: AtomicU64,
    /// Written by the caller while no job is open and no worker inside.
    pub(crate) job: UnsafeCell<Job>,
    /// What is left of each thread's share, the caller's first.
    pub(crate) shares: Box<[Share]>,
    pub(crate) n_parked: AtomicUsize,
    /// The caller sleeps until the last worker leaves.
    pub(crate) caller_sleeps: AtomicBool,
    pub(crate) caller: Mutex<Option<Thread>>,
    pub(crate) ends: AtomicBool,
    /// How often a worker looks for the next job before it parks.
    pub(crate) n_spins: u32,
    /// The first panic of a worker's item.
    pub(crate) panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What is computed.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    /// Valid while the job is open or a worker is inside.
    pub(crate) run: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `job` is the only field that is not Sync by itself. It is written by the one caller (`Pool::run`
// takes `&mut self`) while no worker is inside, and read by workers only after they joined an open job;
// the join is an acquire of the release that opened it.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure, so other threads may call it.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Runs what is left of the share of thread `me`, then of those of the others, each from the end; whether all, and not
/// only as much as until it `is_to_leave`.
pub(crate) fn take_items(
    shared: &Shared,
    me: usize,
    run: &(dyn Fn(usize) + Sync),
    is_to_leave: impl Fn() -> bool,
) -> bool {
    let (before, rest) = shared.shares.split_at(me);
    let mut is_own = true;
    for share in rest.iter().chain(before) {
        while let Some(item) = share.take(is_own) {
            run(item);
            if is_to_leave() {
                return false;
            }
        }
        is_own = false;
    }
    true
}

/// The life of a worker.
pub(crate) fn work(shared: &Shared, me: usize) {
    flush_denormals();
    let (mut last_job, mut n_spins, mut turn) = (0, 0, Instant::now());
    while !shared.ends.load(Ordering::Relaxed) {
        let state = shared.state.load(Ordering::Acquire);
        let is_new = state & OPEN != 0 && state / JOB != last_job;
        if !is_new && n_spins < SPINS_ALONE.min(shared.n_spins) {
            n_spins += 1;
            std::hint::spin_loop();
            continue;
        }
        if !is_new || turn.elapsed() > TURN {
            match is_new || n_spins < shared.n_spins {
                true => std::thread::yield_now(),
                false => park(shared, last_job),
            }
            n_spins = n_spins.saturating_add(SPINS_OF_OFFER);
            turn = Instant::now();
            continue;
        }
        let joined =
            shared.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
        if joined.is_err() {
            continue;
        }
        n_spins = 0;
        // SAFETY: this worker is inside, so the job stands and its closure lives until it leaves.
        let run = unsafe { &*(*shared.job.get()).run };
        let is_to_leave = || turn.elapsed() > TURN;
        let taken = catch_unwind(AssertUnwindSafe(|| take_items(shared, me, run, is_to_leave)));
        // Whoever left in the middle may join again.
        let is_over = !matches!(taken, Ok(false));
        if is_over {
            last_job = state / JOB;
        }
        if let Err(panic) = taken {
            let mut first = shared.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(panic);
        }
        // Taken while the caller cannot write it, and fetched when nobody waits for this worker any more.
        let then = is_over.then(|| shared.shares[me].take_then());
        shared.state.fetch_sub(1, Ordering::SeqCst);
        if shared.caller_sleeps.load(Ordering::SeqCst) {
            let caller = shared.caller.lock().unwrap_or_else(PoisonError::into_inner);
            caller.iter().for_each(Thread::unpark);
        }
        then.into_iter().for_each(fetch);
    }
}

/// Sleeps until the caller opens a job or the pool ends. The caller stores the state and then reads the number
/// of parked workers, a worker does the reverse: one of them sees the other.
fn park(shared: &Shared, last_job: u64) {
    shared.n_parked.fetch_add(1, Ordering::SeqCst);
    let state = shared.state.load(Ordering::SeqCst);
    let has_job = state & OPEN != 0 && state / JOB != last_job;
    if !has_job && !shared.ends.load(Ordering::SeqCst) {
        std::thread::park();
    }
    shared.n_parked.fetch_sub(1, Ordering::SeqCst);
}
