//! So many at once, and the others wait.
//!
//! It must never refuse: who waits blocks.
//!
//! Start reading at [`Turns::take`].

use std::sync::{Condvar, Mutex, PoisonError};

/// How many more may go on.
pub(crate) struct Turns {
    n_free: Mutex<usize>,
    freed: Condvar,
}

/// Given back when it is dropped.
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    pub(crate) const fn new(n_free: usize) -> Turns {
        Turns { n_free: Mutex::new(n_free), freed: Condvar::new() }
    }

    /// Blocks until there is one.
    pub(crate) fn take(&self) -> Turn<'_> {
        let n_free = self.n_free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_while(n_free, |n_free| *n_free == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.n_free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_than_so_many_are_at_it_at_once() {
        let (turns, n_now, n_most) = (Turns::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _turn = turns.take();
                        let n = n_now.fetch_add(1, Ordering::SeqCst) + 1;
                        n_most.fetch_max(n, Ordering::SeqCst);
                        std::thread::yield_now();
                        n_now.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=2).contains(&n_most.into_inner()));
    }
}
