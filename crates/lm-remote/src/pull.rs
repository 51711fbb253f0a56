//! Versions of a place into a home, or into a folder, and what can be asked of them where they lie.
//!
//! It must never take in a file that is not what the catalog and its manifest say.
//!
//! Start reading at [`pull`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lm_data::{
    Arrival, CarriedFile, DataError, DataHome, Link, Manifest, NewFolder, Pick, Version,
    VersionSummary, carried_objects, check_rows, read_manifest, version_folder,
};

use crate::catalog::{Catalog, Listed, MANIFEST};
use crate::crew::{Counted, OnProgress, each};
use crate::shelf::{Moved, MovedVersion, Shelf};
use crate::{Place, RemoteError};

/// Takes versions into a home. What is there is not fetched again, so a pull that was cut off goes on where it was.
///
/// # Errors
/// [`RemoteError::UnknownDataset`], [`RemoteError::UnknownVersion`], [`RemoteError::Missing`],
/// [`RemoteError::Damaged`], [`RemoteError::DamagedCatalog`], [`RemoteError::Newer`], [`RemoteError::Untrue`], those of
/// the store, and of the home [`DataError::Diverged`], [`DataError::Locked`] and [`DataError::OtherRows`].
pub fn pull(
    place: &Place,
    home: &DataHome,
    name: &str,
    pick: Pick<'_>,
    tell: &OnProgress<'_>,
) -> Result<Moved, RemoteError> {
    let shelf = Shelf { place, name };
    let catalog = shelf.known()?;
    let mut arrival = Arrival::begin(home, name)?;
    let mut moved = Moved::default();
    let mut manifests = Vec::new();
    for listed in picked(shelf, &catalog, pick)? {
        let is_wanted = arrival.wants(listed.link())?;
        if is_wanted {
            let take = |file: &str, bytes: &[u8]| {
                arrival.write(listed.link(), file, bytes).map_err(RemoteError::from)
            };
            manifests.push(fetch_folder(shelf, listed, take)?);
        }
        moved.versions.push(MovedVersion {
            sequence: listed.sequence,
            version: listed.version.clone(),
            rows_published: listed.rows_published,
            was_there: !is_wanted,
        });
    }
    let mut seen = BTreeSet::new();
    let mut lacking = Vec::new();
    for object in manifests.iter().flat_map(carried_objects) {
        if !seen.insert(object.name.clone()) {
            continue;
        }
        if arrival.has(&object) {
            moved.n_files_there += 1;
        } else {
            moved.n_files += 1;
            // Only sizes that somebody made up could be more.
            moved.size_bytes = moved.size_bytes.saturating_add(object.size_bytes);
            lacking.push(object);
        }
    }
    let counted = Counted::new(moved.size_bytes, tell);
    each(&lacking, |object| {
        shelf.fetch(object, &arrival.scratch(object), &counted)?;
        Ok(arrival.keep(object)?)
    })?;
    moved.contract_differs = arrival.publish(manifests)?;
    Ok(moved)
}

fn picked<'a>(
    shelf: Shelf<'_>,
    catalog: &'a Catalog,
    pick: Pick<'_>,
) -> Result<Vec<&'a Listed>, RemoteError> {
    catalog.pick(pick).map_err(|error| {
        let version = match pick {
            Pick::Version(version) => version.chars().take(80).collect(),
            Pick::Newest | Pick::All => String::new(),
        };
        let (name, place) = (shelf.name.to_owned(), shelf.place.url());
        RemoteError::UnknownVersion { name, place, version, n_matches: error.n_matches }
    })
}

/// Fetches the files of a version's folder, gives them to `take`, and reads its manifest.
fn fetch_folder(
    shelf: Shelf<'_>,
    listed: &Listed,
    mut take: impl FnMut(&str, &[u8]) -> Result<(), RemoteError>,
) -> Result<Manifest, RemoteError> {
    for file in &listed.files {
        if file.name != MANIFEST {
            take(&file.name, &shelf.read(listed, file)?)?;
        }
    }
    let (manifest, bytes) = manifest_of(shelf, listed)?;
    take(MANIFEST, &bytes)?;
    Ok(manifest)
}

/// The manifest of a listed version, and its bytes.
fn manifest_of(shelf: Shelf<'_>, listed: &Listed) -> Result<(Manifest, bytes::Bytes), RemoteError> {
    let key = shelf.shown(&shelf.file_key(listed.link(), MANIFEST));
    let lacks = |what: &str| RemoteError::DamagedCatalog {
        key: shelf.shown(&shelf.catalog_key()),
        detail: format!("version {} has no {what}", listed.sequence),
    };
    let untrue = |detail| RemoteError::Untrue { key: key.clone(), detail };
    let contract = listed.contract().ok_or_else(|| lacks("contract"))?;
    let contract = shelf.read(listed, contract)?;
    let file = listed.file(MANIFEST).ok_or_else(|| lacks("manifest"))?;
    let bytes = shelf.read(listed, file)?;
    let manifest = read_manifest(Path::new(&key), &bytes, &contract);
    let manifest = manifest.map_err(|error| match error {
        DataError::Damaged { detail, .. } => untrue(detail),
        other => RemoteError::Data(other),
    })?;
    if Link::of(&manifest) != listed.link() {
        return Err(untrue(format!("it is not that of version {}", listed.sequence)));
    }
    Ok((manifest, bytes))
}

/// The versions of a dataset, newest first.
///
/// # Errors
/// [`RemoteError::UnknownDataset`], and those of the store.
pub fn log(place: &Place, name: &str) -> Result<Vec<VersionSummary>, RemoteError> {
    let catalog = Shelf { place, name }.known()?;
    Ok(catalog.newest_first().map(Listed::summary).collect())
}

/// One version: the newest, or the one whose id begins so.
///
/// # Errors
/// As [`pull`], but for those of the home.
pub fn show(place: &Place, name: &str, version: Option<&str>) -> Result<Version, RemoteError> {
    let shelf = Shelf { place, name };
    let catalog = shelf.known()?;
    let listed = one(shelf, &catalog, version)?;
    let (manifest, _) = manifest_of(shelf, listed)?;
    let folder = version_folder(listed.sequence, &listed.version);
    let folder = shelf.shown(&place.key(&["datasets", name, "versions", &folder]));
    let folder = PathBuf::from(folder);
    Ok(Version { manifest, already_published: true, warnings: Vec::new(), folder })
}

fn one<'a>(
    shelf: Shelf<'_>,
    catalog: &'a Catalog,
    version: Option<&str>,
) -> Result<&'a Listed, RemoteError> {
    let pick = version.map_or(Pick::Newest, Pick::Version);
    let found = picked(shelf, catalog, pick)?;
    Ok(found.first().expect("a known dataset has a version: this is a bug"))
}

/// Writes a version into a new folder, as [`lm_data::checkout`] does, without a home. The folder appears when all of it is
/// there and holds the rows of the version's id.
///
/// # Errors
/// As [`pull`], and [`DataError::Exists`].
pub fn checkout(
    place: &Place,
    name: &str,
    version: Option<&str>,
    target: &Path,
    tell: &OnProgress<'_>,
) -> Result<Manifest, RemoteError> {
    let shelf = Shelf { place, name };
    let catalog = shelf.known()?;
    let listed = one(shelf, &catalog, version)?;
    let whole = NewFolder::begin(target)?;
    let manifest = fetch_folder(shelf, listed, |file, bytes| {
        let path = whole.path().join(file);
        let written = fs::write(&path, bytes);
        written.map_err(|source| RemoteError::Data(DataError::Io { action: "write", path, source }))
    })?;
    let parts: Vec<(CarriedFile, PathBuf)> = parts(&manifest, whole.path());
    let size_bytes = parts.iter().map(|(object, _)| object.size_bytes).sum();
    let counted = Counted::new(size_bytes, tell);
    each(&parts, |(object, path)| shelf.fetch(object, path, &counted))?;
    check_rows(&manifest, parts.into_iter().map(|(_, path)| path).collect())?;
    whole.show()?;
    Ok(manifest)
}

/// The files of rows in their order, under the names that a checkout gives them.
fn parts(manifest: &Manifest, target: &Path) -> Vec<(CarriedFile, PathBuf)> {
    let part = |(i, segment): (usize, &lm_data::Segment)| {
        let (hash, size_bytes) = (segment.hash.clone(), segment.size_bytes);
        let object = CarriedFile { name: format!("{hash}.parquet"), hash, size_bytes };
        (object, target.join(format!("part-{i:05}.parquet")))
    };
    manifest.segments.iter().enumerate().map(part).collect()
}
