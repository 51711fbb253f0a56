//! Numbers so small that they cost more than others.
//! Must never change what other numbers give.
//! Start at [`flush_denormals`].

/// Makes this thread take denormal numbers for zero, as all threads of a pool do: they cost two to four
/// times as much, and results must not depend on who computes them.
#[cfg_attr(
    all(target_arch = "x86_64", not(miri)),
    expect(deprecated, reason = "setting two sticky bits of MXCSR is what the intrinsic is for")
)]
pub fn flush_denormals() {
    // Miri does not know this register.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_mm_getcsr, _mm_setcsr};
        const FLUSH_TO_ZERO: u32 = 1 << 15;
        const DENORMALS_ARE_ZERO: u32 = 1 << 6;
        // SAFETY: SSE is part of x86_64; the two bits change how denormals round, and mask no exception.
        unsafe { _mm_setcsr(_mm_getcsr() | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO) }
    }
}
