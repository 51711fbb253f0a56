//! Getting model files: where they are installed, which are, and pulling those that are not.
//!
//! It must never know what is in a model file: bytes have a size and a SHA-256, and these decide.
//!
//! Start reading at [`pull()`], then [`locate`].

mod digest;
mod error;
mod home;
mod hub;
mod install;
mod package;
mod progress;
mod pull;
mod record;

#[cfg(all(test, unix))]
mod tests;

pub(crate) use digest::from_hex;
pub use error::{Attempt, FetchError};
pub use home::Home;
pub use progress::{NoProgress, Progress};
pub use pull::{PullOptions, pull};
pub(crate) use record::recorded_sha256;
pub use record::{Installed, InstalledFile, installed, locate, remove};
