//! Fork-join over a few threads that are always there: spin briefly, then offer the core, then park.
//! Must never know what is computed.
//! Start at [`Pool::for_chunks`].
//!
//! A job is a number of items. Each thread has a share of them that lie side by side, so that it reads memory in order, and
//! takes from the end of another's share when its own is empty. A worker that is late does not join, and the others do its
//! share: a neighbour that takes a core away costs that core, and nobody waits for a thread that the system does not
//! run, unless it is in the middle of an item. So that it seldom is, a worker offers its core between items.

use std::cell::UnsafeCell;
use std::io;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, current};

use crate::columns::{Columns, Shareable};
use crate::share::{Share, fetch, share_start};
use crate::worker::{JOB, JOINED, Job, OPEN, SPINS, Shared, take_items, work};

/// How often the caller looks whether the last worker is done before it gives its core away.
const WAIT_SPINS: u32 = 1_000;

/// Threads that share the items of a job with their caller.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `n_threads`, the caller counted: `n_threads - 1` are started.
    ///
    /// # Panics
    /// When the system has no thread left.
    #[must_use]
    pub fn new(n_threads: usize) -> Self {
        Pool::start(n_threads, SPINS).expect("the system has a thread for each core")
    }

    /// As [`Pool::new`], with workers that park as soon as a job is over: between jobs they take no core from another
    /// pool, and the next job begins later.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn resting(n_threads: usize) -> io::Result<Self> {
        Pool::start(n_threads, 0)
    }

    fn start(n_threads: usize, n_spins: u32) -> io::Result<Self> {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| ();
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { run: nothing }),
            shares: (0..n_threads.max(1)).map(|_| Share::default()).collect(),
            n_parked: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            caller: Mutex::new(None),
            ends: AtomicBool::new(false),
            n_spins,
            panic: Mutex::new(None),
        });
        // Where one cannot be started, dropping it ends those that were.
        let mut pool = Pool { shared, workers: Vec::with_capacity(n_threads) };
        for i in 1..n_threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("lm-worker-{i}"));
            pool.workers.push(thread.spawn(move || work(&shared, i))?);
        }
        Ok(pool)
    }

    /// Threads that may work on a job, the caller counted.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Has each thread fetch, at the end of the next job that it takes part in, the beginning of what it will read in
    /// the one after: of `share(i, n_threads)` for thread `i`, whose items begin at [`share_start`].
    pub fn then_read<'a>(&mut self, share: impl Fn(usize, usize) -> &'a [u8]) {
        let n_threads = self.n_threads();
        for (i, of_thread) in self.shared.shares.iter().enumerate() {
            of_thread.then.store(share(i, n_threads).as_ptr().cast_mut(), Ordering::Relaxed);
        }
    }

    /// Calls `run(i)` for each `i` in `0..n_items`, in any order, on any thread.
    ///
    /// # Panics
    /// When an item panics; the others are finished or never begun by then. When there are 2^32 items or more.
    pub fn for_each(&mut self, n_items: usize, run: impl Fn(usize) + Sync) {
        self.run(n_items, &run);
    }

    /// Cuts `data` into pieces of `len` (the last may be shorter) and calls `run(i, piece)` for each.
    ///
    /// # Panics
    /// When `len` is 0, or an item panics.
    pub fn for_chunks<T: Send>(
        &mut self,
        data: &mut [T],
        len: usize,
        run: impl Fn(usize, &mut [T]) + Sync,
    ) {
        if !data.is_empty() {
            let width = data.len();
            self.for_columns(Columns::new(data, width), len, |i, mut piece| run(i, piece.row(0)));
        }
    }

    /// As [`Pool::for_chunks`], with a piece of each of two slices; both are cut into as many.
    ///
    /// # Panics
    /// When they are not, or an item panics.
    pub fn for_chunks_of_two<T: Send, U: Send>(
        &mut self,
        (a, a_len): (&mut [T], usize),
        (b, b_len): (&mut [U], usize),
        run: impl Fn(usize, &mut [T], &mut [U]) + Sync,
    ) {
        let (n, n_b) = (a.len().div_ceil(a_len), b.len().div_ceil(b_len));
        assert_eq!(n, n_b, "both slices have a piece for each item");
        let (a_width, b_width) = (a.len(), b.len());
        if n == 0 {
            return;
        }
        let all = (Shareable(Columns::new(a, a_width)), Shareable(Columns::new(b, b_width)));
        let all = &all;
        self.run(n, &|i| {
            let piece = |width: usize, len: usize| i * len..width.min((i + 1) * len);
            // SAFETY: each item is taken once, and the pieces of different items do not overlap.
            let mut a = unsafe { all.0.0.unchecked_part(0..1, piece(a_width, a_len)) };
            // SAFETY: as above.
            let mut b = unsafe { all.1.0.unchecked_part(0..1, piece(b_width, b_len)) };
            run(i, a.row(0), b.row(0));
        });
    }

    /// Calls `run(i, piece)` for each piece `bounds[i]..bounds[i + 1]` of `data`.
    ///
    /// # Panics
    /// When `bounds` fall or leave `data`, or an item panics.
    pub fn for_pieces<T: Send>(
        &mut self,
        data: &mut [T],
        bounds: &[usize],
        run: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let width = data.len().max(1);
        let row = Columns::new(data, width);
        self.for_column_pieces(row, bounds, |i, mut piece| run(i, piece.row(0)));
    }

    /// Cuts the columns of a row-major matrix into pieces of `n` (the last may be narrower) and calls
    /// `run(i, piece)` for each.
    ///
    /// # Panics
    /// When `n` is 0, or an item panics.
    pub fn for_columns<T: Send>(
        &mut self,
        all: Columns<'_, T>,
        n: usize,
        run: impl Fn(usize, Columns<'_, T>) + Sync,
    ) {
        assert!(n > 0, "a piece has columns");
        let (n_rows, width) = (all.n_rows(), all.width());
        let all = Shareable(all);
        let all = &all;
        self.run(width.div_ceil(n), &|i| {
            let columns = i * n..width.min((i + 1) * n);
            // SAFETY: each item is taken once, and the columns of different items do not overlap.
            run(i, unsafe { all.0.unchecked_part(0..n_rows, columns) });
        });
    }

    /// As [`Pool::for_columns`], with columns `bounds[i]..bounds[i + 1]` for item `i`.
    ///
    /// # Panics
    /// When `bounds` fall or leave the matrix, or an item panics.
    pub fn for_column_pieces<T: Send>(
        &mut self,
        all: Columns<'_, T>,
        bounds: &[usize],
        run: impl Fn(usize, Columns<'_, T>) + Sync,
    ) {
        assert!(bounds.is_sorted(), "the pieces do not follow each other");
        let (end, n_rows, width) = (bounds.last().copied().unwrap_or(0), all.n_rows(), all.width());
        assert!(end <= width, "pieces up to {end} of {width} columns");
        let all = Shareable(all);
        let all = &all;
        self.run(bounds.len().saturating_sub(1), &|i| {
            // SAFETY: each item is taken once, and its columns lie behind those of the one before.
            run(i, unsafe { all.0.unchecked_part(0..n_rows, bounds[i]..bounds[i + 1]) });
        });
    }

    fn run(&mut self, n_items: usize, run: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if self.workers.is_empty() || n_items <= 1 {
            (0..n_items).for_each(run);
            return fetch(shared.shares[0].take_then());
        }
        // SAFETY: this only forgets the closure's lifetime. `Closing` sees to it that no worker is inside when
        // this function returns or unwinds, and workers call it only from inside.
        let forgotten: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static _>(run) };
        // SAFETY: no job is open and no worker inside, so nobody reads it now.
        unsafe { *shared.job.get() = Job { run: forgotten } };
        let n = u32::try_from(n_items).expect("a job has fewer than 2^32 items") as usize;
        let start = |i| share_start(n, i, shared.shares.len()) as u32;
        for (i, share) in shared.shares.iter().enumerate() {
            share.set(start(i)..start(i + 1));
        }
        let number = shared.state.load(Ordering::Relaxed) / JOB;
        shared.state.store((((number + 1) % (1 << 32)) * JOB) | OPEN, Ordering::SeqCst);
        if shared.n_parked.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }
        let closing = Closing(shared);
        take_items(shared, 0, run, || false);
        fetch(shared.shares[0].take_then());
        drop(closing);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its items panic with, so it ends in order.
            drop(worker.join());
        }
    }
}

/// Closes the job and waits until no worker is inside.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        // Nobody need begin another item when the caller's own one panicked.
        if std::thread::panicking() {
            shared.shares.iter().for_each(|share| share.set(0..0));
        }
        let mut state = shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        for _ in 0..WAIT_SPINS {
            if state & JOINED == 0 {
                return;
            }
            std::hint::spin_loop();
            state = shared.state.load(Ordering::Acquire);
        }
        *shared.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(current());
        // The caller says that it sleeps and then looks at the workers, a worker does the reverse: one of them sees
        // the other.
        shared.caller_sleeps.store(true, Ordering::SeqCst);
        while shared.state.load(Ordering::SeqCst) & JOINED > 0 {
            std::thread::park();
        }
        shared.caller_sleeps.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::worker::TURN;

    /// Miri is some thousand times slower.
    fn times(n: usize) -> usize {
        if cfg!(miri) { 2 } else { n }
    }

    #[test]
    fn every_item_runs_once_whatever_the_number_of_threads() {
        for n_threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(n_threads);
            for n_items in [0, 1, 2, 7, times(1000)] {
                for _ in 0..times(50) {
                    let mut counts = vec![0u32; n_items];
                    pool.for_chunks(&mut counts, 1, |i, piece| piece[0] += 1 + i as u32);
                    assert!(counts.iter().enumerate().all(|(i, &n)| n == 1 + i as u32));
                }
            }
        }
    }

    #[test]
    fn what_is_read_later_is_asked_for_once_and_changes_nothing() {
        let data = vec![7u8; 10];
        for n_threads in [1, 3] {
            let mut pool = Pool::new(n_threads);
            for n_items in [1, 8] {
                pool.then_read(|i, n| &data[10 * i / n..]);
                let is_left =
                    |pool: &Pool| !pool.shared.shares[0].then.load(Ordering::Relaxed).is_null();
                for (i, share) in pool.shared.shares.iter().enumerate() {
                    let start = data[10 * i / n_threads..].as_ptr();
                    assert_eq!(share.then.load(Ordering::Relaxed).cast_const(), start);
                }
                pool.for_each(n_items, |_| ());
                assert!(!is_left(&pool) && data == [7; 10]);
            }
        }
    }

    #[test]
    fn a_thread_alone_does_the_shares_of_all_in_order() {
        let pool = Pool::resting(3).unwrap();
        let shared = &pool.shared;
        [0..2, 2..5, 5..7]
            .into_iter()
            .zip(&shared.shares)
            .for_each(|(items, share)| share.set(items));
        let taken = Mutex::new(Vec::new());
        let take = |i| taken.lock().unwrap().push(i);
        let is_full = || taken.lock().unwrap().len() == 4;
        assert!(!take_items(shared, 1, &take, is_full), "it leaves in the middle");
        assert!(take_items(shared, 1, &take, || false), "and joins again");
        assert_eq!(taken.into_inner().unwrap(), [2, 3, 4, 6, 5, 1, 0]);
    }

    #[test]
    fn workers_that_offer_their_core_leave_no_item_behind() {
        let mut pool = Pool::new(3);
        for _ in 0..if cfg!(miri) { 1 } else { 5 } {
            let counts: Vec<AtomicUsize> = (0..30).map(|_| AtomicUsize::new(0)).collect();
            // Three of a worker's ten items are longer than its turn.
            pool.for_each(counts.len(), |i| {
                std::thread::sleep(TURN / 3);
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn pieces_of_two_slices_go_together() {
        let mut pool = Pool::new(2);
        let (mut a, mut b) = (vec![0; 10], vec![0; 5]);
        pool.for_chunks_of_two((&mut a, 4), (&mut b, 2), |i, a, b| {
            a.fill(i);
            b.fill(i + 1);
        });
        assert_eq!(a, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]);
        assert_eq!(b, [1, 1, 2, 2, 3]);
    }

    #[test]
    fn pieces_of_any_length_follow_each_other() {
        let mut pool = Pool::new(2);
        let mut data = vec![9; 7];
        pool.for_pieces(&mut data, &[1, 1, 4, 6], |i, piece| piece.fill(i));
        assert_eq!(data, [9, 1, 1, 1, 2, 2, 9]);
        pool.for_pieces(&mut data, &[], |_, _| unreachable!("there is no piece"));
        let beyond =
            catch_unwind(AssertUnwindSafe(|| pool.for_pieces(&mut data, &[0, 8], |_, _| ())));
        assert!(beyond.is_err());
    }

    #[test]
    fn columns_are_cut_between_threads() {
        let mut pool = Pool::new(2);
        let mut data = vec![0; 3 * 10];
        pool.for_columns(Columns::new(&mut data, 10), 4, |i, mut columns| {
            (0..3).for_each(|row| columns.row(row).fill(10 * row + i));
        });
        let row = |r: usize| [[10 * r; 4].as_slice(), &[10 * r + 1; 4], &[10 * r + 2; 2]].concat();
        assert_eq!(data, [row(0), row(1), row(2)].concat());
    }

    #[test]
    fn a_panic_in_an_item_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2);
        for _ in 0..times(100) {
            // One of the caller's share, and one of the worker's.
            for bad in [3, 40] {
                let run = || pool.for_each(64, |i| assert!(i != bad, "item {i}"));
                assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            }
            let n = AtomicUsize::new(0);
            pool.for_each(10, |_| {
                n.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(n.load(Ordering::Relaxed), 10);
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        wakes_up(Pool::new(2));
    }

    #[test]
    fn resting_workers_wake_up() {
        let pool = Pool::resting(2).unwrap();
        assert_eq!((pool.n_threads(), pool.shared.n_spins), (2, 0));
        wakes_up(pool);
    }

    fn wakes_up(mut pool: Pool) {
        for _ in 0..times(20) {
            while pool.shared.n_parked.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            // A worker takes part sooner or later: it may be late.
            let caller = current().id();
            let is_helped = AtomicBool::new(false);
            while !is_helped.load(Ordering::SeqCst) {
                pool.for_each(8, |_| {
                    is_helped.fetch_or(current().id() != caller, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(50));
                });
            }
        }
    }
}
