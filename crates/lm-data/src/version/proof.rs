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
use crate::version::segment::{Segment, digest, object};
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
        segments.iter().map(|segment| object(&dataset.objects, segment, extension)).collect()
    };
    let rows = Half::rows(manifest);
    let read = |segments: &[Segment]| leaves(paths(segments, "parquet"));
    let (n_known, is_right) = hold(rows, known.clone().map(Half::rows), read)?;
    let left = &rows.segments[n_known..];
    must_be(is_right, manifest, "rows", left, &paths(left, "parquet"))?;

    let bad = Half::quarantine(manifest);
    let read = |segments: &[Segment]| bad_leaves(paths(segments, "jsonl"));
    let (n_known, is_right) = hold(bad, known.map(Half::quarantine), read)?;
    let left = &bad.segments[n_known..];
    must_be(is_right, manifest, "quarantined rows", left, &paths(left, "jsonl"))
}

/// Whether files hold the rows of their tree, and how many of the first ones were not read for it.
fn hold<'a, I: Iterator<Item = Result<blake3::Hash, DataError>>>(
    half: Half<'a>,
    known: impl Iterator<Item = Half<'a>> + Clone,
    read: impl Fn(&[Segment]) -> I,
) -> Result<(usize, bool), DataError> {
    let n_shared = |known: &Half<'_>| {
        half.segments.iter().zip(known.segments).take_while(|(a, b)| a == b).count()
    };
    let older = known.clone().filter(|known| known.tree.n_rows <= half.tree.n_rows);
    if let Some(nearest) = older.max_by_key(n_shared) {
        let n_shared = n_shared(&nearest);
        // Small files become one: the last rows of the other version may be here in other files.
        let mut leaves = read(&half.segments[n_shared..]);
        let begins = read(&nearest.segments[n_shared..])
            .all(|known| matches!((known, leaves.next()), (Ok(a), Some(Ok(b))) if a == b));
        if begins && let Some(tree) = Growing::from_tree(nearest.tree) {
            return Ok((n_shared, grow(tree, leaves)? == *half.tree));
        }
    }
    let (n_known, tree) = half.known(known);
    Ok((n_known, grow(tree, read(&half.segments[n_known..]))? == *half.tree))
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

fn bad_leaves(files: Vec<PathBuf>) -> impl Iterator<Item = Result<blake3::Hash, DataError>> {
    QuarantineRows::open(files).map(|row| row.map(|row| row.leaf()))
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::cell::RefCell;

    use super::*;

    /// Files whose names are their rows.
    fn files(names: &[&str]) -> (Vec<Segment>, Tree) {
        let mut tree = Growing::default();
        names.concat().chars().for_each(|row| tree.push(leaf_of(row)));
        let of = |name: &&str| Segment {
            hash: (*name).to_owned(),
            n_rows: name.len() as u64,
            size_bytes: 1,
        };
        (names.iter().map(of).collect(), tree.tree())
    }

    fn leaf_of(row: char) -> blake3::Hash {
        merkle::leaf(&[row as u8])
    }

    /// The files that are read beside versions that are known, in order.
    #[track_caller]
    fn check(known: &[&[&str]], new: &[&str], expect: &str) {
        let known: Vec<_> = known.iter().map(|names| files(names)).collect();
        let (segments, tree) = files(new);
        let seen = RefCell::new(String::new());
        let read = |segments: &[Segment]| {
            let names: Vec<&str> = segments.iter().map(|segment| segment.hash.as_str()).collect();
            let rows = names.concat();
            *seen.borrow_mut() += &format!("[{}]", names.join(" "));
            rows.chars()
                .map(|row| Ok(leaf_of(row)))
                .collect::<Vec<Result<_, DataError>>>()
                .into_iter()
        };
        let known = known.iter().map(|(segments, tree)| Half { segments, tree });
        let half = Half { segments: &segments, tree: &tree };
        assert!(hold(half, known.clone(), read).unwrap().1);
        assert_eq!(seen.take(), expect);
        let (_, other) = files(&["z"]);
        assert!(!hold(Half { tree: &other, ..half }, known, read).unwrap().1);
    }

    #[test]
    fn files_that_a_known_version_has_are_not_read_again() {
        check(&[], &["abc", "d"], "[abc d]");
        check(&[&["abc", "d"]], &["abc", "d", "e"], "[e][]");
        // The last files of the other became one.
        check(&[&["abc"], &["abc", "d", "e"]], &["abc", "def"], "[def][d e]");
        // A known one that has more, or other rows, is no help.
        check(&[&["abc", "d", "ef"]], &["abc", "de"], "[abc de]");
        check(&[&["abc", "x"]], &["abc", "de"], "[de][x][abc de]");
    }
}
