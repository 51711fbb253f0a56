//! API keys: what a key looks like, the file that holds their hashes, and what each may use.
//!
//! It must never know HTTP or the engine, never read a clock, and never log, show or store a
//! secret: a key leaves this crate once, when it is made.
//!
//! Start reading at [`KeyRing`] (what a server asks), then [`KeyFile`] (what `lastmile keys`
//! writes) and [`Meter`] (what a key has used).

mod day;
mod error;
mod expiry;
mod file;
mod meter;
mod record;
mod ring;
mod secret;

pub use day::{Amounts, Budget};
pub use error::KeyError;
pub use expiry::{DAY_S, expires_at, since};
pub use file::{KeyFile, NewKey, Stamp};
pub use meter::{LimitKind, Meter, Now, OverLimit, Reservation};
pub use record::{KeyId, KeyLimits, KeyRecord, KeyState, Scope};
pub use ring::{AuthError, Holder, KeyRing};

#[cfg(test)]
mod tests;
