//! What two versions have and the other has not, row by row.
//!
//! It must never hold all rows, and never read a file that both versions have.
//!
//! Start reading at [`diff`].

use std::collections::{BTreeSet, BinaryHeap};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::io_error;
use crate::home::DatasetFolder;
use crate::stage::runs::{Entry, Merge, Sorter};
use crate::version::merkle;
use crate::version::rows::VersionRows;
use crate::{DataError, DataHome, Manifest, manifest};

/// How two versions differ. A row that comes twice in one and once in the other differs once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The older one.
    pub from: String,
    /// The newer one.
    pub to: String,
    /// Rows that only `to` has.
    pub rows_added: u64,
    /// Rows that only `from` has.
    pub rows_removed: u64,
    /// Rows that both have.
    pub rows_same: u64,
    /// The first of the added rows.
    pub added: Vec<String>,
    /// The first of the removed rows.
    pub removed: Vec<String>,
}

/// Compares two versions, and shows up to `limit` rows of each kind. Without `from` the parent of `to`, without `to`
/// the newest version.
///
/// # Errors
/// [`DataError::UnknownDataset`], [`DataError::UnknownVersion`], [`DataError::NoReport`], [`DataError::Damaged`].
pub fn diff(
    home: &DataHome,
    name: &str,
    from: Option<&str>,
    to: Option<&str>,
    limit: usize,
) -> Result<Diff, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let to = manifest::newest_or(&dataset, to)?;
    let from = match (from, &to.parent) {
        (Some(from), _) => manifest::find(&dataset, from)?,
        (None, Some(parent)) => manifest::find(&dataset, parent)?,
        (None, None) => Manifest { format: manifest::FORMAT, ..Manifest::default() },
    };
    let scratch = dataset.scratch()?;
    let mut diff = Diff { from: from.version.clone(), to: to.version.clone(), ..Diff::default() };
    let sides = Sides::new(&dataset, &from, &to);
    diff.rows_same = sides.n_shared;
    let (old, new) = std::thread::scope(|scope| {
        let old = scope.spawn(|| sides.keys(&sides.old, 0, scratch.path()));
        let new = sides.keys(&sides.new, 1, scratch.path());
        (old.join().expect("hashing does not panic: this is a bug"), new)
    });
    let (mut old, new) = (old?, new?);
    old.extend(new);
    let mut merge = Merge::open(old, &scratch.path().join("merge"))?;
    let (mut first_added, mut first_removed) = (First::new(limit), First::new(limit));
    let mut group: Vec<Entry> = Vec::new();
    loop {
        let entry = merge.next()?;
        let same = |a: &Entry, b: &Entry| (a.key, a.aux) == (b.key, b.aux);
        if let (Some(last), next) = (group.last(), &entry)
            && next.as_ref().is_none_or(|next| !same(last, next))
        {
            // Of rows that come several times the last ones count as the difference.
            let n_new = group.iter().filter(|entry| entry.row & 1 == 1).count();
            let n_same = n_new.min(group.len() - n_new);
            diff.rows_same += n_same as u64;
            for (side, first, count) in [
                (1, &mut first_added, &mut diff.rows_added),
                (0, &mut first_removed, &mut diff.rows_removed),
            ] {
                for entry in group.iter().filter(|entry| entry.row & 1 == side).skip(n_same) {
                    first.see(entry.row >> 1);
                    *count += 1;
                }
            }
            group.clear();
        }
        let Some(entry) = entry else { break };
        group.push(entry);
    }
    diff.added = sides.texts(&sides.new, first_added)?;
    diff.removed = sides.texts(&sides.old, first_removed)?;
    Ok(diff)
}

/// The files that only one of two versions has.
struct Sides<'a> {
    dataset: &'a DatasetFolder,
    old: Side,
    new: Side,
    n_shared: u64,
}

enum Side {
    Segments(Vec<PathBuf>),
    Whole(Box<Manifest>),
}

impl<'a> Sides<'a> {
    fn new(dataset: &'a DatasetFolder, from: &Manifest, to: &Manifest) -> Sides<'a> {
        if from.is_first_format() || to.is_first_format() {
            let whole = |manifest: &Manifest| Side::Whole(Box::new(manifest.clone()));
            return Sides { dataset, old: whole(from), new: whole(to), n_shared: 0 };
        }
        let mut n_shared = 0;
        let mut left: Vec<_> = to.segments.iter().collect();
        let mut only_old = Vec::new();
        let path = |hash: &str| dataset.objects.join(format!("{hash}.parquet"));
        for segment in &from.segments {
            match left.iter().position(|other| other.hash == segment.hash) {
                Some(at) => {
                    left.remove(at);
                    n_shared += segment.n_rows;
                }
                None => only_old.push(path(&segment.hash)),
            }
        }
        let only_new = left.into_iter().map(|segment| path(&segment.hash)).collect();
        Sides { dataset, old: Side::Segments(only_old), new: Side::Segments(only_new), n_shared }
    }

    fn rows(&self, side: &Side) -> Result<VersionRows, DataError> {
        match side {
            Side::Segments(paths) => Ok(VersionRows::of(paths.clone())),
            Side::Whole(manifest) => VersionRows::open(self.dataset, manifest),
        }
    }

    /// Sorted runs of the rows' hashes; the lowest bit of `row` is the side.
    fn keys(&self, side: &Side, bit: u64, scratch: &Path) -> Result<Vec<PathBuf>, DataError> {
        let mut sorter = Sorter::new(scratch.join(format!("side-{bit}")));
        for (i, row) in self.rows(side)?.enumerate() {
            let hash = merkle::leaf(row?.text.as_bytes());
            let half = |at: usize| {
                let mut half = [0; 8];
                half.copy_from_slice(&hash.as_bytes()[at..at + 8]);
                u64::from_le_bytes(half)
            };
            sorter.push(Entry { key: half(0), aux: half(8), row: (i as u64) << 1 | bit })?;
        }
        sorter.into_runs()
    }

    fn texts(&self, side: &Side, first: First) -> Result<Vec<String>, DataError> {
        let wanted: BTreeSet<u64> = first.rows.into_iter().collect();
        let Some(&last) = wanted.last() else { return Ok(Vec::new()) };
        let mut texts = Vec::new();
        for (i, row) in self.rows(side)?.enumerate().take(last as usize + 1) {
            let row = row?;
            if wanted.contains(&(i as u64)) {
                texts.push(row.text);
            }
        }
        Ok(texts)
    }
}

/// The least of the rows that it saw.
struct First {
    limit: usize,
    rows: BinaryHeap<u64>,
}

impl First {
    fn new(limit: usize) -> First {
        First { limit, rows: BinaryHeap::new() }
    }

    fn see(&mut self, row: u64) {
        self.rows.push(row);
        if self.rows.len() > self.limit {
            self.rows.pop();
        }
    }
}

impl DatasetFolder {
    /// A folder for what is gone at the end.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir, DataError> {
        let folder = self.objects.parent().unwrap_or(&self.objects);
        tempfile::Builder::new()
            .prefix("scratch-")
            .tempdir_in(folder)
            .map_err(io_error("create a folder in", folder))
    }
}
