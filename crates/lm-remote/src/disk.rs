//! Files of rows on the disk: read once on their way out, written once on their way in.
//!
//! It must never pass on a byte that it did not hash.
//!
//! Start reading at [`Coming`] and [`Source`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;
use lm_data::{CarriedFile, DataError};
use object_store::{GetOptions, GetRange};

/// A file of rows on its way here.
pub(crate) struct Coming<'a> {
    object: &'a CarriedFile,
    path: &'a Path,
    file: File,
    /// Of what came.
    pub(crate) hasher: blake3::Hasher,
    /// The object's, as the last answer had it.
    pub(crate) tag: Option<String>,
}

impl<'a> Coming<'a> {
    pub(crate) fn begin(object: &'a CarriedFile, path: &'a Path) -> Result<Self, DataError> {
        let file = File::create(path).map_err(io_error("create", path))?;
        Ok(Coming { object, path, file, hasher: blake3::Hasher::new(), tag: None })
    }

    pub(crate) fn n_bytes(&self) -> u64 {
        self.hasher.count()
    }

    /// Asks for what did not come yet, of the same object.
    pub(crate) fn rest(&self) -> GetOptions {
        match self.hasher.count() {
            0 => GetOptions::new(),
            n_bytes => GetOptions::new()
                .with_range(Some(GetRange::Offset(n_bytes)))
                .with_if_match(self.tag.clone()),
        }
    }

    /// Writes a piece; `false` when more comes than the file has.
    pub(crate) fn take(&mut self, piece: &Bytes) -> Result<bool, DataError> {
        self.hasher.update(piece);
        if self.hasher.count() > self.object.size_bytes {
            return Ok(false);
        }
        self.file.write_all(piece).map_err(io_error("write to", self.path))?;
        Ok(true)
    }

    /// Makes it outlive a power cut.
    pub(crate) fn finish(&self) -> Result<(), DataError> {
        self.file.sync_all().map_err(io_error("write to", self.path))
    }
}

/// A file of the home that is read once, and must be what it was.
pub(crate) struct Source<'a> {
    pub(crate) object: &'a CarriedFile,
    path: &'a Path,
    file: File,
    hasher: blake3::Hasher,
}

impl<'a> Source<'a> {
    pub(crate) fn open(object: &'a CarriedFile, path: &'a Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        Ok(Source { object, path, file, hasher: blake3::Hasher::new() })
    }

    /// The next bytes, at most so many; none at its end.
    pub(crate) fn next(&mut self, max_bytes: u64) -> Result<Bytes, DataError> {
        let left_bytes = self.object.size_bytes.saturating_sub(self.hasher.count());
        let mut bytes = Vec::with_capacity(left_bytes.min(max_bytes) as usize);
        (&mut self.file)
            .take(max_bytes)
            .read_to_end(&mut bytes)
            .map_err(io_error("read", self.path))?;
        self.hasher.update(&bytes);
        Ok(Bytes::from(bytes))
    }

    pub(crate) fn finish(&self) -> Result<(), DataError> {
        fault(self.object, &self.hasher).map_or(Ok(()), |detail| {
            let path = self.path.to_owned();
            Err(DataError::Damaged { path, detail })
        })
    }
}

/// How what was hashed differs from what a file should be.
pub(crate) fn fault(file: &CarriedFile, hasher: &blake3::Hasher) -> Option<String> {
    let (size_bytes, hash) = (hasher.count(), hasher.finalize().to_hex());
    if size_bytes != file.size_bytes {
        let than = if size_bytes < file.size_bytes { "only" } else { "at least" };
        return Some(format!("it has {than} {size_bytes} bytes of {}", file.size_bytes));
    }
    (hash.as_str() != file.hash).then(|| format!("its digest is {hash} and not {}", file.hash))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    move |source| DataError::Io { action, path, source }
}
