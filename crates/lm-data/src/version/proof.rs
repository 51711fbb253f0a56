//! Whether files that come from elsewhere hold the rows that a version's id stands for.
//!
//! It must never take a digest that came with the files for a proof: the id alone is known from another side.
//!
//! Start reading at [`check`].

use std::path::PathBuf;

use crate::home::DatasetFolder;
use crate::quarantine::QuarantineRows;
use crate::version::merkle::{self, Growing, Tree};
use crate::version::rows::VersionRows;
use crate::version::segment::{Segment, digest};
use crate::{DataError, Manifest};

/// Half of a version: its rows, or its quarantined rows.
#[derive(Clone, Copy)]
struct Half<'a> {
    segments: &'a [Segment],
    tree: &'a Tree,
}

impl<'a> Half<'a> {
    fn rows(manifest: &'a Manifest) -> Half<'a> {
        Half { segments: &manifest.segments, tree: &manifest.rows }
    }

    fn quarantine(manifest: &'a Manifest) -> Half<'a> {
        Half { segments: &manifest.quarantine, tree: &manifest.bad_rows }
    }

    /// The tree over its first files, which a version that is known to be right begins with, too, and how many they are.
    fn known(&self, known: impl Iterator<Item = Half<'a>>) -> (usize, Growing) {
        known
            .filter(|known| self.segments.starts_with(known.segments))
            .filter_map(|known| Some((known.segments.len(), Growing::from_tree(known.tree)?)))
            .max_by_key(|(n_segments, _)| *n_segments)
            .unwrap_or_default()
    }
}

/// Hashes rows and quarantined rows of a version whose files are among the objects, but for those files that it shares
/// with one of the versions that are known to be right.
pub(crate) fn check<'a>(
    dataset: &DatasetFolder,
    manifest: &'a Manifest,
    known: impl Iterator<Item = &'a Manifest> + Clone,
) -> Result<(), DataError> {
    let paths = |segments: &[Segment], extension: &str| -> Vec<PathBuf> {
        let path =
            |segment: &Segment| dataset.objects.join(format!("{}.{extension}", segment.hash));
        segments.iter().map(path).collect()
    };
    let rows = Half::rows(manifest);
    let (n_known, tree) = rows.known(known.clone().map(Half::rows));
    let files = paths(&rows.segments[n_known..], "parquet");
    let is_right = grow(tree, leaves(files.clone()))? == *rows.tree;
    must_be(is_right, manifest, "rows", &rows.segments[n_known..], &files)?;

    let bad = Half::quarantine(manifest);
    let (n_known, tree) = bad.known(known.map(Half::quarantine));
    let files = paths(&bad.segments[n_known..], "jsonl");
    let leaves = QuarantineRows::open(files.clone()).map(|row| row.map(|row| row.leaf()));
    let is_right = grow(tree, leaves)? == *bad.tree;
    must_be(is_right, manifest, "quarantined rows", &bad.segments[n_known..], &files)
}

/// Holds the files of a version's rows, in their order, against the version's id.
///
/// # Errors
/// [`DataError::OtherRows`], and [`DataError::Damaged`] when a file holds no rows.
pub fn check_rows(manifest: &Manifest, files: Vec<PathBuf>) -> Result<(), DataError> {
    let is_right = grow(Growing::default(), leaves(files.clone()))? == manifest.rows;
    must_be(is_right, manifest, "rows", &manifest.segments, &files)
}

fn leaves(files: Vec<PathBuf>) -> impl Iterator<Item = Result<blake3::Hash, DataError>> {
    VersionRows::of(files).map(|row| row.map(|row| merkle::leaf(row.text.as_bytes())))
}

fn grow(
    mut tree: Growing,
    leaves: impl Iterator<Item = Result<blake3::Hash, DataError>>,
) -> Result<Tree, DataError> {
    for leaf in leaves {
        tree.push(leaf?);
    }
    Ok(tree.tree())
}

fn must_be(
    is_right: bool,
    manifest: &Manifest,
    what: &'static str,
    segments: &[Segment],
    files: &[PathBuf],
) -> Result<(), DataError> {
    if is_right {
        return Ok(());
    }
    // A file that was here before may be damaged, which is another matter.
    for (segment, path) in segments.iter().zip(files) {
        let (hash, _) = digest(path)?;
        if hash != segment.hash {
            let (path, detail) = (path.clone(), format!("its digest is {hash}"));
            return Err(DataError::Damaged { path, detail });
        }
    }
    Err(DataError::OtherRows { version: manifest.version.clone(), what })
}
