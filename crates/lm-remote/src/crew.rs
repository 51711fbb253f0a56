//! Several files at a time, and how far they are.
//!
//! It must never know what is done with a file.
//!
//! Start reading at [`each`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::RemoteError;

/// Files that are moved at a time.
const WORKERS: usize = 4;

/// How far the files of rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes that were moved.
    pub done_bytes: u64,
    /// Bytes to move.
    pub size_bytes: u64,
}

/// Hears of progress, on any thread.
pub type OnProgress<'a> = dyn Fn(Transferred) + Sync + 'a;

/// What is moved, counted over all threads.
pub(crate) struct Counted<'a> {
    done_bytes: AtomicU64,
    size_bytes: u64,
    tell: &'a OnProgress<'a>,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(size_bytes: u64, tell: &'a OnProgress<'a>) -> Self {
        Counted { done_bytes: AtomicU64::new(0), size_bytes, tell }
    }

    pub(crate) fn add(&self, n_bytes: usize) {
        let n_bytes = n_bytes as u64;
        let done_bytes = self.done_bytes.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes;
        (self.tell)(Transferred { done_bytes, size_bytes: self.size_bytes });
    }
}

/// Does the work for each item, several at a time. After a failure no other item is begun.
///
/// # Errors
/// The first one.
pub(crate) fn each<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), RemoteError> + Sync,
) -> Result<(), RemoteError> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<RemoteError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(item) {
                        next.store(items.len(), Ordering::Relaxed);
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        failure.get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
