//! Memory for weights and the KV cache: an anonymous mapping on huge pages, which make a scan faster.
#![expect(unsafe_code, reason = "an anonymous mapping, and advice to the kernel about it")]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memory::{map, populate, unmap};

/// Bytes that are taken from the system at a time: as many as a huge page, for which some systems take milliseconds.
const PIECE: usize = 2 << 20;
/// How long nobody must have computed before a piece is taken.
const QUIET: Duration = Duration::from_millis(20);
/// After so long one is taken all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How many compute in this process now, and how often that changed.
static N_HELD: AtomicUsize = AtomicUsize::new(0);
static N_CHANGES: AtomicUsize = AtomicUsize::new(0);
/// The part of one core that taking memory beforehand may use: one in so many.
const ONE_IN: u32 = 4;

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
    toucher: Option<Toucher>,
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
            return Ok(Arena { start: NonNull::dangling(), len, owns, toucher: None });
        }
        let too_long = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let n_bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_long)?;
        Ok(Arena { start: map(n_bytes)?.cast(), len, owns, toucher: None })
    }

    /// Has the system back all of it from now on, on a thread that goes gently, and gentler while somebody computes, so that what
    /// is planned is taken early and memory in use stays where it is. What is touched before is backed then, and so is all
    /// where the system cannot do it early.
    pub(crate) fn touch_all(&mut self) {
        let n_bytes = self.len * size_of::<T>();
        if self.toucher.is_none() && n_bytes > 0 {
            self.toucher = Toucher::start(self.start.cast(), n_bytes);
        }
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
        self.toucher = None;
        if self.len > 0 {
            // SAFETY: the mapping was made in `new` with as many bytes, and no borrow outlives this value.
            unsafe { unmap(self.start.cast(), self.len * size_of::<T>()) };
        }
    }
}

/// A thread that has the system back a mapping; gone when this is dropped.
#[derive(Debug)]
struct Toucher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Somebody computes until it is dropped, and needs the cores: little is taken from the system meanwhile.
#[derive(Debug)]
pub(crate) struct Held(());

impl Held {
    pub(crate) fn new() -> Self {
        N_HELD.fetch_add(1, Ordering::Relaxed);
        N_CHANGES.fetch_add(1, Ordering::Relaxed);
        Held(())
    }

    fn is_anywhere() -> bool {
        N_HELD.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        N_HELD.fetch_sub(1, Ordering::Relaxed);
        N_CHANGES.fetch_add(1, Ordering::Relaxed);
    }
}

impl Toucher {
    /// `None` where no thread can be had: the mapping works all the same.
    fn start(start: NonNull<u8>, n_bytes: usize) -> Option<Self> {
        let (stop, first) = (Arc::new(AtomicBool::new(false)), start.as_ptr().expose_provenance());
        let is_over = Arc::clone(&stop);
        let touch = move || {
            let mut pieces = (0..n_bytes).step_by(PIECE);
            let (mut seen, mut rest) = (N_CHANGES.load(Ordering::Relaxed), Duration::ZERO);
            let mut taken = Instant::now();
            loop {
                std::thread::park_timeout(rest);
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let n_changes = N_CHANGES.load(Ordering::Relaxed);
                let is_quiet = n_changes == seen && !Held::is_anywhere();
                seen = n_changes;
                if !is_quiet && taken.elapsed() < LONGEST_WAIT {
                    rest = QUIET;
                    continue;
                }
                let Some(at) = pieces.next() else { return };
                let begun = Instant::now();
                // SAFETY: the range is within the mapping, which outlives this thread: `Arena` drops the toucher first.
                let is_backed = unsafe { populate(first + at, PIECE.min(n_bytes - at)) };
                if !is_backed {
                    return;
                }
                taken = Instant::now();
                rest = (ONE_IN - 1) * begun.elapsed().max(Duration::from_micros(100));
            }
        };
        let thread = std::thread::Builder::new().name("lm-touch".into()).spawn(touch).ok()?;
        Some(Toucher { stop, thread: Some(thread) })
    }
}

impl Drop for Toucher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It holds nothing that a panic could have left half done.
            let _ = thread.join();
        }
    }
}

/// Memory from the system.
#[cfg(not(miri))]
mod memory {
    use std::ptr::{NonNull, null_mut};

    #[cfg(target_os = "linux")]
    use rustix::mm::{Advice, madvise};
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    /// A new mapping of `n_bytes` zeros, over 0.
    pub(super) fn map(n_bytes: usize) -> std::io::Result<NonNull<u8>> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the system's choice aliases nothing.
        let start = unsafe { mmap_anonymous(null_mut(), n_bytes, protection, MapFlags::PRIVATE)? };
        #[cfg(target_os = "linux")]
        // SAFETY: the range is the mapping just made. Systems without huge pages refuse; that costs speed only.
        let _ = unsafe { madvise(start, n_bytes, Advice::LinuxHugepage) };
        Ok(NonNull::new(start.cast()).expect("a mapping is not at address 0"))
    }

    /// Backs a part of a mapping, whose content stays as it is; whether the system did.
    ///
    /// # Safety
    /// The range lies within a mapping of [`map`] that stays until this returns.
    pub(super) unsafe fn populate(start: usize, n_bytes: usize) -> bool {
        #[cfg(target_os = "linux")]
        {
            let start = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: as the caller promises; populating writes nothing that a reader could tell.
            unsafe { madvise(start, n_bytes, Advice::LinuxPopulateWrite) }.is_ok()
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (start, n_bytes);
            false
        }
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
    /// None: the heap is backed already.
    pub(super) unsafe fn populate(_start: usize, _n_bytes: usize) -> bool {
        false
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

    #[test]
    fn touching_changes_no_content_and_ends_with_the_arena() {
        let many = if cfg!(miri) { 5_000 } else { 20_000_000 };
        let mut arena = Arena::<u16>::new(many).expect("there is room");
        arena.touch_all();
        let held = Held::new();
        assert!(Held::is_anywhere());
        arena.fill(0x0777);
        std::thread::sleep(Duration::from_millis(20));
        drop(held);
        std::thread::sleep(Duration::from_millis(20));
        assert!(arena.iter().all(|&x| x == 0x0777));
        drop(arena);
    }
}
