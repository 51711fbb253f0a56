//! Moves verified files into place, all or nothing, under a lock.
//!
//! It must never install what was not verified: callers hand over a digest with each file.
//!
//! Start reading at [`install`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::digest::{Content, hash_file, to_hex};
use super::error::FetchError;
use super::home::Home;
use super::progress::Progress;
use super::record::{Installed, InstalledFile, RECORD, Record};

/// Where a pull works before anything is installed; in the model's folder, so that a rename
/// suffices.
pub(super) const STAGING: &str = ".staging";

/// Verified files in the staging folder.
#[derive(Debug)]
pub(super) struct Gathered {
    /// The file to open; empty for the folder.
    pub(super) main: String,
    /// All of them lie in the staging folder under these names.
    pub(super) files: Vec<InstalledFile>,
    /// The source they came from.
    pub(super) origin: String,
}

/// Takes the model's lock; waits, and says so, while another pull holds it. Released when dropped.
pub(super) fn lock(home: &Home, name: &str, progress: &dyn Progress) -> Result<File, FetchError> {
    let models = home.models();
    std::fs::create_dir_all(&models).map_err(|e| FetchError::io("create", &models, e))?;
    let path = home.lock(name);
    let io = |source| FetchError::io("lock", &path, source);
    let file = File::options().create(true).write(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            progress.note(&format!("another pull of {name} is running; waiting for it"));
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
    }
    file.lock().map_err(io)?;
    Ok(file)
}

/// Checks a file against what is known of it.
///
/// # Errors
/// A sentence with both sizes or both digests.
pub(super) fn verify(
    path: &Path,
    size_bytes: Option<u64>,
    sha256: Option<[u8; 32]>,
) -> Result<InstalledFile, String> {
    let content = hash_file(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    check_content(content, size_bytes, sha256)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sha256 = to_hex(&content.sha256);
    Ok(InstalledFile { name, size_bytes: content.size_bytes, sha256 })
}

/// As [`verify`], for bytes that were hashed on their way.
pub(super) fn check_content(
    found: Content,
    size_bytes: Option<u64>,
    sha256: Option<[u8; 32]>,
) -> Result<(), String> {
    if let Some(wanted) = size_bytes.filter(|&wanted| wanted != found.size_bytes) {
        return Err(format!("it has {} bytes, but {wanted} are wanted", found.size_bytes));
    }
    match sha256 {
        Some(wanted) if wanted != found.sha256 => Err(format!(
            "its sha256 is {}, but {} is wanted",
            to_hex(&found.sha256),
            to_hex(&wanted)
        )),
        _ => Ok(()),
    }
}

/// Moves everything gathered from the staging folder into the model's, records it, and clears the
/// staging.
pub(super) fn install(
    name: &str,
    folder: &Path,
    gathered: Gathered,
) -> Result<Installed, FetchError> {
    let staging = folder.join(STAGING);
    for file in &gathered.files {
        let staged = staging.join(&file.name);
        let sync = File::options().write(true).open(&staged).and_then(|file| file.sync_all());
        sync.map_err(|e| FetchError::io("flush", &staged, e))?;
        let target = folder.join(&file.name);
        std::fs::rename(&staged, &target).map_err(|e| FetchError::io("install", &target, e))?;
    }
    // Files of an earlier pull of the same repository stay listed.
    let mut files = gathered.files;
    if let Ok(Some(earlier)) = Record::read(folder) {
        let is_new = |old: &InstalledFile| files.iter().all(|file| file.name != old.name);
        let kept: Vec<_> = earlier.files.into_iter().filter(is_new).collect();
        files.extend(kept.into_iter().filter(|file| folder.join(&file.name).exists()));
    }
    let record = Record {
        name: name.to_owned(),
        main: gathered.main,
        files,
        origin: gathered.origin,
        installed_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    };
    write_record(folder, &staging, &record)?;
    std::fs::remove_dir_all(&staging).map_err(|e| FetchError::io("remove", &staging, e))?;
    Ok(record.into_installed(folder))
}

fn write_record(folder: &Path, staging: &Path, record: &Record) -> Result<(), FetchError> {
    let (staged, target): (PathBuf, PathBuf) = (staging.join(RECORD), folder.join(RECORD));
    let io = |source| FetchError::io("write", &target, source);
    let json = serde_json::to_vec_pretty(record).expect("a record is plain data: this is a bug");
    std::fs::write(&staged, json).map_err(io)?;
    File::options().write(true).open(&staged).and_then(|f| f.sync_all()).map_err(io)?;
    std::fs::rename(&staged, &target).map_err(io)?;
    sync_folder(folder).map_err(io)
}

/// Makes renames in a folder last. Windows has no such call and orders them itself.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
