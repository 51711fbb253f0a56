//! The program's allocator.

/// glibc keeps what threads free in arenas of their own: each model that a new thread loads then takes memory that an
/// unload gives to no other thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in mimalloc 3, a name that the bindings leave out.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Gives freed pages back to the system at once instead of after seconds: what a burst took would else still be counted
/// against the memory limit when the next one comes. `MIMALLOC_PURGE_DELAY` (in ms) overrules it.
#[expect(unsafe_code, reason = "mimalloc has no other way to set an option")]
pub(crate) fn configure() {
    // SAFETY: writes one word of a table that is there from the start; no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 0) };
}
