//! Receipts that nobody needs any more.
//!
//! It must never forget a body that waits, or that was refused and is still there.
//!
//! Start reading at [`forget_receipts`].

use std::time::Duration;

use crate::home::{DatasetFolder, entries, sync_folder};
use crate::inbox::{self, Fate};
use crate::{DataError, DataHome};

/// The same rows under the same key are known for so long after they were added. Later they are new rows.
pub const RECEIPTS_KEPT: Duration = Duration::from_hours(30 * 24);

/// Removes the receipts of bodies that were added longer than [`RECEIPTS_KEPT`] before `now_ms`, in Unix milliseconds.
/// Returns how many. One that cannot be read stays.
///
/// # Errors
/// [`DataError::Io`].
pub fn forget_receipts(home: &DataHome, now_ms: u64) -> Result<u64, DataError> {
    let mut n_forgotten = 0;
    for name in entries(&home.0.join("datasets"))? {
        // What has no name of a dataset is none.
        let Ok(dataset) = home.dataset(&name) else { continue };
        n_forgotten += forget_of(&dataset, now_ms)?;
    }
    Ok(n_forgotten)
}

fn forget_of(dataset: &DatasetFolder, now_ms: u64) -> Result<u64, DataError> {
    let keys = dataset.inbox.join(inbox::KEYS);
    let kept_ms = u64::try_from(RECEIPTS_KEPT.as_millis()).unwrap_or(u64::MAX);
    let mut n_forgotten = 0;
    for file in entries(&keys)? {
        let is_old = match inbox::read_receipt(dataset, &file) {
            Ok(Some(receipt)) => match receipt.fate {
                Fate::Added { at_ms, .. } => now_ms.saturating_sub(at_ms) > kept_ms,
                Fate::Waiting | Fate::Refused { .. } => false,
            },
            // It is being written, or is damaged: whoever asks for it is told.
            Ok(None) | Err(DataError::Damaged { .. }) => false,
            Err(error) => return Err(error),
        };
        if is_old {
            let _lock = dataset.lock_inbox()?;
            n_forgotten += u64::from(inbox::remove_if_there(&keys.join(&file))?);
        }
    }
    if n_forgotten > 0 {
        sync_folder(&keys)?;
    }
    Ok(n_forgotten)
}
