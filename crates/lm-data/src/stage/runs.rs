//! Sorted runs on disk: any number of entries in order, with bounded memory.
//!
//! It must never know what an entry means.
//!
//! Start reading at [`write_run`], then [`Merge`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::DataError;
use crate::error::io_error;

/// A fixed-size entry; ordered by its fields in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) key: u64,
    pub(crate) aux: u64,
    pub(crate) row: u64,
}

pub(crate) const ENTRY_BYTES: usize = 24;
/// Runs that are merged at once; more are merged into fewer first.
const MAX_RUNS: usize = 128;
const READ_BYTES: usize = 64 << 10;

impl Entry {
    pub(crate) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.aux.to_le_bytes());
        bytes[16..].copy_from_slice(&self.row.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Entry {
        let part = |at: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(part)
        };
        Entry { key: part(0), aux: part(8), row: part(16) }
    }
}

/// Sorts the entries into a file and forgets them. Synced, so that a checkpoint may count on it.
pub(crate) fn write_run(path: &Path, entries: &mut Vec<Entry>) -> Result<(), DataError> {
    entries.sort_unstable();
    let mut run = RunWriter::create(path)?;
    for entry in entries.drain(..) {
        run.push(entry)?;
    }
    run.finish()
}

/// Writes entries that come in order.
pub(crate) struct RunWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl RunWriter {
    pub(crate) fn create(path: &Path) -> Result<RunWriter, DataError> {
        let file = File::create(path).map_err(io_error("create", path))?;
        Ok(RunWriter { path: path.to_owned(), file: BufWriter::with_capacity(READ_BYTES, file) })
    }

    pub(crate) fn push(&mut self, entry: Entry) -> Result<(), DataError> {
        self.file.write_all(&entry.to_bytes()).map_err(io_error("write to", &self.path))
    }

    pub(crate) fn finish(self) -> Result<(), DataError> {
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).map_err(io_error("write to", &self.path))
    }
}

/// Reads one run.
pub(crate) struct RunReader {
    path: PathBuf,
    file: BufReader<File>,
}

impl RunReader {
    pub(crate) fn open(path: &Path) -> Result<RunReader, DataError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        Ok(RunReader { path: path.to_owned(), file: BufReader::with_capacity(READ_BYTES, file) })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Entry>, DataError> {
        let mut bytes = [0; ENTRY_BYTES];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(Entry::from_bytes(bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(io_error("read", &self.path)(error)),
        }
    }
}

/// The entries of several runs in one order.
pub(crate) struct Merge {
    runs: Vec<RunReader>,
    heads: BinaryHeap<Reverse<(Entry, usize)>>,
}

impl Merge {
    /// `scratch` names files that it may write.
    pub(crate) fn open(mut paths: Vec<PathBuf>, scratch: &Path) -> Result<Merge, DataError> {
        let mut round = 0;
        while paths.len() > MAX_RUNS {
            let mut merged = Vec::new();
            for (i, group) in paths.chunks(MAX_RUNS).enumerate() {
                let path = scratch.with_extension(format!("merge-{round}-{i}"));
                let mut whole = Merge::of(group)?;
                let mut run = RunWriter::create(&path)?;
                while let Some(entry) = whole.next()? {
                    run.push(entry)?;
                }
                run.finish()?;
                merged.push(path);
            }
            paths = merged;
            round += 1;
        }
        Merge::of(&paths)
    }

    fn of(paths: &[PathBuf]) -> Result<Merge, DataError> {
        let runs = paths.iter().map(|path| RunReader::open(path));
        let mut runs = runs.collect::<Result<Vec<_>, _>>()?;
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (i, run) in runs.iter_mut().enumerate() {
            heads.extend(run.next()?.map(|entry| Reverse((entry, i))));
        }
        Ok(Merge { runs, heads })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Entry>, DataError> {
        let Some(Reverse((entry, i))) = self.heads.pop() else { return Ok(None) };
        self.heads.extend(self.runs[i].next()?.map(|next| Reverse((next, i))));
        Ok(Some(entry))
    }
}

/// Sorts entries that come in any order.
pub(crate) struct Sorter {
    stem: PathBuf,
    entries: Vec<Entry>,
    paths: Vec<PathBuf>,
}

/// 24 MB.
const MAX_HELD: usize = 1 << 20;

impl Sorter {
    /// `stem` names the files that it may write.
    pub(crate) fn new(stem: PathBuf) -> Sorter {
        Sorter { stem, entries: Vec::new(), paths: Vec::new() }
    }

    pub(crate) fn push(&mut self, entry: Entry) -> Result<(), DataError> {
        self.entries.push(entry);
        if self.entries.len() >= MAX_HELD { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), DataError> {
        let path = self.stem.with_extension(format!("run-{}", self.paths.len()));
        write_run(&path, &mut self.entries)?;
        self.paths.push(path);
        Ok(())
    }

    /// The runs, so that they can be merged with others.
    pub(crate) fn into_runs(mut self) -> Result<Vec<PathBuf>, DataError> {
        if !self.entries.is_empty() {
            self.spill()?;
        }
        Ok(self.paths)
    }

    pub(crate) fn merge(self) -> Result<Merge, DataError> {
        let stem = self.stem.clone();
        Merge::open(self.into_runs()?, &stem)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn more_runs_than_are_merged_at_once_come_out_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        let mut expect = Vec::new();
        for run in 0..300_u64 {
            let entry = |i: u64| Entry { key: (run * 7919 + i * 104_729) % 1000, aux: run, row: i };
            let mut entries: Vec<_> = (0..run % 5).map(entry).collect();
            expect.extend(entries.iter().copied());
            let path = folder.path().join(format!("{run}.run"));
            write_run(&path, &mut entries).unwrap();
            paths.push(path);
        }
        expect.sort_unstable();
        let mut merge = Merge::open(paths, &folder.path().join("scratch")).unwrap();
        let mut found = Vec::new();
        while let Some(entry) = merge.next().unwrap() {
            found.push(entry);
        }
        assert_eq!(found, expect);
    }
}
