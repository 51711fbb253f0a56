//! The files of one dataset in a place: sent, fetched, and held against their digests on the way.
//!
//! It must never hold more of a file of rows than a part.
//!
//! Start reading at [`Shelf`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path as FilePath;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use lm_data::{CarriedFile, Link, version_folder};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStoreExt, PutPayload};
use serde::Serialize;

use crate::catalog::{Catalog, FORMAT, Listed, Unread};
use crate::crew::Counted;
use crate::disk::{Coming, Source, fault};
use crate::place::{Put, is_absent};
use crate::{Place, RemoteError};

/// A larger file is sent in parts of this size; of each of the files that are moved at a time one is in memory.
pub(crate) const PART_BYTES: u64 = 8 << 20;
/// S3 takes no more; of a file of over 80 GB the parts are larger.
const MAX_PARTS: u64 = 10_000;
pub(crate) const MAX_CATALOG_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };
/// Of a file of a version's folder, which is in memory as a whole.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;
/// An answer that was cut off is gone on with when so much of it came.
const CONTINUED_BYTES: u64 = if cfg!(test) { 1 } else { 1 << 20 };
const CREATE_TRIES: u32 = 5;
const CREATE_WAIT: Duration = Duration::from_millis(200);

/// What was moved, either way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The versions that were picked, the oldest first.
    pub versions: Vec<MovedVersion>,
    /// Files of rows that were moved.
    pub n_files: u64,
    /// Their size.
    pub size_bytes: u64,
    /// Files of rows that were there before.
    pub n_files_there: u64,
    /// Of a pull: the home's contract stays, and is another one than that of the version that is now the newest.
    pub contract_differs: bool,
}

/// A version that is now in both places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MovedVersion {
    /// From 1.
    pub sequence: u64,
    /// Its id.
    pub version: String,
    /// Rows in it.
    pub rows_published: u64,
    /// It was there before; what it lacked was moved.
    pub was_there: bool,
}

/// What became of a file that is written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Once {
    /// It is written.
    Written,
    /// The same bytes are there.
    Same,
    /// Other bytes are there, and stay.
    Other,
}

/// One dataset in a place.
#[derive(Clone, Copy)]
pub(crate) struct Shelf<'a> {
    pub(crate) place: &'a Place,
    pub(crate) name: &'a str,
}

impl Shelf<'_> {
    pub(crate) fn catalog_key(&self) -> Path {
        self.place.key(&["datasets", self.name, "catalog.json"])
    }

    pub(crate) fn object_key(&self, object: &str) -> Path {
        self.place.key(&["datasets", self.name, "objects", object])
    }

    pub(crate) fn file_key(&self, link: Link<'_>, file: &str) -> Path {
        let folder = version_folder(link.sequence, link.version);
        self.place.key(&["datasets", self.name, "versions", &folder, file])
    }

    pub(crate) fn shown(&self, key: &Path) -> String {
        self.place.shown(key)
    }

    /// The catalog, empty when there is none, and the tag by which it can be replaced.
    pub(crate) fn catalog(&self) -> Result<(Catalog, Option<String>), RemoteError> {
        let Some((catalog, tag)) = self.stored()? else { return Ok((Catalog::empty(), None)) };
        if tag.is_none() {
            let detail = format!(
                "it gives {} no ETag, without which two that push at once could destroy each \
                 other's work",
                self.shown(&self.catalog_key())
            );
            return Err(RemoteError::Unusable { place: self.place.url(), detail });
        }
        Ok((catalog, tag))
    }

    /// The catalog of a dataset that must be there.
    pub(crate) fn known(&self) -> Result<Catalog, RemoteError> {
        match self.stored()? {
            Some((catalog, _)) if !catalog.is_empty() => Ok(catalog),
            _ => {
                let (name, place) = (self.name.to_owned(), self.place.url());
                Err(RemoteError::UnknownDataset { name, place })
            }
        }
    }

    /// The catalog that is there, and its tag.
    fn stored(&self) -> Result<Option<(Catalog, Option<String>)>, RemoteError> {
        let key = self.catalog_key();
        let Some((bytes, tag)) = self.place.read(&key, MAX_CATALOG_BYTES)? else {
            return Ok(None);
        };
        let key = self.shown(&key);
        match Catalog::read(&bytes) {
            Ok(catalog) => Ok(Some((catalog, tag))),
            Err(Unread::Damaged(detail)) => Err(RemoteError::DamagedCatalog { key, detail }),
            Err(Unread::Newer(format)) => Err(RemoteError::Newer { key, format, known: FORMAT }),
        }
    }

    /// Names and sizes of the files of rows.
    pub(crate) fn objects(&self) -> Result<BTreeMap<String, u64>, RemoteError> {
        let folder = self.place.key(&["datasets", self.name, "objects"]);
        Ok(self.place.list(&folder)?.into_iter().collect())
    }

    /// Writes a file of a version's folder, unless there is one.
    pub(crate) fn write_once(&self, key: &Path, bytes: &Bytes) -> Result<Once, RemoteError> {
        for _ in 0..CREATE_TRIES {
            if self.place.create(key, bytes.clone())? == Put::Done {
                return Ok(Once::Written);
            }
            if let Some((there, _)) = self.place.read(key, MAX_FILE_BYTES)? {
                return Ok(if there == *bytes { Once::Same } else { Once::Other });
            }
            // Another put was under way and came to nothing.
            thread::sleep(CREATE_WAIT);
        }
        Err(RemoteError::Busy { key: self.shown(key), tries: CREATE_TRIES })
    }

    /// A file of a version's folder, which is what the catalog says.
    pub(crate) fn read(&self, listed: &Listed, file: &CarriedFile) -> Result<Bytes, RemoteError> {
        let key = self.file_key(listed.link(), &file.name);
        let Some((bytes, _)) = self.place.read(&key, MAX_FILE_BYTES)? else {
            return Err(RemoteError::Missing { key: self.shown(&key) });
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        self.check(&key, file, &hasher)?;
        Ok(bytes)
    }

    /// Sends a file of rows, whatever is there under its name.
    pub(crate) fn send(
        &self,
        object: &CarriedFile,
        path: &FilePath,
        counted: &Counted<'_>,
    ) -> Result<(), RemoteError> {
        let key = self.object_key(&object.name);
        let mut source = Source::open(object, path)?;
        if object.size_bytes <= PART_BYTES {
            let bytes = source.next(PART_BYTES)?;
            source.finish()?;
            let n_bytes = bytes.len();
            self.place.write(&key, bytes)?;
            counted.add(n_bytes);
            return Ok(());
        }
        let failed = |error| self.place.failed("write", &key, &error);
        let runtime = &self.place.runtime;
        let mut upload = runtime.block_on(self.place.store.put_multipart(&key)).map_err(failed)?;
        let sent = self.send_parts(&key, upload.as_mut(), source, counted);
        let sent = sent.and_then(|()| runtime.block_on(upload.complete()).map_err(failed));
        if sent.is_err() {
            // The first error is the one to tell; what stays is removed by the bucket's own rule.
            let _ = runtime.block_on(upload.abort());
        }
        sent.map(drop)
    }

    fn send_parts(
        &self,
        key: &Path,
        upload: &mut dyn MultipartUpload,
        mut source: Source<'_>,
        counted: &Counted<'_>,
    ) -> Result<(), RemoteError> {
        let part_bytes = part_bytes(source.object.size_bytes);
        loop {
            let bytes = source.next(part_bytes)?;
            if bytes.is_empty() {
                // Only now: what is no more what it was is never complete.
                return Ok(source.finish()?);
            }
            let n_bytes = bytes.len();
            let part = upload.put_part(PutPayload::from_bytes(bytes));
            let sent = self.place.runtime.block_on(part);
            sent.map_err(|error| self.place.failed("write", key, &error))?;
            counted.add(n_bytes);
        }
    }

    /// Fetches a file of rows into a new file, which is whole and of its digest, or not there.
    pub(crate) fn fetch(
        &self,
        object: &CarriedFile,
        target: &FilePath,
        counted: &Counted<'_>,
    ) -> Result<(), RemoteError> {
        let key = self.object_key(&object.name);
        let fetched = self.place.runtime.block_on(self.stream(&key, object, target, counted));
        if fetched.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(target);
        }
        fetched
    }

    /// Runs on its caller's thread, which may wait for the disk. The library goes on with an answer that was cut off for
    /// as long as its tries last; of a file that takes longer, what came is not fetched again.
    async fn stream(
        &self,
        key: &Path,
        object: &CarriedFile,
        target: &FilePath,
        counted: &Counted<'_>,
    ) -> Result<(), RemoteError> {
        let mut coming = Coming::begin(object, target)?;
        loop {
            let begin = coming.n_bytes();
            let Some(error) = self.receive(key, &mut coming, counted).await? else { break };
            let n_bytes = coming.n_bytes();
            if n_bytes == object.size_bytes {
                break;
            }
            if coming.tag.is_none() || n_bytes - begin < CONTINUED_BYTES {
                return Err(self.place.failed("read", key, &error));
            }
        }
        self.check(key, object, &coming.hasher)?;
        Ok(coming.finish()?)
    }

    /// Receives what is still to come; returns what cut it off.
    async fn receive(
        &self,
        key: &Path,
        coming: &mut Coming<'_>,
        counted: &Counted<'_>,
    ) -> Result<Option<Error>, RemoteError> {
        let answer = match self.place.store.get_opts(key, coming.rest()).await {
            Err(error) if is_absent(&error) => {
                return Err(RemoteError::Missing { key: self.shown(key) });
            }
            other => other.map_err(|error| self.place.failed("read", key, &error))?,
        };
        coming.tag = answer.meta.e_tag.clone();
        let mut pieces = answer.into_stream();
        loop {
            match pieces.try_next().await {
                Ok(Some(piece)) => {
                    if !coming.take(&piece)? {
                        return Ok(None);
                    }
                    counted.add(piece.len());
                }
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            }
        }
    }

    fn check(
        &self,
        key: &Path,
        file: &CarriedFile,
        hasher: &blake3::Hasher,
    ) -> Result<(), RemoteError> {
        fault(file, hasher).map_or(Ok(()), |detail| {
            let key = self.shown(key);
            Err(RemoteError::Damaged { key, detail })
        })
    }
}

fn part_bytes(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(MAX_PARTS).next_multiple_of(1 << 20).max(PART_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_one_size_and_never_too_many() {
        assert_eq!(part_bytes(PART_BYTES + 1), PART_BYTES);
        assert_eq!(part_bytes(80 << 30), 9 << 20);
        for size_bytes in [1_u64 << 30, 1 << 40, 5 << 40] {
            let part_bytes = part_bytes(size_bytes);
            assert!(size_bytes.div_ceil(part_bytes) <= MAX_PARTS);
            assert_eq!(part_bytes % (1 << 20), 0);
        }
    }
}
