//! Memory for weights: one anonymous mapping on huge pages, which halve the time of a scan.
#![expect(unsafe_code, reason = "an anonymous mapping, and advice to the kernel about it")]

use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Zeroed bytes on a mapping of their own.
#[derive(Debug)]
pub(crate) struct Arena {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, as the memory of a `Box<[u8]>` does.
unsafe impl Send for Arena {}
// SAFETY: shared references give shared slices of plain bytes only.
unsafe impl Sync for Arena {}

impl Arena {
    /// `len` zeroed bytes; the system backs them with huge pages if it can.
    ///
    /// # Errors
    /// The system has no such room.
    pub(crate) fn new(len: usize) -> std::io::Result<Self> {
        if len == 0 {
            return Ok(Arena { start: NonNull::dangling(), len });
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the system's choice aliases nothing.
        let start = unsafe { mmap_anonymous(null_mut(), len, protection, MapFlags::PRIVATE)? };
        // SAFETY: the range is the mapping just made. Systems without huge pages refuse; that costs speed only.
        let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
        let start = NonNull::new(start.cast()).expect("a mapping is not at address 0");
        Ok(Arena { start, len })
    }
}

impl Deref for Arena {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start and len are those of the mapping, which is readable and lives as long as this.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and writable; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping was made in `new`, and no borrow outlives this value.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_zeroed_and_keeps_what_is_written() {
        for len in [0, 1, 5_000_000] {
            let mut arena = Arena::new(len).expect("there is room");
            assert!(arena.len() == len && arena.iter().all(|&byte| byte == 0));
            arena.fill(7);
            assert!(arena.iter().all(|&byte| byte == 7));
        }
    }
}
