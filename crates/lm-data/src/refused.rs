//! The bodies that were refused and wait for another contract: who sent them, and how large they are.
//!
//! Their receipts say so. A process reads those once; then it knows by heart, and changes what it knows with what it
//! writes, so that who sends opens no file for what others' contracts refused.
//!
//! What holds: everything here happens under the lock of the inbox, whose file has a number. Who changes what is refused
//! writes another number first, then the receipt. So another process, or whoever comes after one that was killed between
//! the two, finds a number that it does not know and reads all receipts again. A power cut may lose the number, but it
//! ends all that knew one. A body that somebody removes by hand is not found by who lists the inbox, and counts no more.
//!
//! It must never be asked without the lock.
//!
//! Start reading at [`Refused::of`], then [`note`].

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::DataError;
use crate::error::io_error;
use crate::home::{DatasetFolder, entries};
use crate::inbox::{Fate, format_of, read_receipt, receipt_of};
use crate::ingest::now_ms;

/// Inboxes that a process knows by heart. When there are more, one is forgotten, and read again when it is asked for.
const MAX_INBOXES: usize = 64;

static MEMORY: Mutex<BTreeMap<PathBuf, Known>> = Mutex::new(BTreeMap::new());

/// The bodies that were refused, by the names of their files. Some may have been removed by hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refused(Arc<HashMap<String, Body>>);

/// A body that was refused.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) sender: Option<String>,
    pub(crate) size_bytes: u64,
}

/// What was known when the inbox's lock had this number, which is never 0.
struct Known {
    number: u64,
    refused: Refused,
}

impl Refused {
    /// What was refused of a dataset, whose inbox is locked by `lock`.
    pub(crate) fn of(dataset: &DatasetFolder, lock: &File) -> Result<Refused, DataError> {
        let mut number = number_of(dataset, lock)?;
        if let Some(known) = memory().get(&dataset.inbox).filter(|known| known.number == number) {
            return Ok(known.refused.clone());
        }
        if number == 0 {
            number = renumber(dataset, lock)?;
        }
        let refused = Refused(Arc::new(read(dataset)?));
        let mut memory = memory();
        if memory.len() >= MAX_INBOXES {
            memory.pop_first();
        }
        memory.insert(dataset.inbox.clone(), Known { number, refused: refused.clone() });
        Ok(refused)
    }

    /// The body in a file of the inbox, if it was refused.
    pub(crate) fn body(&self, file: &str) -> Option<&Body> {
        self.0.get(file)
    }
}

/// Writes a receipt by which the body in `file` is refused from now on, or without a `body` no longer. The inbox is locked
/// by `lock`.
pub(crate) fn note(
    dataset: &DatasetFolder,
    lock: &File,
    file: &str,
    body: Option<Body>,
    write: impl FnOnce() -> Result<(), DataError>,
) -> Result<(), DataError> {
    let before = number_of(dataset, lock)?;
    let number = renumber(dataset, lock)?;
    write()?;
    if let Some(known) = memory().get_mut(&dataset.inbox).filter(|known| known.number == before) {
        let bodies = Arc::make_mut(&mut known.refused.0);
        match body {
            Some(body) => bodies.insert(file.to_owned(), body),
            None => bodies.remove(file),
        };
        known.number = number;
    }
    Ok(())
}

/// Reads a receipt for each body that is there.
fn read(dataset: &DatasetFolder) -> Result<HashMap<String, Body>, DataError> {
    let mut refused = HashMap::new();
    for file in entries(&dataset.inbox)? {
        if format_of(&file).is_none() {
            continue;
        }
        match read_receipt(dataset, receipt_of(&file)) {
            Ok(Some(receipt)) if matches!(receipt.fate, Fate::Refused { .. }) => {
                let body = Body { sender: receipt.sender, size_bytes: receipt.size_bytes };
                refused.insert(file, body);
            }
            // Whoever adds it, or asks for it, is told that its receipt is damaged: until then it waits.
            Ok(_) | Err(DataError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// The number of the lock, 0 in a new one.
fn number_of(dataset: &DatasetFolder, mut lock: &File) -> Result<u64, DataError> {
    let mut bytes = [0; 8];
    let read = lock.rewind().and_then(|()| lock.read_exact(&mut bytes));
    match read {
        Ok(()) => Ok(u64::from_le_bytes(bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(io_error("read", &dataset.inbox_lock())(error)),
    }
}

/// Gives the lock a number that it never had, nor one at the same place in a folder that was removed.
fn renumber(dataset: &DatasetFolder, mut lock: &File) -> Result<u64, DataError> {
    let number = number_of(dataset, lock)?.wrapping_add(1).max(now_ms()).max(1);
    let written = lock.rewind().and_then(|()| lock.write_all(&number.to_le_bytes()));
    written.map_err(io_error("write", &dataset.inbox_lock()))?;
    Ok(number)
}

fn memory() -> MutexGuard<'static, BTreeMap<PathBuf, Known>> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}
