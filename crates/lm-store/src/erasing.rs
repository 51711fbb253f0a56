//! Which requests are being erased, in a file: the store's rows go first, and what else speaks of them after. Whatever ends an
//! erasure in between, the next one finds what is left to do.
//!
//! It must never hold more of a request than its id.
//!
//! Start reading at [`Erasing::begin`].

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use lm_types::RequestId;

use crate::StoreError;
use crate::error::io as io_error;

/// An erasure, from its begin until nothing is left of it. Another one waits for its end.
#[derive(Debug)]
pub struct Erasing {
    path: PathBuf,
    /// Locked while this lives.
    _lock: File,
}

impl Erasing {
    /// Begins an erasure whose list is the file at `path`, which need not exist; its folder is made. Waits while another one
    /// runs.
    ///
    /// # Errors
    /// What the file system says.
    pub fn begin(path: &Path) -> Result<Erasing, StoreError> {
        let locked = || -> io::Result<File> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let lock = options().open(path.with_extension("lock"))?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = locked().map_err(|e| io_error(path, "begin an erasure at", &e))?;
        Ok(Erasing { path: path.to_owned(), _lock: lock })
    }

    /// Where the list is, for [`StoreOptions::erasing`](crate::StoreOptions).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Requests of which something may be left, in their written form: those of this erasure and of earlier ones that did not
    /// come to their end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn left(&self) -> Result<Vec<String>, StoreError> {
        let text = match std::fs::read(&self.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io_error(&self.path, "read", &error)),
        };
        // A line that was cut off is of requests that are still there: they go after it is whole on the disk.
        let ids = text.lines().filter(|line| line.parse::<RequestId>().is_ok());
        let ids: BTreeSet<&str> = ids.collect();
        Ok(ids.into_iter().map(str::to_owned).collect())
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// The list cannot be removed.
    pub fn end(self) -> Result<(), StoreError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(io_error(&self.path, "remove", &error))
            }
            _ => Ok(()),
        }
    }
}

/// Adds requests to a list; they are on the disk when this returns.
pub(crate) fn note(path: &Path, ids: &[String]) -> io::Result<()> {
    #[cfg(unix)]
    let is_new = !path.exists();
    let mut file = options().open(path)?;
    // A line of its own, also behind one that was cut off.
    file.write_all(format!("\n{}\n", ids.join("\n")).as_bytes())?;
    file.sync_all()?;
    #[cfg(unix)]
    if let Some(folder) = path.parent().filter(|_| is_new) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// For a file that grows, which others cannot read.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_left_outlives_who_erases() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store/erasing");
        let [first, second] = [1, 2].map(|id| RequestId(id).to_string());
        let erasing = Erasing::begin(&path).unwrap();
        assert!(erasing.left().unwrap().is_empty());
        note(&path, std::slice::from_ref(&first)).unwrap();
        // A line that a crash cut off stands for nothing, and spoils none.
        let cut = std::fs::read_to_string(&path).unwrap() + &second[..7];
        std::fs::write(&path, cut).unwrap();
        drop(erasing);
        let erasing = Erasing::begin(&path).unwrap();
        assert_eq!(erasing.left().unwrap(), std::slice::from_ref(&first));
        note(&path, &[second.clone(), first.clone()]).unwrap();
        assert_eq!(erasing.left().unwrap(), [first, second]);
        erasing.end().unwrap();
        assert!(Erasing::begin(&path).unwrap().left().unwrap().is_empty());
    }

    #[test]
    fn one_erases_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("erasing");
        let erasing = Erasing::begin(&path).unwrap();
        let lock = File::open(path.with_extension("lock")).unwrap();
        assert!(lock.try_lock().is_err());
        drop(erasing);
        lock.try_lock().unwrap();
    }
}
