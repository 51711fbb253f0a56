//! Whether the wall clock goes as the monotonic one does.
//!
//! It must never change a time: it only says that those before and after a jump do not compare.
//!
//! Start reading at [`Clock::look`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use lm_panel::ClockJump;

/// What a clock that is slewed, or a process that waits for a core, may be off between two looks.
const LEAST_JUMP_MS: i128 = 2_000;

/// Looked at each few seconds.
pub(crate) struct Clock(Mutex<State>);

struct State {
    seen: (SystemTime, Instant),
    n_jumps: u64,
    /// By how many seconds, and when.
    last: Option<(i64, Instant)>,
}

impl Default for Clock {
    fn default() -> Self {
        let seen = (SystemTime::now(), Instant::now());
        Clock(Mutex::new(State { seen, n_jumps: 0, last: None }))
    }
}

impl Clock {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last jump since the start.
    pub(crate) fn look(&self) -> Option<ClockJump> {
        let mut state = self.state();
        let (wall, now) = (SystemTime::now(), Instant::now());
        let passed_ms = match wall.duration_since(state.seen.0) {
            Ok(ahead) => ahead.as_millis().cast_signed(),
            Err(back) => -back.duration().as_millis().cast_signed(),
        };
        let off_ms = passed_ms - now.duration_since(state.seen.1).as_millis().cast_signed();
        state.seen = (wall, now);
        if off_ms.abs() > LEAST_JUMP_MS {
            let by_s = i64::try_from((off_ms + 500).div_euclid(1000)).unwrap_or(i64::MAX);
            tracing::warn!(by_s, "the wall clock jumped, or the machine slept");
            (state.n_jumps, state.last) = (state.n_jumps + 1, Some((by_s, now)));
        }
        let (by_s, at) = state.last?;
        let (ago_s, n) = (now.duration_since(at).as_secs(), state.n_jumps);
        Some(ClockJump { by_s, ago_s, n })
    }

    pub(crate) fn n_jumps(&self) -> u64 {
        self.state().n_jumps
    }
}
