//! Whether the disk has room for what is sent.
//!
//! It must never count what has a limit of its own: this is the last one.
//!
//! Start reading at [`has_space`].

use std::path::Path;

use crate::DataError;
use crate::error::io_error;

/// So much stays free whatever is sent: versions, reports and the store are written there, too.
const MIN_FREE_BYTES: u64 = 256 << 20;

/// Whether a body of which so many bytes are known can come, be staged and be published.
///
/// # Errors
/// [`DataError::DiskFull`], [`DataError::Io`].
pub(crate) fn has_space(folder: &Path, body_bytes: u64) -> Result<(), DataError> {
    free_bytes(folder)?.map_or(Ok(()), |free_bytes| is_enough(folder, free_bytes, body_bytes))
}

fn is_enough(folder: &Path, free_bytes: u64, body_bytes: u64) -> Result<(), DataError> {
    // Its rows are written once more when they are staged, and again when they are published.
    let needed_bytes = MIN_FREE_BYTES.max(body_bytes.saturating_mul(2));
    if free_bytes < needed_bytes {
        return Err(DataError::DiskFull { path: folder.to_owned(), free_bytes, needed_bytes });
    }
    Ok(())
}

/// `None` when the file system does not say.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Result<Option<u64>, DataError> {
    let told = rustix::fs::statvfs(folder)
        .map_err(|error| io_error("ask for the free space of", folder)(error.into()))?;
    let free_bytes = told.f_bavail.saturating_mul(told.f_frsize);
    Ok((told.f_blocks > 0).then_some(free_bytes))
}

#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Result<Option<u64>, DataError> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(free_bytes: u64, body_bytes: u64, expect: Option<u64>) {
        let needed = match is_enough(Path::new("inbox"), free_bytes, body_bytes) {
            Ok(()) => None,
            Err(DataError::DiskFull { needed_bytes, .. }) => Some(needed_bytes),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(needed, expect);
    }

    #[test]
    fn some_stays_free_and_a_large_body_needs_more() {
        check(256 << 20, 0, None);
        check((256 << 20) - 1, 0, Some(256 << 20));
        check(1 << 30, 1 << 29, None);
        check((1 << 30) - 1, 1 << 29, Some(1 << 30));
        check(u64::MAX - 1, u64::MAX, Some(u64::MAX));
    }

    #[cfg(unix)]
    #[test]
    fn the_disk_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let free_bytes = free_bytes(folder.path()).unwrap().unwrap();
        let error = has_space(folder.path(), u64::MAX).unwrap_err();
        assert!(free_bytes > 0 && matches!(error, DataError::DiskFull { .. }), "{error}");
    }
}
