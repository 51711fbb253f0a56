//! A folder that appears under its name as a whole, or not at all.
//!
//! It must never take the place of something, nor show a part of what will be in it.
//!
//! Start reading at [`NewFolder`].

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::DataError;
use crate::error::io_error;
use crate::home::{entries, sync_folder};

/// Of the folders in the making, beside those that they become.
const PREFIX: &str = ".lastmile-part-";

/// A folder in the making. Dropped it is removed; of a killed process it stays, as `.lastmile-part-…`.
#[derive(Debug)]
pub struct NewFolder {
    scratch: TempDir,
    target: PathBuf,
}

impl NewFolder {
    /// Makes the folders above the target, too.
    ///
    /// # Errors
    /// [`DataError::Exists`], [`DataError::Io`].
    pub fn begin(target: &Path) -> Result<NewFolder, DataError> {
        if target.symlink_metadata().is_ok() {
            return Err(DataError::Exists { path: target.to_owned() });
        }
        if target.file_name().is_none() {
            let nameless = io::Error::from(ErrorKind::InvalidInput);
            return Err(io_error("create the folder", target)(nameless));
        }
        let parent = parent(target);
        fs::create_dir_all(parent).map_err(io_error("create the folder", parent))?;
        let scratch = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(parent)
            .map_err(io_error("create a folder in", parent))?;
        Ok(NewFolder { scratch, target: target.to_owned() })
    }

    /// Where its files are written.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Shows the folder, which holds files only, under its name; a power cut cannot halve it from then on.
    ///
    /// # Errors
    /// [`DataError::Exists`] when another one was shown meanwhile, [`DataError::Io`].
    pub fn show(self) -> Result<(), DataError> {
        let NewFolder { scratch, target } = self;
        for name in entries(scratch.path())? {
            // Elsewhere a file that is opened to be read cannot be synced.
            if cfg!(unix) {
                let path = scratch.path().join(name);
                let synced = File::open(&path).and_then(|file| file.sync_all());
                synced.map_err(io_error("sync", &path))?;
            }
        }
        sync_folder(scratch.path())?;
        match fs::rename(scratch.path(), &target) {
            Err(error) if is_taken(error.kind()) => return Err(DataError::Exists { path: target }),
            other => other.map_err(io_error("show as", &target))?,
        }
        // Its name is free again, so nothing may be removed under it.
        _ = scratch.keep();
        sync_folder(parent(&target))
    }
}

fn is_taken(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(kind, AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

fn parent(target: &Path) -> &Path {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_folder_appears_whole_and_once() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("above").join("new");
        let (first, second) =
            (NewFolder::begin(&target).unwrap(), NewFolder::begin(&target).unwrap());
        fs::write(first.path().join("a"), "first").unwrap();
        fs::write(second.path().join("a"), "second").unwrap();
        assert!(!target.exists());
        first.show().unwrap();
        let error = second.show().unwrap_err();
        assert!(matches!(error, DataError::Exists { .. }), "{error}");
        assert_eq!(fs::read(target.join("a")).unwrap(), b"first");
        assert_eq!(entries(target.parent().unwrap()).unwrap(), ["new"]);

        drop(NewFolder::begin(&root.path().join("other")).unwrap());
        assert_eq!(entries(root.path()).unwrap(), ["above"]);
        for taken in [&target, &target.join("a")] {
            let error = NewFolder::begin(taken).unwrap_err();
            assert!(matches!(error, DataError::Exists { .. }), "{error}");
        }
        NewFolder::begin(&root.path().join("none").join("..")).unwrap_err();
    }
}
