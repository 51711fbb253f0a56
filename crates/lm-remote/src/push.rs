//! Versions of a home into a place: first what nobody sees, at last the one line of the catalog that makes them count.
//!
//! It must never list a version of which something is missing, nor change one that is listed.
//!
//! Start reading at [`push`].

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use lm_data::{CarriedFile, DataError, DataHome, Link, Parcel, Pick, parcels};

use crate::catalog::{Catalog, Listed, MANIFEST};
use crate::crew::{Counted, OnProgress, each};
use crate::place::Put;
use crate::shelf::{MAX_CATALOG_BYTES, MAX_FILE_BYTES, Moved, MovedVersion, Once, Shelf};
use crate::{Place, RemoteError};

/// How often the catalog is written anew when others write it, too. Each time one of them succeeds.
const ENLIST_TRIES: u32 = 50;
const ENLIST_WAIT: Duration = Duration::from_millis(20);
/// How long another push of the same version may take for its last files.
const OTHER_TRIES: u32 = 20;
const OTHER_WAIT: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 500 });
/// A tag that no object has.
const NO_TAG: &str = "\"00000000000000000000000000000000\"";

/// What a place has of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing that counts.
    New,
    /// This very version.
    Listed,
    /// The same rows under the same contract, which were made apart from these.
    ListedOther,
}

/// Makes versions count in a place. What is there is not sent again, so a push that was cut off goes on where it was; a
/// version that is there and lacks a file gets it back. Others may push at the same time.
///
/// # Errors
/// [`RemoteError::Diverged`], [`RemoteError::Claimed`], [`RemoteError::NoConditions`], [`RemoteError::Unlistable`],
/// [`RemoteError::DamagedCatalog`], [`RemoteError::Newer`], [`RemoteError::Busy`], those of the store, and those of
/// [`parcels`].
pub fn push(
    place: &Place,
    home: &DataHome,
    name: &str,
    pick: Pick<'_>,
    tell: &OnProgress<'_>,
) -> Result<Moved, RemoteError> {
    let shelf = Shelf { place, name };
    let parcels = parcels(home, name, pick)?;
    let (catalog, _) = shelf.catalog()?;
    let (mut standings, mut new) = (Vec::new(), Vec::new());
    for parcel in &parcels {
        let link = Link::of(&parcel.manifest);
        let is_new = catalog.wants(link).map_err(|there| diverged(shelf, link, there))?;
        let is_same = || catalog.entry(link).is_some_and(|listed| is_manifest_of(listed, parcel));
        standings.push(match is_new {
            true => {
                new.push(parcel);
                Standing::New
            }
            false if is_same() => Standing::Listed,
            false => Standing::ListedOther,
        });
    }
    if !new.is_empty() {
        // What nobody could read is not sent.
        listing(shelf, catalog, &new)?;
    }
    let mut moved = send_objects(shelf, &parcels, &standings, tell)?;
    let mut is_proven = false;
    for (parcel, standing) in parcels.iter().zip(standings) {
        if standing == Standing::New && !is_proven {
            must_heed_conditions(shelf, parcel)?;
            is_proven = true;
        }
        let is_other_first = match standing {
            Standing::ListedOther => true,
            _ => !write_files(shelf, parcel, standing)?,
        };
        if standing == Standing::New && !is_other_first {
            enlist(shelf, parcel)?;
        }
        moved.versions.push(MovedVersion {
            sequence: parcel.manifest.sequence,
            version: parcel.manifest.version.clone(),
            rows_published: parcel.manifest.rows_published,
            was_there: is_other_first || standing != Standing::New,
        });
    }
    Ok(moved)
}

fn is_manifest_of(listed: &Listed, parcel: &Parcel) -> bool {
    let own = parcel.files.iter().find(|file| file.name == MANIFEST);
    own.is_some() && own == listed.file(MANIFEST)
}

fn diverged(shelf: Shelf<'_>, new: Link<'_>, there: Link<'_>) -> RemoteError {
    RemoteError::Diverged {
        name: shelf.name.to_owned(),
        place: shelf.place.url(),
        sequence: new.sequence,
        version: new.version.to_owned(),
        there_sequence: there.sequence,
        there: there.version.to_owned(),
    }
}

/// Sends the files of rows that are not there.
fn send_objects(
    shelf: Shelf<'_>,
    parcels: &[Parcel],
    standings: &[Standing],
    tell: &OnProgress<'_>,
) -> Result<Moved, RemoteError> {
    let there = shelf.objects()?;
    let mut seen = BTreeSet::new();
    let mut lacking: Vec<(&CarriedFile, PathBuf)> = Vec::new();
    let mut moved = Moved::default();
    for (parcel, standing) in parcels.iter().zip(standings) {
        if *standing == Standing::ListedOther {
            continue;
        }
        for object in parcel.objects.iter().filter(|object| seen.insert(object.name.as_str())) {
            if there.get(&object.name) == Some(&object.size_bytes) {
                moved.n_files_there += 1;
            } else {
                moved.n_files += 1;
                moved.size_bytes += object.size_bytes;
                lacking.push((object, parcel.objects_folder.join(&object.name)));
            }
        }
    }
    let counted = Counted::new(moved.size_bytes, tell);
    each(&lacking, |(object, path)| shelf.send(object, path, &counted))?;
    Ok(moved)
}

/// The catalog with these versions, too, as it is written.
fn listing(shelf: Shelf<'_>, mut catalog: Catalog, new: &[&Parcel]) -> Result<Bytes, RemoteError> {
    for parcel in new {
        catalog.add(Listed::of(parcel));
        if let Some(file) = parcel.files.iter().find(|file| file.size_bytes > MAX_FILE_BYTES) {
            let key = shelf.shown(&shelf.file_key(Link::of(&parcel.manifest), &file.name));
            let size_bytes = file.size_bytes;
            let detail = format!("it has {size_bytes} bytes, and at most {MAX_FILE_BYTES} may be");
            return Err(RemoteError::Unlistable { key, detail });
        }
    }
    let bytes = Bytes::from(catalog.to_json());
    let size_bytes = bytes.len() as u64;
    let surplus = (size_bytes > MAX_CATALOG_BYTES).then(|| {
        format!(
            "it would have {size_bytes} bytes, and at most {MAX_CATALOG_BYTES} may be: push to \
             another prefix"
        )
    });
    match catalog.fault().or(surplus) {
        None => Ok(bytes),
        Some(detail) => {
            let key = shelf.shown(&shelf.catalog_key());
            Err(RemoteError::Unlistable { key, detail })
        }
    }
}

/// Writes the contract, which whoever pushes this version writes first and with the same bytes, and tries twice to write
/// it again, which must be refused and otherwise does no harm.
fn must_heed_conditions(shelf: Shelf<'_>, parcel: &Parcel) -> Result<(), RemoteError> {
    let contract = parcel.files.iter().find(|file| file.name.starts_with("contract."));
    let contract = contract.expect("a published version has a contract: this is a bug");
    let bytes = read(parcel, contract)?;
    let key = shelf.file_key(Link::of(&parcel.manifest), &contract.name);
    let place = shelf.place;
    let ignores = |header| RemoteError::NoConditions { place: place.url(), header };
    let written = shelf.write_once(&key, &bytes)?;
    if written == Once::Written && place.create(&key, bytes.clone())? == Put::Done {
        return Err(ignores("If-None-Match"));
    }
    if written != Once::Other && place.replace(&key, bytes, NO_TAG.to_owned())? == Put::Done {
        return Err(ignores("If-Match"));
    }
    Ok(())
}

fn read(parcel: &Parcel, file: &CarriedFile) -> Result<Bytes, DataError> {
    let path = parcel.folder.join(&file.name);
    let bytes = fs::read(&path).map_err(|source| DataError::Io { action: "read", path, source })?;
    Ok(Bytes::from(bytes))
}

/// Writes the files of a version's folder, the manifest last. `false` when another push of the same version, of other
/// sources, was first and is listed by now.
fn write_files(shelf: Shelf<'_>, parcel: &Parcel, standing: Standing) -> Result<bool, RemoteError> {
    let link = Link::of(&parcel.manifest);
    for file in &parcel.files {
        let bytes = read(parcel, file)?;
        let key = shelf.file_key(link, &file.name);
        match shelf.write_once(&key, &bytes)? {
            Once::Written | Once::Same => {}
            Once::Other if standing == Standing::Listed => {
                let detail = "it is not what was pushed".to_owned();
                return Err(RemoteError::Damaged { key: shelf.shown(&key), detail });
            }
            Once::Other if is_listed_soon(shelf, link)? => return Ok(false),
            Once::Other => return Err(RemoteError::Claimed { key: shelf.shown(&key) }),
        }
    }
    Ok(true)
}

/// Who wrote the first file that is not ours lists the version, or was killed.
fn is_listed_soon(shelf: Shelf<'_>, link: Link<'_>) -> Result<bool, RemoteError> {
    for _ in 0..OTHER_TRIES {
        if shelf.catalog()?.0.entry(link).is_some() {
            return Ok(true);
        }
        thread::sleep(OTHER_WAIT);
    }
    Ok(false)
}

/// Adds the version to the catalog, in which others may write at the same time.
fn enlist(shelf: Shelf<'_>, parcel: &Parcel) -> Result<(), RemoteError> {
    let key = shelf.catalog_key();
    let link = Link::of(&parcel.manifest);
    for tries in 1..=ENLIST_TRIES {
        let (catalog, tag) = shelf.catalog()?;
        // Also when the answer to an earlier try was lost.
        if !catalog.wants(link).map_err(|there| diverged(shelf, link, there))? {
            return Ok(());
        }
        let bytes = listing(shelf, catalog, &[parcel])?;
        let put = match tag {
            None => shelf.place.create(&key, bytes)?,
            Some(tag) => shelf.place.replace(&key, bytes, tag)?,
        };
        if put == Put::Done {
            return Ok(());
        }
        thread::sleep(ENLIST_WAIT * tries);
    }
    Err(RemoteError::Busy { key: shelf.shown(&key), tries: ENLIST_TRIES })
}
