//! One draw of a step: what it gave.
//!
//! It must never know other rows.
//!
//! Start reading at [`Draw`].

use lm_sampler::Sampled;
use lm_types::SeqId;

/// What sampling one row gave.
pub(crate) struct Draw {
    pub(crate) seq: SeqId,
    pub(crate) sampled: Result<Sampled, String>,
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked without a message".to_owned())
}
