//! The rows of a version, whatever its format.
//!
//! It must never hold more than a row group.
//!
//! Start reading at [`VersionRows`].

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use crate::DataError;
use crate::Manifest;
use crate::error::io_error;
use crate::home::DatasetFolder;
use crate::version::segment::{Rows, StoredRow};

/// Reads the rows in order.
pub(crate) struct VersionRows {
    segments: std::vec::IntoIter<PathBuf>,
    open: Option<Rows>,
    lines: Option<(PathBuf, BufReader<File>)>,
}

impl VersionRows {
    pub(crate) fn open(dataset: &DatasetFolder, manifest: &Manifest) -> Result<Self, DataError> {
        if manifest.is_first_format() {
            let path = dataset.versions.join(&manifest.version).join("rows.jsonl");
            let file = File::open(&path).map_err(io_error("open", &path))?;
            let lines = Some((path, BufReader::new(file)));
            return Ok(VersionRows { segments: Vec::new().into_iter(), open: None, lines });
        }
        let path =
            |segment: &crate::Segment| dataset.objects.join(format!("{}.parquet", segment.hash));
        let segments: Vec<PathBuf> = manifest.segments.iter().map(path).collect();
        Ok(VersionRows::of(segments))
    }

    pub(crate) fn of(segments: Vec<PathBuf>) -> VersionRows {
        VersionRows { segments: segments.into_iter(), open: None, lines: None }
    }

    fn read(&mut self) -> Result<Option<StoredRow>, DataError> {
        if let Some((path, lines)) = &mut self.lines {
            let mut text = String::new();
            let n = lines.read_line(&mut text).map_err(io_error("read", path))?;
            let text = text.trim_end_matches('\n').to_owned();
            return Ok((n > 0).then(|| StoredRow { text, ..StoredRow::default() }));
        }
        loop {
            if let Some(row) = self.open.as_mut().and_then(Iterator::next) {
                return row.map(Some);
            }
            let Some(path) = self.segments.next() else { return Ok(None) };
            self.open = Some(Rows::open(&path)?);
        }
    }
}

impl Iterator for VersionRows {
    type Item = Result<StoredRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
