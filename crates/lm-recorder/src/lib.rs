//! The flight recorder: a file of fixed size that holds the last steps of the engine and the requests in
//! flight. What was written survives the death of the process.
//!
//! It must never make the engine wait: what has no room is dropped and counted. It must never trust a record
//! whose checksum is wrong.
//!
//! Start reading at [`Recorder`] (in), then [`Flight`] (out), then `ring` (the file).

mod entry;
mod error;
mod flight;
mod forget;
mod recorder;
mod ring;
mod writer;

pub use error::RecorderError;
pub use flight::{Flight, InFlight, RecordedStep, RecordedToken};
pub use forget::{Forgotten, Remembered, forget};
pub use recorder::{Recorder, RecorderCounters, RecorderOptions};

#[cfg(test)]
mod tests;
