//! One thread's part of a job, and what it fetches behind it.
//! Must never know what is computed.
//! Start at [`Share::take`].

use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What a thread that has nothing left to do asks memory for.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const FETCHED_BYTES: usize = 8 << 10;

/// One thread's part of a job. Alone on its cache lines.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Share {
    /// Items that nobody has taken yet: the first in the lower half, the end in the upper.
    left: AtomicU64,
    /// What the thread reads after the job: only ever an address to fetch, never one to read.
    pub(crate) then: AtomicPtr<u8>,
}

impl Share {
    pub(crate) fn set(&self, items: Range<u32>) {
        self.left.store(u64::from(items.end) << 32 | u64::from(items.start), Ordering::Relaxed);
    }

    /// Takes the first item, or the last.
    pub(crate) fn take(&self, is_first: bool) -> Option<usize> {
        let mut left = self.left.load(Ordering::Relaxed);
        loop {
            let (start, end) = (left as u32, (left >> 32) as u32);
            if start >= end {
                return None;
            }
            let (item, rest) = match is_first {
                true => (start, left + 1),
                false => (end - 1, left - (1 << 32)),
            };
            let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.left.compare_exchange_weak(left, rest, set, failed) {
                Ok(_) => return Some(item as usize),
                Err(now) => left = now,
            }
        }
    }

    /// What the thread is to fetch, once.
    pub(crate) fn take_then(&self) -> *mut u8 {
        self.then.swap(null_mut(), Ordering::Relaxed)
    }
}

/// The item of a job of `n_items` at which the share of thread `i` of `n_threads` begins, where one takes part.
#[must_use]
pub fn share_start(n_items: usize, i: usize, n_threads: usize) -> usize {
    (n_items as u64 * i as u64 / n_threads as u64) as usize
}

/// Whether the share of another thread than the first begins at this item.
#[must_use]
pub fn begins_share(n_items: usize, item: usize, n_threads: usize) -> bool {
    // The first share that begins there or later.
    let i = (item as u64 * n_threads as u64).div_ceil(n_items.max(1) as u64) as usize;
    item > 0 && share_start(n_items, i, n_threads) == item
}

/// Asks memory for what begins at `start`, if that is anywhere.
pub(crate) fn fetch(start: *mut u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for at in (0..FETCHED_BYTES).step_by(64).filter(|_| !start.is_null()) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: SSE is part of x86_64, and a hint reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(at).cast()) };
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = start;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginnings_of_shares_are_known() {
        for n_threads in 1..10 {
            for n_items in 0..40 {
                let starts: Vec<_> =
                    (1..n_threads).map(|i| share_start(n_items, i, n_threads)).collect();
                for item in 0..n_items {
                    let begins = item > 0 && starts.contains(&item);
                    assert_eq!(
                        begins_share(n_items, item, n_threads),
                        begins,
                        "{item} of {n_items}"
                    );
                }
            }
        }
    }
}
