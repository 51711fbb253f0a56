//! Memory for weights and the KV cache: an anonymous mapping on huge pages, which make a scan faster.
#![expect(unsafe_code, reason = "an anonymous mapping, and advice to the kernel about it")]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memory::{map, unmap};

/// A number of which all bit patterns are values, zero bytes among them.
///
/// # Safety
/// It has no padding, no niche and no pointer.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: a whole number.
unsafe impl Plain for u8 {}
// SAFETY: a whole number.
unsafe impl Plain for u16 {}

/// Zeroed numbers on a mapping of their own.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    start: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone, as the memory of a `Box<[T]>` does.
unsafe impl<T: Plain + Send> Send for Arena<T> {}
// SAFETY: shared references give shared slices of plain numbers only.
unsafe impl<T: Plain + Sync> Sync for Arena<T> {}

impl<T: Plain> Arena<T> {
    /// `len` zeroed numbers; the system backs them with huge pages if it can, and when they are touched.
    ///
    /// # Errors
    /// The system has no such room.
    pub(crate) fn new(len: usize) -> std::io::Result<Self> {
        let owns = PhantomData;
        if len == 0 {
            return Ok(Arena { start: NonNull::dangling(), len, owns });
        }
        let too_long = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let n_bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_long)?;
        Ok(Arena { start: map(n_bytes)?.cast(), len, owns })
    }
}

impl<T> Deref for Arena<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: start and len are those of the mapping, which is page-aligned, zeroed or written with numbers,
        // readable, and lives as long as this.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Arena<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and writable; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Arena<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping was made in `new` with as many bytes, and no borrow outlives this value.
            unsafe { unmap(self.start.cast(), self.len * size_of::<T>()) };
        }
    }
}

/// Memory from the system.
#[cfg(not(miri))]
mod memory {
    use std::ptr::{NonNull, null_mut};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    /// A new mapping of `n_bytes` zeros, over 0.
    pub(super) fn map(n_bytes: usize) -> std::io::Result<NonNull<u8>> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the system's choice aliases nothing.
        let start = unsafe { mmap_anonymous(null_mut(), n_bytes, protection, MapFlags::PRIVATE)? };
        // SAFETY: the range is the mapping just made. Systems without huge pages refuse; that costs speed only.
        let _ = unsafe { madvise(start, n_bytes, Advice::LinuxHugepage) };
        Ok(NonNull::new(start.cast()).expect("a mapping is not at address 0"))
    }

    /// # Safety
    /// [`map`] gave `start` for as many bytes, and nobody uses them any more.
    pub(super) unsafe fn unmap(start: NonNull<u8>, n_bytes: usize) {
        // SAFETY: as the caller promises.
        let _ = unsafe { munmap(start.as_ptr().cast(), n_bytes) };
    }
}

/// Memory from the heap: Miri has no mappings, and checks every access to this.
#[cfg(miri)]
mod memory {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::io::{Error, ErrorKind};
    use std::ptr::NonNull;

    const PAGE: usize = 4096;

    pub(super) fn map(n_bytes: usize) -> std::io::Result<NonNull<u8>> {
        let layout = Layout::from_size_align(n_bytes, PAGE);
        let layout = layout.map_err(|_| Error::from(ErrorKind::OutOfMemory))?;
        // SAFETY: `n_bytes` is over 0.
        NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(ErrorKind::OutOfMemory.into())
    }

    /// # Safety
    /// [`map`] gave `start` for as many bytes, and nobody uses them any more.
    pub(super) unsafe fn unmap(start: NonNull<u8>, n_bytes: usize) {
        // SAFETY: `map` made this layout of the same size, and nobody else frees it.
        unsafe { dealloc(start.as_ptr(), Layout::from_size_align_unchecked(n_bytes, PAGE)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_zeroed_and_keeps_what_is_written() {
        let many = if cfg!(miri) { 5_000 } else { 5_000_000 };
        for len in [0, 1, many] {
            let mut arena = Arena::<u16>::new(len).expect("there is room");
            assert!(arena.len() == len && arena.iter().all(|&x| x == 0));
            arena.fill(0x0777);
            assert!(arena.iter().all(|&x| x == 0x0777));
        }
        assert!(Arena::<u16>::new(usize::MAX).is_err());
    }
}
