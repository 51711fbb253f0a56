//! A folder that one process has for itself, of those that servers of one home keep alerts in.
//!
//! It must never belong to two: a lock of the system's says whose it is, and is gone with its process, however that ends.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::sinks::{OPEN_ALERTS, SERVER_ALERTS, SinkError};

/// Servers of one home that have sinks, at once.
const MAX_SERVERS: usize = 32;

pub(crate) struct Claim {
    folder: PathBuf,
    _lock: File,
}

impl Claim {
    /// The first folder that is nobody's, with what is left in others that are nobody's.
    pub(crate) fn take(home: &Path) -> Result<Claim, SinkError> {
        let failed = |source| SinkError::Folder { path: home.to_owned(), source };
        let mut own: Option<Claim> = None;
        for i in 0..MAX_SERVERS {
            let folder = home.join(i.to_string());
            // Beyond one's own only what is there is of interest.
            if own.is_some() && !folder.exists() {
                continue;
            }
            let Some(claim) = Claim::of(folder).map_err(failed)? else { continue };
            match &own {
                None => own = Some(claim),
                Some(own) => claim.hand_over(own),
            }
        }
        own.ok_or_else(|| {
            failed(std::io::Error::other(format!("{MAX_SERVERS} servers of this home run already")))
        })
    }

    /// `None` when it is somebody's.
    fn of(folder: PathBuf) -> std::io::Result<Option<Claim>> {
        std::fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("owner.lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Claim { folder, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where something is kept under this name: one's own file, then those of servers that are gone.
    pub(crate) fn files(&self, name: &str) -> Vec<PathBuf> {
        let begin = format!("{}-", stem(name));
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let is_taken = |name: &str| name.starts_with(&begin) && name.ends_with(".json");
        let taken = entries.filter(|entry| is_taken(&entry.file_name().to_string_lossy()));
        let mut taken: Vec<PathBuf> = taken.map(|entry| entry.path()).collect();
        taken.sort();
        std::iter::once(self.folder.join(name)).chain(taken).collect()
    }

    /// Names sinks of which something waits, but which are not told any more.
    pub(crate) fn warn_of_strangers(&self, keys: &[&str]) {
        for (sink, n) in self.sinks() {
            if n > 0 && !keys.contains(&sink.as_str()) {
                tracing::warn!(sink, n, "alerts wait for a sink that is not configured any more");
            }
        }
    }

    fn hand_over(&self, to: &Claim) {
        for name in [OPEN_ALERTS, SERVER_ALERTS] {
            self.hand_over_kept(name, to);
        }
        for (sink, _) in self.sinks() {
            let (from, to) = (self.folder.join(&sink), to.folder.join(&sink));
            drop(std::fs::create_dir_all(&to));
            for file in std::fs::read_dir(&from).into_iter().flatten().flatten() {
                if let Err(error) = std::fs::rename(file.path(), to.join(file.file_name())) {
                    tracing::warn!(%error, "an alert of another server stays where it is");
                }
            }
        }
    }

    /// Which alerts were open there, beside one's own: both are of this home.
    fn hand_over_kept(&self, name: &str, to: &Claim) {
        let slot = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let taken = to.folder.join(format!("{}-{slot}.json", stem(name)));
        if let Err(error) = std::fs::rename(self.folder.join(name), taken)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            let what = "open alerts of another server stay where they are";
            tracing::warn!(%error, slot = &*slot, name, "{what}");
        }
    }

    /// Folders of sinks, and how many files each has.
    fn sinks(&self) -> Vec<(String, usize)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        let sink = |entry: std::fs::DirEntry| {
            let n = std::fs::read_dir(entry.path()).map_or(0, Iterator::count);
            (entry.file_name().to_string_lossy().into_owned(), n)
        };
        folders.map(sink).collect()
    }
}

/// Of a file's name.
fn stem(name: &str) -> &str {
    name.strip_suffix(".json").unwrap_or(name)
}
