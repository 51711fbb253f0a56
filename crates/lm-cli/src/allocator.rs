//! How the program's allocator keeps memory.
//!
//! The system's allocator is used as it is, but for glibc's habits, which are those of a program that runs alone: it
//! raises by itself the size from which it gives memory straight back, and keeps an arena for each thread, so that what
//! one thread freed (a model's file, a burst of bodies) is given neither to another nor to the system.

/// From this size on an allocation is a mapping of its own, which goes back to the system when it is freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 256 << 10;
/// Arenas: enough that threads seldom wait for each other, few enough that little lies about in them.
#[cfg(target_env = "gnu")]
const MAX_ARENAS: libc::c_int = 4;
/// How much free memory may stay at the end of an arena.
#[cfg(target_env = "gnu")]
const TRIMMED_FROM_BYTES: libc::c_int = 1 << 20;

/// Sets what the tables of glibc start with. `GLIBC_TUNABLES` is overruled.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has no other way to set an option")]
pub(crate) fn configure() {
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_ARENA_MAX, MAX_ARENAS),
        (libc::M_TRIM_THRESHOLD, TRIMMED_FROM_BYTES),
    ] {
        // SAFETY: takes two integers and locks what it changes.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Other systems' allocators are used as they are.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn configure() {}
