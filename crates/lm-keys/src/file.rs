//! The file that holds keys without their secrets: JSON, for its owner alone, replaced as a whole.
//!
//! A file of its own rather than a table of the store: keys must work before a server first ran and when
//! the store is full or broken, no retention may erase them, and deployments lay them down as a file.
//!
//! It must never write in place: who reads sees the old keys or the new ones.
//!
//! Start reading at [`KeyFile::create`].

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::io;
use crate::record::KeyState;
use crate::{KeyError, KeyId, KeyLimits, KeyRecord, Scope, secret};

/// Keys in a file, revoked ones included.
const MAX_KEYS: usize = 10_000;
/// A larger file is not read.
const MAX_BYTES: u64 = 16 << 20;
const VERSION: u32 = 1;

/// The key file, such as `LASTMILE_HOME/keys.json`. It need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
}

/// What a key is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewKey {
    /// What its owner calls it.
    pub name: String,
    /// What it opens.
    pub scopes: Vec<Scope>,
    /// Unix seconds.
    pub expires_at: Option<u64>,
    /// How much it may use.
    pub limits: KeyLimits,
}

/// Differs from the one before when the file was replaced, or its permissions changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    size_bytes: u64,
    system: [i64; 4],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    keys: Vec<KeyRecord>,
}

impl KeyFile {
    /// The file at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        KeyFile { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys, oldest first; `None` when there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, holds something else, or may be written by others.
    pub fn read(&self) -> Result<Option<Vec<KeyRecord>>, KeyError> {
        let file = match open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(&self.path, "open", &error)),
        };
        let corrupt = |what: String| KeyError::Corrupt { path: self.path.clone(), what };
        let metadata = file.metadata().map_err(|error| io(&self.path, "read", &error))?;
        if !metadata.is_file() {
            return Err(corrupt("it is not a regular file".to_owned()));
        }
        if let Some(mode) = writable_by_others(&metadata) {
            return Err(KeyError::WritableByOthers { path: self.path.clone(), mode });
        }
        if metadata.len() > MAX_BYTES {
            return Err(corrupt(format!("it has {} bytes, over {MAX_BYTES}", metadata.len())));
        }
        let mut text = String::new();
        let read = file.take(MAX_BYTES).read_to_string(&mut text);
        read.map_err(|error| io(&self.path, "read", &error))?;
        let document: Document =
            serde_json::from_str(&text).map_err(|error| corrupt(error.to_string()))?;
        if document.version != VERSION {
            return Err(corrupt(format!("its version is {}, not {VERSION}", document.version)));
        }
        if let Some(key) =
            document.keys.iter().find(|key| blake3::Hash::from_hex(&key.hash).is_err())
        {
            return Err(corrupt(format!("the hash of key {} is not one", key.id)));
        }
        if document.keys.len() > MAX_KEYS {
            return Err(corrupt(format!("it holds {} keys, over {MAX_KEYS}", document.keys.len())));
        }
        for key in &document.keys {
            key.limits.validate().map_err(|error| corrupt(format!("key {}: {error}", key.id)))?;
        }
        Ok(Some(document.keys))
    }

    /// Tells a replaced file from the one before; `None` when there is none.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        let metadata = fs::metadata(&self.path).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            size_bytes: metadata.len(),
            system: system_stamp(&metadata),
        })
    }

    /// Adds a key made at `now_s`, in Unix seconds. Returns what is kept, and the key itself, which is
    /// kept nowhere.
    ///
    /// # Errors
    /// A bad name, scope or limit, a name in use, a full file, or what the file system refuses.
    pub fn create(&self, new: NewKey, now_s: u64) -> Result<(KeyRecord, String), KeyError> {
        let is_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let NewKey { name, mut scopes, expires_at, limits } = new;
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_name) {
            return Err(KeyError::BadName { name: name.chars().take(80).collect() });
        }
        if scopes.is_empty() {
            return Err(KeyError::NoScope);
        }
        limits.validate()?;
        scopes.sort_unstable();
        scopes.dedup();
        let _lock = self.lock()?;
        let mut keys = self.read()?.unwrap_or_default();
        if keys.iter().any(|key| key.name == name && key.state(now_s) != KeyState::Revoked) {
            return Err(KeyError::NameTaken { name });
        }
        if keys.len() >= MAX_KEYS {
            return Err(KeyError::TooMany { limit: MAX_KEYS });
        }
        let (id, key) = secret::mint()?;
        let hash = secret::hash(&key).to_hex().to_string();
        let revoked_at = None;
        let record =
            KeyRecord { id, name, hash, scopes, created_at: now_s, expires_at, revoked_at, limits };
        keys.push(record.clone());
        self.replace(keys)?;
        Ok((record, key))
    }

    /// Takes a key back, by its name or id. It stays in the file, so that its use can be explained.
    ///
    /// # Errors
    /// No such key, or what the file system refuses.
    pub fn revoke(&self, who: &str, now_s: u64) -> Result<KeyRecord, KeyError> {
        let _lock = self.lock()?;
        let mut keys = self.read()?.unwrap_or_default();
        let id = who.parse::<KeyId>().ok();
        let is_meant = |key: &&mut KeyRecord| {
            key.revoked_at.is_none() && (key.name == who || Some(key.id) == id)
        };
        let Some(key) = keys.iter_mut().find(is_meant) else {
            return Err(KeyError::NotFound { who: who.chars().take(80).collect() });
        };
        key.revoked_at = Some(now_s);
        let revoked = key.clone();
        self.replace(keys)?;
        Ok(revoked)
    }

    /// While it lives nobody else changes the file. The system frees it when the process dies.
    fn lock(&self) -> Result<File, KeyError> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(|error| io(folder, "create the folder", &error))?;
        }
        let path = self.path.with_extension("lock");
        let lock = private().truncate(false).open(&path);
        let lock = lock.map_err(|error| io(&path, "open", &error))?;
        lock.lock().map_err(|error| io(&path, "lock", &error))?;
        Ok(lock)
    }

    /// The caller holds the lock.
    fn replace(&self, keys: Vec<KeyRecord>) -> Result<(), KeyError> {
        let next = self.path.with_extension("next");
        let text = serde_json::to_string_pretty(&Document { version: VERSION, keys })
            .expect("keys are JSON: this is a bug");
        let written = private().truncate(true).open(&next).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| io(&next, "write", &error))?;
        fs::rename(&next, &self.path).map_err(|error| io(&self.path, "replace", &error))?;
        // Only Unix can open a folder as a file; elsewhere the file system orders renames itself.
        if let Some(folder) = self.path.parent().filter(|_| cfg!(unix)) {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| io(folder, "sync", &error))?;
        }
        Ok(())
    }
}

/// A file that only its owner can read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(unix)]
fn writable_by_others(metadata: &fs::Metadata) -> Option<u32> {
    let mode = std::os::unix::fs::MetadataExt::mode(metadata) & 0o777;
    (mode & 0o022 != 0).then_some(mode)
}

#[cfg(not(unix))]
fn writable_by_others(_metadata: &fs::Metadata) -> Option<u32> {
    None
}

/// Never waits, whatever is there: a FIFO would, until somebody writes to it.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    options.open(path)
}

/// Inode, permissions, and when these or the contents changed last.
#[cfg(unix)]
fn system_stamp(metadata: &fs::Metadata) -> [i64; 4] {
    use std::os::unix::fs::MetadataExt;
    let (inode, mode) = (metadata.ino().cast_signed(), i64::from(metadata.mode()));
    [inode, mode, metadata.ctime(), metadata.ctime_nsec()]
}

#[cfg(not(unix))]
fn system_stamp(_metadata: &fs::Metadata) -> [i64; 4] {
    [0; 4]
}
