//! Versions: immutable rows under an id that is their digest, and what can be asked of them.
//!
//! It must never change what is published.
//!
//! Start reading at [`publish`](publish::publish), then [`diff`](diff::diff).

pub(crate) mod arrival;
pub(crate) mod checkout;
pub(crate) mod coverage;
pub(crate) mod diff;
pub(crate) mod gc;
pub(crate) mod join;
pub(crate) mod merkle;
pub(crate) mod new_folder;
pub(crate) mod proof;
pub(crate) mod publish;
pub(crate) mod release;
pub(crate) mod rows;
pub(crate) mod segment;
pub(crate) mod transfer;
