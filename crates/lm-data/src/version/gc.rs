//! What nobody needs any more: old versions, when asked, and files that no version has.
//!
//! It must never remove what a kept version needs.
//!
//! Start reading at [`gc`].

use std::collections::BTreeSet;
use std::fs;

use serde::Serialize;

use crate::error::io_error;
use crate::home::{entries, remove_folder};
use crate::{DataError, DataHome, manifest};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Versions.
    pub versions: Vec<String>,
    /// Files of rows.
    pub n_objects: u64,
    /// Their size.
    pub size_bytes: u64,
}

/// Removes all but the `keep` newest versions, or none when it is `None`, and then every file that no version has:
/// leftovers of ingests that were killed.
///
/// # Errors
/// [`DataError::Locked`], [`DataError::UnknownDataset`], [`DataError::InvalidOption`] for 0 versions to keep.
pub fn gc(home: &DataHome, name: &str, keep: Option<usize>) -> Result<Collected, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    if keep == Some(0) {
        let (field, value, limit) = ("keep", "0".to_owned(), "at least 1");
        return Err(DataError::InvalidOption { field, value, limit });
    }
    let _lock = dataset.lock()?;
    let mut versions = manifest::published(&dataset)?;
    let mut collected = Collected::default();
    for old in versions.split_off(keep.unwrap_or(usize::MAX).min(versions.len())) {
        remove_folder(&dataset.versions.join(old.folder_name()))?;
        collected.versions.push(old.version);
    }
    let root = dataset.objects.parent().unwrap_or(&dataset.objects);
    for leftover in entries(root)?.iter().filter(|name| name.starts_with("scratch-")) {
        remove_folder(&root.join(leftover))?;
    }
    let mut needed = BTreeSet::new();
    for version in &versions {
        needed.extend(version.segments.iter().map(|segment| format!("{}.parquet", segment.hash)));
        needed.extend(version.quarantine.iter().map(|segment| format!("{}.jsonl", segment.hash)));
    }
    for object in entries(&dataset.objects)? {
        if needed.contains(&object) {
            continue;
        }
        let path = dataset.objects.join(object);
        collected.n_objects += 1;
        collected.size_bytes += path.metadata().map_or(0, |metadata| metadata.len());
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
    }
    Ok(collected)
}
