//! Erasing from the rings of a home, in their place: what was asked, and what was answered.
//!
//! It must never take a record away that says when something happened: steps stay, without the erased answers' tokens.
//!
//! Start reading at [`forget`].

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use crate::RecorderError;
use crate::entry::{AGAIN, BEGUN, Begun, STEP, hide_tokens};
use crate::recorder::{crash_path, ring_path};
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

/// Takes prompts, parameters and tokens of the answers that `is_meant` picks out of a folder's rings, that of the last
/// crash included. Says how many answers it was. What a process that records now tells again later is not touched.
///
/// # Errors
/// The system refuses.
pub fn forget(
    folder: &Path,
    is_meant: impl Fn(Remembered<'_>) -> bool,
) -> Result<usize, RecorderError> {
    let mut answers = BTreeSet::new();
    for path in [ring_path(folder), crash_path(folder)] {
        let io = |source| RecorderError::Io { what: "erase from", path: path.clone(), source };
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io(error)),
        };
        answers.extend(forget_in(&mut file, &is_meant).map_err(io)?);
    }
    Ok(answers.len())
}

/// The keys of the answers that were picked.
fn forget_in(
    file: &mut File,
    is_meant: &impl Fn(Remembered<'_>) -> bool,
) -> io::Result<BTreeSet<u64>> {
    let records = placed(file)?;
    let mut keys = BTreeSet::new();
    for Placed { place, record } in &records {
        if !matches!(record.kind, BEGUN | AGAIN) {
            continue;
        }
        let Ok(begun) = serde_json::from_slice::<Begun>(&record.payload) else { continue };
        let Some(key) = key_of(&begun.id, begun.choice) else { continue };
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
        if hide_tokens(&mut payload, &keys) {
            put(file, *place, &sealed(record, &payload))?;
        }
    }
    file.sync_data()?;
    Ok(keys)
}

fn put(file: &mut File, place: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(place))?;
    file.write_all(bytes)
}
