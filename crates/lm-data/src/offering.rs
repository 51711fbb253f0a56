//! A body that is being received: streamed to the disk, checked, and then kept under its key.
//!
//! It must never count before it is whole and would survive a power cut, and never hold more of it than a piece.
//!
//! Start reading at [`Offering::begin`], then [`Offering::finish`].

use std::fs;
use std::io::Write;

use tempfile::NamedTempFile;

use crate::error::io_error;
use crate::home::{DatasetFolder, entries, replace_whole, sync_folder};
use crate::inbox::{self, Fate, PART, Receipt, Taken};
use crate::ingest::now_ms;
use crate::read::{Format, opening};
use crate::refused::Refused;
use crate::room::Room;
use crate::turns::Turns;
use crate::{DataError, DataHome, InboxLimits, IngestOptions, disk};

const MAX_KEY_BYTES: usize = 200;
/// After so many bytes it is looked whether there is room for more.
const LOOK_EVERY_BYTES: u64 = 4 << 20;
/// Each check may hold a few copies of a row of the largest size.
static CHECKS: Turns = Turns::new(2);
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Rows for a dataset on their way in. Dropped before [`Offering::finish`], it leaves nothing behind.
pub struct Offering {
    dataset: DatasetFolder,
    limits: InboxLimits,
    format: Format,
    key: Option<String>,
    sender: Option<String>,
    /// It was taken before, so that it needs no room.
    is_known: bool,
    /// What had been refused when it began.
    refused: Refused,
    part: NamedTempFile,
    hasher: blake3::Hasher,
    /// The first two bytes.
    head: Vec<u8>,
    size_bytes: u64,
    look_at_bytes: u64,
}

impl Offering {
    /// Begins to take rows of a format for a dataset. Without a key the digest of the rows is the key. Senders of one
    /// name, or of none, share the room for bodies that are refused.
    ///
    /// # Errors
    /// [`DataError::InboxFull`], [`DataError::RefusedFull`], [`DataError::DiskFull`], [`DataError::InvalidOption`] for
    /// a key that is empty or too long, [`DataError::InvalidName`].
    pub fn begin(
        home: &DataHome,
        name: &str,
        key: Option<&str>,
        sender: Option<&str>,
        format: Format,
        limits: &InboxLimits,
    ) -> Result<Offering, DataError> {
        let dataset = home.dataset(name)?;
        if let Some(key) = key.filter(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
            return Err(DataError::InvalidOption {
                field: "the idempotency key",
                value: format!("{} bytes long", key.len()),
                limit: "1 to 200 bytes long",
            });
        }
        let keys = dataset.inbox.join(inbox::KEYS);
        if !keys.is_dir() {
            fs::create_dir_all(&keys).map_err(io_error("create the folder", &keys))?;
            // Else a power cut could take the inbox away together with what is in it.
            dataset.inbox.ancestors().take(4).try_for_each(sync_folder)?;
        }
        let lock = dataset.lock_inbox()?;
        remove_dead_parts(&dataset)?;
        let known = key.map(|key| inbox::counted(&dataset, key)).transpose()?.flatten();
        let mut refused = Refused::default();
        if known.is_none() {
            refused = Refused::of(&dataset, &lock)?;
            let room = Room::look(&dataset, &refused, sender)?;
            // Without a key it may be one that was taken, which only its end says.
            if key.is_some() {
                room.for_sender(limits)?;
            }
            room.for_body(limits, key.is_some(), 1)?;
            disk::has_space(&dataset.inbox, 0)?;
        }
        let part =
            tempfile::Builder::new().prefix("body-").suffix(PART).tempfile_in(&dataset.inbox);
        let part = part.map_err(io_error("create a file in", &dataset.inbox))?;
        part.as_file().lock().map_err(io_error("lock", part.path()))?;
        drop(lock);
        Ok(Offering {
            dataset,
            limits: *limits,
            format,
            key: key.map(str::to_owned),
            sender: sender.map(str::to_owned),
            is_known: known.is_some(),
            refused,
            part,
            hasher: blake3::Hasher::new(),
            head: Vec::new(),
            size_bytes: 0,
            look_at_bytes: LOOK_EVERY_BYTES,
        })
    }

    /// Takes the next piece. Blocks while it is written.
    ///
    /// # Errors
    /// [`DataError::OfferTooLarge`], [`DataError::InboxFull`], [`DataError::DiskFull`], [`DataError::NotOfFormat`] for
    /// what is compressed, [`DataError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let size_bytes = self.size_bytes + bytes.len() as u64;
        if size_bytes > self.limits.body_bytes {
            return Err(DataError::OfferTooLarge { limit_bytes: self.limits.body_bytes });
        }
        let n_head = GZIP_MAGIC.len().saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..n_head]);
        if self.head == GZIP_MAGIC {
            // Its limits would say nothing of what comes out of it.
            let detail = "it is compressed by gzip: send it as it is".to_owned();
            return Err(DataError::NotOfFormat { format: self.format, offset_bytes: 0, detail });
        }
        let written = self.part.write_all(bytes);
        written.map_err(io_error("write to", self.part.path()))?;
        self.hasher.update(bytes);
        self.size_bytes = size_bytes;
        if size_bytes >= self.look_at_bytes && !self.is_known {
            self.look_at_bytes = size_bytes + LOOK_EVERY_BYTES;
            let room = Room::look(&self.dataset, &self.refused, None)?;
            room.for_body(&self.limits, false, 0)?;
            disk::has_space(&self.dataset.inbox, size_bytes)?;
        }
        Ok(())
    }

    /// Takes it as whole: when this returns the rows survive a kill and a power cut, and are added once by
    /// [`drain`](crate::drain) or [`watch`](crate::watch). The same key with the same rows is answered again.
    ///
    /// # Errors
    /// [`DataError::KeyReused`], [`DataError::InboxFull`], [`DataError::RefusedFull`], [`DataError::DiskFull`],
    /// [`DataError::NotOfFormat`], [`DataError::NoRows`].
    pub fn finish(self) -> Result<Taken, DataError> {
        let Offering { dataset, limits, format, key, sender, part, hasher, size_bytes, .. } = self;
        part.as_file().sync_all().map_err(io_error("sync", part.path()))?;
        let turn = CHECKS.take();
        opening::check(part.path(), format, IngestOptions::default().max_row_bytes)?;
        drop(turn);
        let hash = hasher.finalize().to_hex().to_string();
        // The same bytes in another format are other rows.
        let key = key.unwrap_or_else(|| match format {
            Format::Jsonl => hash.clone(),
            other => format!("{hash}.{other}"),
        });
        let lock = dataset.lock_inbox()?;
        if let Some(receipt) = inbox::counted(&dataset, &key)? {
            if receipt.hash == hash && receipt.format == format {
                return Ok(Taken { receipt, already_taken: true });
            }
            let (name, known, known_format) = (dataset.name, receipt.hash, receipt.format);
            return Err(DataError::KeyReused { name, key, known, known_format, hash, format });
        }
        let refused = Refused::of(&dataset, &lock)?;
        let room = Room::look(&dataset, &refused, sender.as_deref())?;
        room.for_sender(&limits)?;
        room.for_body(&limits, true, 0)?;
        disk::has_space(&dataset.inbox, size_bytes)?;
        let file = inbox::file_of(&key);
        let body = dataset.inbox.join(format!("{file}.{format}"));
        let offered_at_ms = now_ms();
        let fate = Fate::Waiting;
        let receipt = Receipt { key, hash, format, size_bytes, offered_at_ms, sender, fate };
        // A kill between the two leaves a receipt that says of a body that it waits, and no body: it does not count.
        replace_whole(&inbox::receipt_path(&dataset, &file), &receipt.to_json())?;
        part.persist(&body).map_err(|error| io_error("take as", &body)(error.error))?;
        sync_folder(&dataset.inbox)?;
        Ok(Taken { receipt, already_taken: false })
    }
}

/// Removes what receivers that were killed left. The inbox must be locked: who receives has locked the own file
/// before that lock was given back.
fn remove_dead_parts(dataset: &DatasetFolder) -> Result<(), DataError> {
    for name in entries(&dataset.inbox)?.iter().filter(|name| name.ends_with(PART)) {
        let path = dataset.inbox.join(name);
        let is_dead = fs::File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if is_dead {
            // Who receives removes the own file without the lock, and may just have done so.
            inbox::remove_if_there(&path)?;
        }
    }
    Ok(())
}
