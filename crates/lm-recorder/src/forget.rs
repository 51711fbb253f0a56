//! Erasing from the rings of a home, in their place: what was asked, and what was answered.
//!
//! It must never take a record away that says when something happened: steps stay, without the erased answers' tokens.
//!
//! Start reading at [`forget`].

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use crate::RecorderError;
use crate::entry::{AGAIN, BEGUN, Begun, STEP, hide_tokens};
use crate::recorder::{crash_path, lock_path, private, ring_path};
use crate::ring::{Placed, placed, sealed};
use crate::writer::key_of;

/// One answer, as a ring knows it before its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered<'a> {
    /// The request, a UUID.
    pub id: &'a str,
    /// On whose behalf, as 16 hexadecimal digits; `None` came without a key.
    pub tenant: Option<&'a str>,
    /// On whose behalf the client says that it asked.
    pub subject: Option<&'a str>,
}

/// What was erased from a folder's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Answers that were picked.
    pub answers: usize,
    /// A process records there, so that its ring was left as it is: two that write at once would tear records.
    pub is_in_use: bool,
}

/// Takes prompts, parameters and tokens of the answers that `is_meant` picks out of a folder's rings, that of the last
/// crash included, and with them all that nobody can be found for: the rest of a record whose beginning is overwritten,
/// and tokens of such answers.
///
/// # Errors
/// The system refuses.
pub fn forget(
    folder: &Path,
    is_meant: impl Fn(Remembered<'_>) -> bool,
) -> Result<Forgotten, RecorderError> {
    let mut answers = BTreeSet::new();
    let lock = locked(folder)?;
    let rings = lock.is_some().then(|| ring_path(folder)).into_iter().chain([crash_path(folder)]);
    for path in rings {
        let io = |source| RecorderError::Io { what: "erase from", path: path.clone(), source };
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io(error)),
        };
        answers.extend(forget_in(&mut file, &is_meant).map_err(io)?);
    }
    Ok(Forgotten { answers: answers.len(), is_in_use: lock.is_none() })
}

/// The lock of who records; `None` when another process holds it. Without a folder nobody does.
fn locked(folder: &Path) -> Result<Option<Option<File>>, RecorderError> {
    if !folder.is_dir() {
        return Ok(Some(None));
    }
    let path = lock_path(folder);
    let lock = private(&path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Some(lock))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(RecorderError::Io { what: "lock", path, source }),
    }
}

/// The keys of the answers that were picked.
fn forget_in(
    file: &mut File,
    is_meant: &impl Fn(Remembered<'_>) -> bool,
) -> io::Result<BTreeSet<u64>> {
    let records = placed(file)?;
    blank_between(file, &records)?;
    let (mut keys, mut known) = (BTreeSet::new(), BTreeSet::new());
    for Placed { place, record } in &records {
        if !matches!(record.kind, BEGUN | AGAIN) {
            continue;
        }
        let Ok(begun) = serde_json::from_slice::<Begun>(&record.payload) else { continue };
        let Some(key) = key_of(&begun.id, begun.choice) else { continue };
        known.insert(key);
        let remembered = Remembered {
            id: &begun.id,
            tenant: begun.tenant.as_deref(),
            subject: begun.subject.as_deref(),
        };
        if is_meant(remembered) {
            keys.insert(key);
            let mut payload =
                serde_json::to_vec(&begun.without_text()).map_err(io::Error::other)?;
            // One that is not longer than this holds no text.
            if payload.len() < record.payload.len() {
                payload.resize(record.payload.len(), b' ');
                put(file, *place, &sealed(record, &payload))?;
            }
        }
    }
    for Placed { place, record } in records.iter().filter(|one| one.record.kind == STEP) {
        let mut payload = record.payload.clone();
        let is_kept = |key| known.contains(&key) && !keys.contains(&key);
        if hide_tokens(&mut payload, is_kept) {
            put(file, *place, &sealed(record, &payload))?;
        }
    }
    file.sync_data()?;
    Ok(keys)
}

/// Zeros in the place of what is in no whole record.
fn blank_between(file: &mut File, records: &[Placed]) -> io::Result<()> {
    let mut taken: Vec<(u64, u64)> = records.iter().map(Placed::range).collect();
    taken.sort_unstable();
    let end = file.metadata()?.len();
    let mut at = 0;
    for (place, next) in taken.into_iter().chain([(end, end)]) {
        if place > at {
            // A ring is small: at most as much as is read whole anyway.
            put(file, at, &vec![0; (place - at) as usize])?;
        }
        at = at.max(next);
    }
    Ok(())
}

fn put(file: &mut File, place: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(place))?;
    file.write_all(bytes)
}
