//! What is installed: one `installed.json` in each model's folder.
//!
//! It must never fetch. A record is believed while its files have the recorded sizes and were not
//! written to since; a file that was is hashed.
//!
//! Start reading at [`locate`].

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::digest::{from_hex, hash_file};
use super::error::FetchError;
use super::home::{Home, hub_folder};
use super::install::lock;
use super::progress::NoProgress;
use crate::ModelRef;
use crate::catalog::{CardFile, Catalog, is_word};
use crate::hf_config::read_bounded;
use crate::safetensors::is_plain_name;

pub(super) const RECORD: &str = "installed.json";
const RECORD_LIMIT_BYTES: u64 = 4 << 20;

/// A model that was fetched and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The card's name, or `hf:org/repo`.
    pub name: String,
    /// What to open: a file, or a folder of safetensors.
    pub path: PathBuf,
    /// Every file, with what it was verified against.
    pub files: Vec<InstalledFile>,
    /// The source it came from.
    pub origin: String,
    /// When, in seconds since 1970.
    pub installed_unix_s: u64,
}

/// One file of an installed model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledFile {
    /// Its name in the model's folder.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Installed {
    /// Bytes of all files.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }
}

impl InstalledFile {
    fn is(&self, sha256: [u8; 32]) -> bool {
        from_hex(&self.sha256) == Some(sha256)
    }
}

/// The record as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) name: String,
    /// The file to open; empty for the folder.
    pub(super) main: String,
    pub(super) files: Vec<InstalledFile>,
    pub(super) origin: String,
    pub(super) installed_unix_s: u64,
}

impl Record {
    /// Reads a model folder's record; `None` when there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Record>, FetchError> {
        let path = folder.join(RECORD);
        if !path.exists() {
            return Ok(None);
        }
        let bad = |reason: String| FetchError::BadRecord { path: path.clone(), reason };
        let bytes = read_bounded(&path, RECORD_LIMIT_BYTES).map_err(|e| bad(e.to_string()))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let mut names = record.files.iter().map(|file| &file.name);
        match names.find(|name| !is_plain_name(name)) {
            Some(name) => Err(bad(format!("a file is called {name:?}"))),
            None => Ok(Some(record)),
        }
    }

    /// Checks that every file is there with its size, and with its bytes if it was written to since.
    pub(super) fn check(&self, folder: &Path) -> Result<(), FetchError> {
        for file in &self.files {
            let path = folder.join(&file.name);
            let found_bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if found_bytes != file.size_bytes {
                return Err(FetchError::Damaged {
                    name: self.name.clone(),
                    path,
                    found_bytes,
                    wanted_bytes: file.size_bytes,
                });
            }
            let is_same = || hash_file(&path).is_ok_and(|found| file.is(found.sha256));
            if self.was_written_since(&path) && !is_same() {
                return Err(FetchError::Changed { name: self.name.clone(), path });
            }
        }
        Ok(())
    }

    /// Whether a file was written to after it was installed.
    fn was_written_since(&self, path: &Path) -> bool {
        let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        let since_epoch = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        modified.is_ok_and(|at| since_epoch(at) > self.installed_unix_s)
    }

    pub(super) fn file(&self, name: &str) -> Option<&InstalledFile> {
        self.files.iter().find(|file| file.name == name)
    }

    pub(super) fn into_installed(self, folder: &Path) -> Installed {
        let path =
            if self.main.is_empty() { folder.to_path_buf() } else { folder.join(&self.main) };
        Installed {
            name: self.name,
            path,
            files: self.files,
            origin: self.origin,
            installed_unix_s: self.installed_unix_s,
        }
    }
}

/// What to open for a model, when it is there. The placeholder needs nothing and gives nothing.
///
/// # Errors
/// `Damaged` when a file has another size than was installed, `BadRecord`, `UnknownModel`.
pub fn locate(model: &ModelRef, home: &Home) -> Result<Option<PathBuf>, FetchError> {
    match model {
        ModelRef::Placeholder(_) => Ok(None),
        ModelRef::Path(path) => Ok(path.exists().then(|| path.clone())),
        ModelRef::Card(_) | ModelRef::Hub { .. } => {
            Ok(find(model, home)?.map(|installed| installed.path))
        }
    }
}

/// The installed model of a card or a repository, when it is the one that is asked for.
pub(super) fn find(model: &ModelRef, home: &Home) -> Result<Option<Installed>, FetchError> {
    let folder = home.model(&folder_of(model)?);
    let Some(mut record) = Record::read(&folder)? else { return Ok(None) };
    match model {
        // A card that was overridden asks for other bytes than those that an older one installed.
        ModelRef::Card(name) => {
            let catalog = Catalog::load(home)?;
            let card = catalog.get(name)?;
            let is_same = |file: CardFile| {
                let installed = record.file(&file.file).and_then(|file| from_hex(&file.sha256));
                installed == Some(file.digest())
            };
            if !card.files().all(is_same) {
                return Ok(None);
            }
        }
        ModelRef::Hub { file: Some(path), .. } => {
            let name = path.rsplit('/').next().unwrap_or(path);
            if record.file(name).is_none() {
                return Ok(None);
            }
            record.main = name.to_owned();
        }
        _ => {}
    }
    record.check(&folder)?;
    Ok(Some(record.into_installed(&folder)))
}

/// The name of the folder that a model is installed in.
pub(super) fn folder_of(model: &ModelRef) -> Result<String, FetchError> {
    match model {
        ModelRef::Card(name) if is_word(name) => Ok(name.clone()),
        ModelRef::Hub { repo, .. } if crate::catalog::is_repo(repo) => Ok(hub_folder(repo)),
        other => Err(FetchError::NothingToFetch { name: other.to_string() }),
    }
}

/// Every installed model, by name. Folders without a record, or with one that cannot be read, are
/// not.
#[must_use]
pub fn installed(home: &Home) -> Vec<Installed> {
    let entries = std::fs::read_dir(home.models()).into_iter().flatten().flatten();
    let read = |folder: PathBuf| Some(Record::read(&folder).ok()??.into_installed(&folder));
    let mut all: Vec<_> = entries.filter_map(|entry| read(entry.path())).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Removes an installed model and whatever a broken-off pull left of it. Gives the bytes that it
/// held.
///
/// # Errors
/// `NotInstalled`, `NothingToFetch` for a path or the placeholder, `Io`.
pub fn remove(model: &ModelRef, home: &Home) -> Result<u64, FetchError> {
    let name = folder_of(model)?;
    let folder = home.model(&name);
    if !folder.is_dir() {
        return Err(FetchError::NotInstalled { name: model.to_string() });
    }
    let _lock = lock(home, &name, &NoProgress)?;
    let size_bytes = match Record::read(&folder) {
        Ok(Some(record)) => record.files.iter().map(|file| file.size_bytes).sum(),
        _ => 0,
    };
    std::fs::remove_dir_all(&folder).map_err(|e| FetchError::io("remove", &folder, e))?;
    Ok(size_bytes)
}

/// The digest that an install recorded for a file, while the file is as it was installed.
pub(crate) fn recorded_sha256(path: &Path) -> Option<[u8; 32]> {
    let record = Record::read(path.parent()?).ok()??;
    let file = record.file(path.file_name()?.to_str()?)?;
    let size_bytes = std::fs::metadata(path).ok()?.len();
    let is_unchanged = size_bytes == file.size_bytes && !record.was_written_since(path);
    is_unchanged.then(|| from_hex(&file.sha256)).flatten()
}
