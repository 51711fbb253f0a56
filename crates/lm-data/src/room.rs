//! What may wait for a dataset, and what does.
//!
//! Bodies that broke the contract wait for another one, maybe for long. They count for who sent them, and are in nobody
//! else's way: of them a look reads the names alone.
//!
//! It must never remove anything.
//!
//! Start reading at [`Room::look`], then [`Room::for_body`].

use serde::Serialize;

use crate::home::{DatasetFolder, entries};
use crate::inbox::{PART, format_of};
use crate::refused::Refused;
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

/// What takes room for one dataset, and for one sender.
pub(crate) struct Room {
    dataset: String,
    backlog: Backlog,
    /// Bodies of the sender that were refused.
    own_refused: u64,
    /// Their bytes.
    own_refused_bytes: u64,
}

impl Room {
    /// Lists what is there. What is gone since it was `refused` takes no room.
    pub(crate) fn look(
        dataset: &DatasetFolder,
        refused: &Refused,
        sender: Option<&str>,
    ) -> Result<Room, DataError> {
        let (mut backlog, mut own_refused, mut own_refused_bytes) = (Backlog::default(), 0, 0);
        for name in entries(&dataset.inbox)? {
            if name.ends_with(PART) {
                backlog.receiving_bytes += size_of(dataset, &name);
            } else if let Some(body) = refused.body(&name) {
                backlog.refused_bodies += 1;
                backlog.refused_bytes += body.size_bytes;
                if body.sender.as_deref() == sender {
                    own_refused += 1;
                    own_refused_bytes += body.size_bytes;
                }
            } else if format_of(&name).is_some() {
                backlog.n_bodies += 1;
                backlog.size_bytes += size_of(dataset, &name);
            }
        }
        Ok(Room { dataset: dataset.name.clone(), backlog, own_refused, own_refused_bytes })
    }

    /// Whether the sender may send more while what was refused waits.
    pub(crate) fn for_sender(&self, limits: &InboxLimits) -> Result<(), DataError> {
        let (what, value, limit) = match (self.own_refused, self.own_refused_bytes) {
            (n, _) if n >= limits.n_bodies => ("bodies", n, limits.n_bodies),
            (_, n) if n >= limits.size_bytes => ("bytes", n, limits.size_bytes),
            _ => return Ok(()),
        };
        Err(DataError::RefusedFull { name: self.dataset.clone(), what, value, limit })
    }

    /// Whether `more_bytes` may come; with `one_more` also whether another body may wait. What was refused is in nobody's
    /// way.
    pub(crate) fn for_body(
        &self,
        limits: &InboxLimits,
        one_more: bool,
        more_bytes: u64,
    ) -> Result<(), DataError> {
        let Backlog { n_bodies, size_bytes, receiving_bytes, .. } = self.backlog;
        let full = |what, value, limit| {
            Err(DataError::InboxFull { name: self.dataset.clone(), what, value, limit })
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
}

/// What waits for a dataset. Waits for the lock of its inbox, which is held for moments only.
///
/// # Errors
/// [`DataError::InvalidName`], [`DataError::Io`].
pub fn backlog(home: &DataHome, name: &str) -> Result<Backlog, DataError> {
    let dataset = home.dataset(name)?;
    if !dataset.inbox.is_dir() {
        return Ok(Backlog::default());
    }
    let lock = dataset.lock_inbox()?;
    let refused = Refused::of(&dataset, &lock)?;
    drop(lock);
    Ok(Room::look(&dataset, &refused, None)?.backlog)
}

/// What is gone since the folder was listed takes no room.
fn size_of(dataset: &DatasetFolder, name: &str) -> u64 {
    dataset.inbox.join(name).metadata().map_or(0, |metadata| metadata.len())
}
