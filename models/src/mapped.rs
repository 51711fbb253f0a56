//! A file's bytes, mapped read-only into memory.
//!
//! It must never know what the bytes mean.
//!
//! Start reading at [`MappedFile::open`].
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe in memmap2; this is the only file that does it"
)]

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::ModelError;

/// A file whose bytes are read by the operating system as they are touched.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps the whole file.
    ///
    /// # Errors
    /// `Io` when it cannot be opened or mapped; `Invalid` when it is no regular file.
    pub(crate) fn open(path: &Path) -> Result<MappedFile, ModelError> {
        let io = |action| move |source| ModelError::Io { action, source }.in_file(path);
        let file = File::open(path).map_err(io("open the file"))?;
        let kind = file.metadata().map_err(io("read the file's size"))?.file_type();
        if !kind.is_file() {
            return Err(ModelError::invalid("the path", "no regular file", "a file").in_file(path));
        }
        // Installed files are replaced by rename, never written in place. A file that another program
        // shortens meanwhile ends the process by SIGBUS: that is the known price of mapping.
        // SAFETY: the map is read-only, and every reader treats the bytes as untrusted, so that other
        // contents, which another program may write, are no unsoundness of ours.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io("map the file"))?;
        Ok(MappedFile { path: path.to_path_buf(), map })
    }

    /// Where it came from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives back the memory that bytes took as they were read. They can be read again, from the file.
    pub(crate) fn release_pages(&self) {
        #[cfg(unix)]
        // SAFETY: the map is of a file and read-only, so that the only bytes dropped are the file's own.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
