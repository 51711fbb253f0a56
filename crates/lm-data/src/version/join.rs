//! Small files at the end of a version become one, so that what comes in small pieces is not listed piece by piece by
//! all versions after it.
//!
//! It must never change rows or their order, nor take a file for what its name does not say.
//!
//! Start reading at [`small_before`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::DataError;
use crate::error::io_error;
use crate::stage::{CHUNK_BYTES, CHUNK_ROWS, Stage};
use crate::version::segment::{self, Segment, digest};

/// So many files of like size become one. A version lists few of each size, and a row is written anew a few times.
const FAN_IN: usize = 16;
/// A larger file is none of the small ones.
const MAX_SMALL_BYTES: u64 = CHUNK_BYTES as u64 / 4;

/// The last of these files of rows, which are to be written anew in one with the rows of the stage. None where those
/// are many.
pub(crate) fn small_before(stage: &Stage, segments: &[Segment]) -> Vec<PathBuf> {
    if stage.n_chunks() != 1 {
        return Vec::new();
    }
    let size_bytes = stage.path(0, "rows").metadata().map_or(u64::MAX, |metadata| metadata.len());
    let path = |segment: &Segment| segment::object(&stage.dataset.objects, segment, "parquet");
    let plain_bytes = |path: &Path, _: &Segment| segment::plain_bytes(path);
    tail(segments, (stage.chunk_rows(0), size_bytes), path, plain_bytes)
}

/// Adds a file of quarantined rows, `file`, to the others, in one with the last of them when those are many and small.
pub(crate) fn add_quarantine(
    objects: &Path,
    segments: &mut Vec<Segment>,
    file: &Path,
    n_rows: u64,
) -> Result<(), DataError> {
    let size_bytes = file.metadata().map_err(io_error("read the size of", file))?.len();
    let path = |segment: &Segment| segment::object(objects, segment, "jsonl");
    let before = tail(segments, (n_rows, size_bytes), path, |_, segment| Ok(segment.size_bytes));
    let joined = segments.split_off(segments.len() - before.len());
    let n_rows = joined.iter().fold(n_rows, |sum, segment| sum + segment.n_rows);
    let whole = if before.is_empty() { file.to_owned() } else { concatenate(&before, file)? };
    segments.push(segment::adopt(objects, &whole, "jsonl", n_rows)?);
    Ok(())
}

fn concatenate(before: &[PathBuf], file: &Path) -> Result<PathBuf, DataError> {
    let whole = file.with_extension("joined");
    let mut out = File::create(&whole).map_err(io_error("create", &whole))?;
    for part in before.iter().map(PathBuf::as_path).chain([file]) {
        let mut part = File::open(part).map_err(io_error("open", part))?;
        io::copy(&mut part, &mut out).map_err(io_error("write to", &whole))?;
    }
    out.sync_all().map_err(io_error("write to", &whole))?;
    Ok(whole)
}

/// The paths of the last files, in their order, that become one with `coming`: rows and bytes that lie behind them.
fn tail(
    segments: &[Segment],
    coming: (u64, u64),
    path: impl Fn(&Segment) -> PathBuf,
    plain_bytes: impl Fn(&Path, &Segment) -> Result<u64, DataError>,
) -> Vec<PathBuf> {
    let (mut n_rows, mut n_bytes) = coming;
    let mut paths = Vec::new();
    for segment in segments.iter().rev().take(n_small(segments, n_rows)) {
        let path = path(segment);
        n_rows = n_rows.saturating_add(segment.n_rows);
        // One that is damaged stays as it is, and who reads it is told.
        let is_whole = digest(&path).is_ok_and(|(hash, _)| hash == segment.hash);
        if !is_whole || n_rows > CHUNK_ROWS as u64 {
            break;
        }
        let Ok(more_bytes) = plain_bytes(&path, segment) else { break };
        n_bytes = n_bytes.saturating_add(more_bytes);
        if n_bytes > CHUNK_BYTES as u64 {
            break;
        }
        paths.push(path);
    }
    paths.reverse();
    paths
}

/// How many of the last files are small enough to become one with `n_rows` rows, and many enough to do it.
fn n_small(segments: &[Segment], mut n_rows: u64) -> usize {
    let mut n_small = 0;
    loop {
        let rest = &segments[..segments.len() - n_small];
        let is_like = |segment: &&Segment| {
            size_class(segment.n_rows) <= size_class(n_rows) && segment.size_bytes < MAX_SMALL_BYTES
        };
        let n_like = rest.iter().rev().take_while(is_like).count();
        if n_like + 1 < FAN_IN {
            return n_small;
        }
        let like = rest.iter().rev().take(n_like);
        n_rows = like.fold(n_rows, |sum, segment| sum.saturating_add(segment.n_rows));
        n_small += n_like;
    }
}

/// Files of one class differ in their rows by less than 16 times.
fn size_class(n_rows: u64) -> u32 {
    n_rows.max(1).ilog(FAN_IN as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many files of so many rows each, in order.
    fn segments(files: &[(usize, u64)]) -> Vec<Segment> {
        let of = |n_rows| Segment { hash: String::new(), n_rows, size_bytes: 100 };
        files.iter().flat_map(|&(n, n_rows)| vec![of(n_rows); n]).collect()
    }

    #[track_caller]
    fn check(files: &[(usize, u64)], coming: u64, expect: usize) {
        assert_eq!(n_small(&segments(files), coming), expect);
    }

    #[test]
    fn files_of_like_size_become_one_when_they_are_many() {
        check(&[], 1, 0);
        check(&[(14, 1)], 1, 0);
        check(&[(15, 1)], 1, 15);
        check(&[(14, 16), (15, 1)], 1, 15);
        check(&[(15, 16), (15, 1)], 1, 30);
        check(&[(2, 256), (15, 16), (15, 1)], 1, 30);
        check(&[(1, 16), (14, 1)], 15, 0);
        check(&[(1, 16), (14, 1)], 16, 15);
        check(&[(5_000, 1)], 1, 5_000);
    }

    #[test]
    fn a_version_of_many_small_pieces_has_few_files() {
        let mut files: Vec<Segment> = Vec::new();
        for _ in 0..50_000 {
            let n_joined = n_small(&files, 1);
            let joined = files.split_off(files.len() - n_joined);
            let n_rows = joined.iter().fold(1, |sum, file| sum + file.n_rows);
            files.extend(segments(&[(1, n_rows)]));
            assert!(files.len() <= 4 * FAN_IN, "{}", files.len());
        }
        assert_eq!(files.iter().map(|file| file.n_rows).sum::<u64>(), 50_000);
    }
}
