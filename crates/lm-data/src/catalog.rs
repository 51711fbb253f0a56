//! Which datasets there are, and their versions page by page.
//!
//! It must never read a row, nor more manifests than are asked for.
//!
//! Start reading at [`datasets`].

use crate::home::{DatasetFolder, entries};
use crate::{DataError, DataHome, Manifest, manifest};

/// One dataset, as a list shows it.
#[derive(Debug)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// How many versions it has.
    pub n_versions: usize,
    /// The newest version; `None` before the first. An error hides no other dataset.
    pub newest: Result<Option<Manifest>, DataError>,
}

/// Up to `limit` datasets by name, those behind `after` only.
///
/// # Errors
/// [`DataError::Io`] when the folder of datasets cannot be listed.
pub fn datasets(
    home: &DataHome,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Dataset>, DataError> {
    let mut names = entries(&home.0.join("datasets"))?;
    names.retain(|name| after.is_none_or(|after| name.as_str() > after));
    names.sort_unstable();
    let known = names.into_iter().filter_map(|name| home.dataset(&name).ok());
    let there = known.filter(|dataset| dataset.must_exist().is_ok());
    Ok(there.take(limit).map(|dataset| listed(&dataset)).collect())
}

fn listed(dataset: &DatasetFolder) -> Dataset {
    let n_versions = manifest::folders(dataset).map_or(0, |folders| folders.len());
    let newest = manifest::last(dataset);
    Dataset { name: dataset.name.clone(), n_versions, newest }
}

/// Up to `limit` versions of a dataset, newest first, those before the sequence `before` only.
///
/// # Errors
/// [`DataError::InvalidName`], [`DataError::UnknownDataset`], [`DataError::Damaged`].
pub fn versions(
    home: &DataHome,
    name: &str,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<Manifest>, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let folders = manifest::folders(&dataset)?.into_iter();
    let older = folders.filter(|(sequence, _)| before.is_none_or(|before| *sequence < before));
    older.take(limit).map(|(_, folder)| manifest::read(&dataset.versions.join(folder))).collect()
}

/// What the last ingest found that published nothing, because too many of its rows were bad; `None` when there was none.
///
/// # Errors
/// [`DataError::InvalidName`], [`DataError::UnknownDataset`], [`DataError::Damaged`].
pub fn unpublished(home: &DataHome, name: &str) -> Result<Option<Manifest>, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    // Names begin with the time, so the greatest is the newest.
    let newest = entries(&dataset.reports)?.into_iter().max();
    newest.map(|folder| manifest::read(&dataset.reports.join(folder))).transpose()
}
