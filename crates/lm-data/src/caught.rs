//! A panic as what it said, where it may cost one row or one source but not the rest.
//!
//! It must never hide one: who catches it names the row or the source that it was about.
//!
//! Start reading at [`caught`].

use std::panic::{AssertUnwindSafe, catch_unwind};

const MAX_CHARS: usize = 300;

/// Does `work`, or says with what words it panicked. What it changed must not be relied on then.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "something that is no text".to_owned());
        text.chars().take(MAX_CHARS).collect()
    })
}
