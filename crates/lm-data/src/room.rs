//! What may wait for a dataset, and what does.
//!
//! Bodies that broke the contract wait for another one, maybe for long. They count for who sent them, and are in nobody
//! else's way.
//!
//! It must never remove anything.
//!
//! Start reading at [`has_room`], then [`Refused`].

use std::collections::HashMap;

use serde::Serialize;

use crate::home::{DatasetFolder, entries};
use crate::inbox::{Fate, PART, format_of, read_receipt, receipt_of};
use crate::{DataError, DataHome};

/// What may wait to be added. When there is more, offers are refused: nothing that was taken is ever dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLimits {
    /// Bodies that wait to be added. A sender of whose bodies as many were refused may send no more.
    pub n_bodies: u64,
    /// Bytes of those that wait and of those that are being received. A sender of whose bytes as many were refused may
    /// send no more.
    pub size_bytes: u64,
    /// Bytes of one body.
    pub body_bytes: u64,
}

impl Default for InboxLimits {
    fn default() -> Self {
        InboxLimits { n_bodies: 1_000, size_bytes: 4 << 30, body_bytes: 1 << 30 }
    }
}

/// What waits for one dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Backlog {
    /// Bodies that wait to be added.
    pub n_bodies: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Bytes of bodies that are being received.
    pub receiving_bytes: u64,
    /// Bodies that were refused, and wait for another contract.
    pub refused_bodies: u64,
    /// Their bytes.
    pub refused_bytes: u64,
}

/// The bodies that were refused and are still there, by the names of their files: who sent them.
#[derive(Debug, Default)]
pub(crate) struct Refused(HashMap<String, Option<String>>);

impl Refused {
    /// Reads a receipt for each body that is there.
    pub(crate) fn of(dataset: &DatasetFolder) -> Result<Refused, DataError> {
        let mut refused = HashMap::new();
        for name in entries(&dataset.inbox)? {
            if format_of(&name).is_none() {
                continue;
            }
            match read_receipt(dataset, receipt_of(&name)) {
                Ok(Some(receipt)) if matches!(receipt.fate, Fate::Refused { .. }) => {
                    refused.insert(name, receipt.sender);
                }
                // Whoever adds it, or asks for it, is told that its receipt is damaged: until then it waits.
                Ok(_) | Err(DataError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Refused(refused))
    }

    /// Whether a sender may send more while these wait.
    pub(crate) fn has_room(
        &self,
        dataset: &DatasetFolder,
        limits: &InboxLimits,
        sender: Option<&str>,
    ) -> Result<(), DataError> {
        let (mut n_bodies, mut n_bytes) = (0, 0_u64);
        for (name, _) in self.0.iter().filter(|(_, of)| of.as_deref() == sender) {
            n_bodies += 1;
            n_bytes += size_of(dataset, name);
        }
        let (what, value, limit) = match (n_bodies, n_bytes) {
            (n, _) if n >= limits.n_bodies => ("bodies", n, limits.n_bodies),
            (_, n) if n >= limits.size_bytes => ("bytes", n, limits.size_bytes),
            _ => return Ok(()),
        };
        Err(DataError::RefusedFull { name: dataset.name.clone(), what, value, limit })
    }
}

/// What waits for a dataset.
///
/// # Errors
/// [`DataError::InvalidName`], [`DataError::Io`].
pub fn backlog(home: &DataHome, name: &str) -> Result<Backlog, DataError> {
    let dataset = home.dataset(name)?;
    backlog_of(&dataset, &Refused::of(&dataset)?)
}

/// Whether `more_bytes` may come; with `one_more` also whether another body may wait. What was `refused` is in nobody's
/// way.
pub(crate) fn has_room(
    dataset: &DatasetFolder,
    limits: &InboxLimits,
    refused: &Refused,
    one_more: bool,
    more_bytes: u64,
) -> Result<(), DataError> {
    let Backlog { n_bodies, size_bytes, receiving_bytes, .. } = backlog_of(dataset, refused)?;
    let full = |what, value, limit| {
        Err(DataError::InboxFull { name: dataset.name.clone(), what, value, limit })
    };
    if one_more && n_bodies >= limits.n_bodies {
        return full("bodies", n_bodies, limits.n_bodies);
    }
    let n_bytes = size_bytes.saturating_add(receiving_bytes);
    if n_bytes.saturating_add(more_bytes) > limits.size_bytes {
        return full("bytes", n_bytes, limits.size_bytes);
    }
    Ok(())
}

fn backlog_of(dataset: &DatasetFolder, refused: &Refused) -> Result<Backlog, DataError> {
    let mut backlog = Backlog::default();
    for name in entries(&dataset.inbox)? {
        let size = size_of(dataset, &name);
        if name.ends_with(PART) {
            backlog.receiving_bytes += size;
        } else if refused.0.contains_key(&name) {
            backlog.refused_bodies += 1;
            backlog.refused_bytes += size;
        } else if format_of(&name).is_some() {
            backlog.n_bodies += 1;
            backlog.size_bytes += size;
        }
    }
    Ok(backlog)
}

/// What is gone since the folder was listed takes no room.
fn size_of(dataset: &DatasetFolder, name: &str) -> u64 {
    dataset.inbox.join(name).metadata().map_or(0, |metadata| metadata.len())
}
