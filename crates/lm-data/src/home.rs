//! Where the files of datasets lie, and the lock of each.
//!
//! It must never know what is in them.
//!
//! Start reading at [`DataHome`].

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::DataError;
use crate::error::io_error;

/// The folder that holds all datasets, such as `LASTMILE_HOME/data`. Created when needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataHome(pub PathBuf);

/// The paths of one dataset.
#[derive(Clone, Debug)]
pub(crate) struct DatasetFolder {
    pub(crate) name: String,
    /// Without its extension.
    pub(crate) contract: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) staging: PathBuf,
    pub(crate) versions: PathBuf,
    pub(crate) reports: PathBuf,
    pub(crate) objects: PathBuf,
    pub(crate) inbox: PathBuf,
    root: PathBuf,
}

/// While it lives no other ingest of the dataset runs. The system frees it when the process dies.
pub(crate) struct DatasetLock {
    _file: File,
}

impl DataHome {
    pub(crate) fn dataset(&self, name: &str) -> Result<DatasetFolder, DataError> {
        let fits = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            return Err(DataError::InvalidName { name: name.chars().take(80).collect() });
        }
        let root = self.0.join("datasets").join(name);
        Ok(DatasetFolder {
            name: name.to_owned(),
            contract: self.0.join("contracts").join(name),
            lock: root.join("lock"),
            staging: root.join("staging"),
            versions: root.join("versions"),
            reports: root.join("reports"),
            objects: root.join("objects"),
            inbox: root.join("inbox"),
            root,
        })
    }
}

impl DatasetFolder {
    /// Takes the lock or says who has it; never waits.
    pub(crate) fn lock(&self) -> Result<DatasetLock, DataError> {
        for folder in [&self.versions, &self.reports, &self.objects] {
            fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
        }
        // Else a power cut could take a new dataset away together with what it publishes.
        for folder in self.root.ancestors().take(3) {
            sync_folder(folder)?;
        }
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).open(&self.lock);
        let file = file.map_err(io_error("open", &self.lock))?;
        match file.try_lock() {
            Ok(()) => Ok(DatasetLock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(DataError::Locked { name: self.name.clone(), path: self.lock.clone() })
            }
            Err(TryLockError::Error(error)) => Err(io_error("lock", &self.lock)(error)),
        }
    }

    /// Waits for the lock of the inbox, which is held for moments only. The system frees it when the process dies.
    pub(crate) fn lock_inbox(&self) -> Result<File, DataError> {
        let path = self.inbox_lock();
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io_error("open", &path))?;
        file.lock().map_err(io_error("lock", &path))?;
        Ok(file)
    }

    pub(crate) fn inbox_lock(&self) -> PathBuf {
        self.inbox.join("lock")
    }

    pub(crate) fn must_exist(&self) -> Result<(), DataError> {
        if self.root.is_dir() {
            Ok(())
        } else {
            Err(DataError::UnknownDataset { name: self.name.clone() })
        }
    }

    /// The contract that is installed.
    pub(crate) fn installed_contract(&self) -> Option<PathBuf> {
        ["toml", "json"]
            .iter()
            .map(|extension| self.contract.with_extension(extension))
            .find(|path| path.exists())
    }
}

/// Makes a rename or a new file in `folder` survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), DataError> {
    // Only Unix can open a folder as a file; elsewhere the file system orders renames itself.
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(io_error("sync", folder))?;
    }
    Ok(())
}

/// Writes a file that a power cut cannot halve once this returns. Leaves none when it cannot be written, as on a full
/// disk.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let mut file = File::create(path).map_err(io_error("write", path))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(path);
    }
    written.map_err(io_error("write", path))
}

/// Replaces a file by one rename.
pub(crate) fn replace_whole(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let staged = path.with_extension("tmp");
    write_whole(&staged, bytes)?;
    fs::rename(&staged, path).map_err(io_error("replace", path))?;
    sync_folder(path.parent().expect("a file lies in a folder: this is a bug"))
}

pub(crate) fn remove_folder(folder: &Path) -> Result<(), DataError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// The names in a folder; none when it does not exist.
pub(crate) fn entries(folder: &Path) -> Result<Vec<String>, DataError> {
    let list = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("list", folder))?,
    };
    list.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()
        .map_err(io_error("list", folder))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;

    #[test]
    fn a_full_disk_leaves_no_half_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chunk-000000.rows");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let error = write_whole(&path, b"rows").unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        assert!(path.symlink_metadata().is_err());
    }
}
