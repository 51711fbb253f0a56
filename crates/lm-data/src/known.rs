//! The rows that a source had when it was read before: of a source that is rewritten, those that it still has count
//! once.
//!
//! It must never hold more than a part of them in memory.
//!
//! Start reading at [`KnownRows::of`].

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::io_error;
use crate::home::DatasetFolder;
use crate::quarantine::rows_of;
use crate::stage::read_lines;
use crate::stage::runs::{ENTRY_BYTES, Entry, RunWriter, Sorter};
use crate::version::merkle;
use crate::version::rows::VersionRows;
use crate::{DataError, Lineage, Manifest};

/// So many entries are read for one that is looked for, and one of so many is in memory.
const BLOCK_ENTRIES: usize = 256;
/// Where the count is in an entry.
const COUNT_AT: u64 = 16;

/// The rows of an earlier content of a source, and how often each came.
pub(crate) struct KnownRows {
    /// By the leaves of their bytes.
    rows: Bag,
    /// Those that were released from quarantine, by the digest of what they had been.
    released: Bag,
    /// Holds the files of both.
    _scratch: TempDir,
}

impl KnownRows {
    /// What a version has of a source, and what released rows of it had been. Without a version nothing is known.
    pub(crate) fn of(
        dataset: &DatasetFolder,
        base: Option<&Manifest>,
        name: &str,
    ) -> Result<KnownRows, DataError> {
        // Of what a kill leaves, this is removed with the batch.
        let scratch = tempfile::Builder::new().prefix("known-").tempdir_in(&dataset.staging);
        let scratch = scratch.map_err(io_error("create a folder in", &dataset.staging))?;
        let (rows, released) = (scratch.path().join("rows"), scratch.path().join("released"));
        let mut leaves = Sorter::new(rows.clone());
        let mut hashes = Vec::new();
        if let Some(base) = base {
            for row in VersionRows::open(dataset, base)? {
                let row = row?;
                if row.source == name {
                    leaves.push(entry_of(&merkle::leaf(row.text.as_bytes())))?;
                }
            }
            for row in rows_of(dataset, base) {
                let row = row?;
                if row.source == name {
                    let raw = row.raw_bytes().unwrap_or_default();
                    leaves.push(entry_of(&merkle::leaf(&raw)))?;
                }
            }
            // A row that was repaired is known by what it was, too.
            let path = dataset.versions.join(base.folder_name()).join("lineage.jsonl");
            if path.exists() {
                read_lines(&path, |row: Lineage| {
                    if row.source == name {
                        hashes.extend(blake3::Hash::from_hex(&row.raw_hash));
                    }
                })?;
            }
        }
        let mut before = Sorter::new(released.clone());
        hashes.iter().try_for_each(|hash| before.push(entry_of(hash)))?;
        let (rows, released) = (Bag::of(leaves, &rows)?, Bag::of(before, &released)?);
        Ok(KnownRows { rows, released, _scratch: scratch })
    }

    /// Takes a row away; whether it was one of them. `raw` is what it is in its source.
    pub(crate) fn take(&mut self, bytes: &[u8], raw: &[u8]) -> Result<bool, DataError> {
        Ok(self.rows.take(&merkle::leaf(bytes))?
            || self.released.take(&blake3::hash(bytes))?
            || (raw != bytes && self.released.take(&blake3::hash(raw))?))
    }
}

/// Half of a hash tells rows apart.
fn entry_of(hash: &blake3::Hash) -> Entry {
    let half = |at: usize| {
        let mut half = [0; 8];
        half.copy_from_slice(&hash.as_bytes()[at..at + 8]);
        u64::from_le_bytes(half)
    };
    Entry { key: half(0), aux: half(8), row: 0 }
}

/// Hashes in order in a file, each with how often it can still be taken in place of a row.
struct Bag {
    path: PathBuf,
    file: File,
    n_entries: u64,
    /// The first of each block of entries.
    fences: Vec<(u64, u64)>,
}

impl Bag {
    fn of(hashes: Sorter, path: &Path) -> Result<Bag, DataError> {
        let mut merge = hashes.merge()?;
        let mut out = RunWriter::create(path)?;
        let (mut n_entries, mut fences) = (0_u64, Vec::new());
        let mut write = |entry: Entry| {
            if n_entries.is_multiple_of(BLOCK_ENTRIES as u64) {
                fences.push((entry.key, entry.aux));
            }
            n_entries += 1;
            out.push(entry)
        };
        let mut last: Option<Entry> = None;
        while let Some(next) = merge.next()? {
            if let Some(last) = &mut last
                && (last.key, last.aux) == (next.key, next.aux)
            {
                last.row += 1;
            } else if let Some(whole) = last.replace(Entry { row: 1, ..next }) {
                write(whole)?;
            }
        }
        last.map_or(Ok(()), write)?;
        out.finish()?;
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(io_error("open", path))?;
        Ok(Bag { path: path.to_owned(), file, n_entries, fences })
    }

    fn take(&mut self, hash: &blake3::Hash) -> Result<bool, DataError> {
        let Entry { key, aux, .. } = entry_of(hash);
        let n_before = self.fences.partition_point(|first| *first <= (key, aux));
        let Some(block) = n_before.checked_sub(1) else { return Ok(false) };
        let taken = self.take_of(block, (key, aux));
        taken.map_err(io_error("count rows in", &self.path))
    }

    /// Looks into one block.
    fn take_of(&mut self, block: usize, wanted: (u64, u64)) -> std::io::Result<bool> {
        let first = (block * BLOCK_ENTRIES) as u64;
        let n_entries = (self.n_entries - first).min(BLOCK_ENTRIES as u64) as usize;
        let mut bytes = [0; BLOCK_ENTRIES * ENTRY_BYTES];
        let bytes = &mut bytes[..n_entries * ENTRY_BYTES];
        let begin = first * ENTRY_BYTES as u64;
        self.file.seek(SeekFrom::Start(begin))?;
        self.file.read_exact(bytes)?;
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        let found = entries.binary_search_by_key(&wanted, |bytes| {
            let entry = Entry::from_bytes(*bytes);
            (entry.key, entry.aux)
        });
        let Ok(at) = found else { return Ok(false) };
        let n_left = Entry::from_bytes(entries[at]).row;
        if n_left == 0 {
            return Ok(false);
        }
        self.file.seek(SeekFrom::Start(begin + (at * ENTRY_BYTES) as u64 + COUNT_AT))?;
        self.file.write_all(&(n_left - 1).to_le_bytes())?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn hash(i: u64) -> blake3::Hash {
        blake3::hash(&i.to_le_bytes())
    }

    #[test]
    fn each_is_taken_as_often_as_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bag");
        let mut hashes = Sorter::new(path.clone());
        // Some blocks and a part of one; the i-th comes once, twice or three times.
        let n = 3 * BLOCK_ENTRIES as u64 + 7;
        for i in (0..n).flat_map(|i| vec![i; 1 + i as usize % 3]) {
            hashes.push(entry_of(&hash(i))).unwrap();
        }
        let mut bag = Bag::of(hashes, &path).unwrap();
        assert_eq!((bag.n_entries, bag.fences.len()), (n, 4));
        for i in 0..n {
            let times = (0..5).filter(|_| bag.take(&hash(i)).unwrap()).count();
            assert_eq!(times, 1 + i as usize % 3, "{i}");
        }
        assert!(!(n..2 * n).any(|i| bag.take(&hash(i)).unwrap()));
        let path = folder.path().join("empty");
        let mut empty = Bag::of(Sorter::new(path.clone()), &path).unwrap();
        assert!(!empty.take(&hash(0)).unwrap());
    }
}
