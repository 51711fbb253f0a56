//! What nobody needs any more: old versions, when asked, and files that no version has.
//!
//! It must never remove what a kept version needs.
//!
//! Start reading at [`gc`].

use std::collections::BTreeSet;
use std::fs;

use serde::Serialize;

use crate::error::io_error;
use crate::home::{DatasetFolder, entries, remove_folder, sync_folder};
use crate::{DataError, DataHome, manifest, stage};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Versions.
    pub versions: Vec<String>,
    /// Files of rows, and of ingests that did not end.
    pub n_objects: u64,
    /// Their size.
    pub size_bytes: u64,
}

/// Removes all but the `keep` newest versions, or none when it is `None`, and then every file that no version has:
/// leftovers of ingests that were killed or failed. What a killed ingest can go on with stays.
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
        take_away(&dataset, &old.folder_name())?;
        collected.versions.push(old.version);
    }
    for folder in entries(&dataset.versions)? {
        if manifest::is_version(&folder) && manifest::is_remains(&dataset, &folder) {
            take_away(&dataset, &folder)?;
        }
    }
    sync_folder(&dataset.versions)?;
    let root = dataset.objects.parent().unwrap_or(&dataset.objects);
    for leftover in entries(root)?.iter().filter(|name| name.starts_with("scratch-")) {
        remove_folder(&root.join(leftover))?;
    }
    let mut needed = BTreeSet::new();
    for version in &versions {
        needed.extend(version.segments.iter().map(|segment| format!("{}.parquet", segment.hash)));
        needed.extend(version.quarantine.iter().map(|segment| format!("{}.jsonl", segment.hash)));
    }
    let mut leftovers = entries(&dataset.objects)?;
    leftovers.retain(|object| !needed.contains(object));
    let mut leftovers: Vec<_> =
        leftovers.into_iter().map(|object| dataset.objects.join(object)).collect();
    leftovers.extend(stage::leftovers(&dataset)?);
    for path in leftovers {
        if path.is_dir() {
            remove_folder(&path)?;
            continue;
        }
        collected.n_objects += 1;
        collected.size_bytes += path.metadata().map_or(0, |metadata| metadata.len());
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
    }
    Ok(collected)
}

/// Takes a folder away from the versions by one rename: who is killed while it is removed leaves no half version.
fn take_away(dataset: &DatasetFolder, folder: &str) -> Result<(), DataError> {
    let from = dataset.versions.join(folder);
    let to = dataset.objects.with_file_name(format!("scratch-{folder}"));
    // Of one that came back after it was taken away.
    remove_folder(&to)?;
    fs::rename(&from, &to).map_err(io_error("remove", &from))
}
