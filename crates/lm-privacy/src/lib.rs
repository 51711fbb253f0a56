//! What is personal in a text, and how it is withheld: masked by its shape, or told apart by a keyed hash.
//!
//! It must never repeat what it found, never do I/O, and never know where texts go.
//!
//! Start reading at [`mask`], then [`MacKey`].

mod mac;
mod personal;

pub use mac::MacKey;
pub use personal::{Kind, mask, secret};
