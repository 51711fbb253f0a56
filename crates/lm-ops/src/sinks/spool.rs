//! What one sink was not told yet, as a folder: a file for each message.
//!
//! It must never hold half of a message.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::sinks::Message;

/// Larger files are none of ours.
const MAX_BYTES: u64 = 1 << 20;

pub(crate) struct Spool(PathBuf);

impl Spool {
    /// The folder is made when there is something to keep.
    pub(crate) fn new(folder: PathBuf) -> Spool {
        Spool(folder)
    }

    /// Survives a loss of power on return.
    pub(crate) fn put(&self, message: &Message) -> std::io::Result<()> {
        if !self.0.is_dir() {
            std::fs::create_dir_all(&self.0)?;
            sync_folder_of(&self.0)?;
        }
        write_private(&self.path(message), &serde_json::to_vec(message)?)
    }

    /// One that is not there is no error.
    pub(crate) fn remove(&self, message: &Message) {
        drop(std::fs::remove_file(self.path(message)));
    }

    /// The oldest first. What cannot be read stays, and is named.
    pub(crate) fn all(&self) -> Vec<Message> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let is_ours = entry.metadata().is_ok_and(|found| found.len() <= MAX_BYTES);
            let read = std::fs::read(&path).ok().filter(|_| is_ours);
            match read.and_then(|bytes| serde_json::from_slice::<Message>(&bytes).ok()) {
                Some(message) if self.path(&message) == path => all.push(message),
                _ => tracing::warn!(path = %path.display(), "this is no alert to deliver"),
            }
        }
        all.sort_by(|a: &Message, b| a.id.cmp(&b.id));
        all
    }

    fn path(&self, message: &Message) -> PathBuf {
        self.0.join(&message.id).with_extension("json")
    }
}

/// Whole or not at all, also after a loss of power. Readable by its owner only: alerts name requests.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let next = path.with_extension("next");
    let mut options = OpenOptions::new();
    options.write(true).truncate(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&next)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let written = written.and_then(|()| std::fs::rename(&next, path));
    if written.is_err() {
        // What a full disk cut takes room that others need.
        drop(std::fs::remove_file(&next));
    }
    written?;
    sync_folder_of(path)
}

/// A file's name is durable when its folder is.
fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        // Elsewhere a folder cannot be opened as a file.
        _ => Ok(()),
    }
}
