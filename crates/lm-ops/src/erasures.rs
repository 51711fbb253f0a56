//! That something was erased in a home, told to the servers that run there: what they hold in memory goes, too.
//!
//! It must never hold what was erased, or whose it was.
//!
//! Start reading at [`note_erasure`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

fn path(home: &Path) -> PathBuf {
    home.join("last-erasure")
}

/// Notes that something was erased just now.
///
/// # Errors
/// The file cannot be written.
pub fn note_erasure(home: &Path) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    std::fs::write(path(home), format!("{} {}\n", now.as_nanos(), std::process::id()))
}

/// The last such note; it changes with each erasure. `None` before the first.
#[must_use]
pub fn last_erasure(home: &Path) -> Option<String> {
    std::fs::read_to_string(path(home)).ok()
}
