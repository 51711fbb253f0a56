//! Versions that come from elsewhere into a home.
//!
//! It must never know what carries the files, nor show a version of which something is missing or is another's.
//!
//! Start reading at [`Arrival`].

use std::fs;
use std::path::PathBuf;

use crate::check::contract;
use crate::error::io_error;
use crate::home::{DatasetFolder, DatasetLock, remove_folder, sync_folder, write_whole};
use crate::manifest::folder_name;
use crate::version::proof;
use crate::version::segment::digest;
use crate::version::transfer::{CONTRACTS, CarriedFile, Link, carried_objects, joins};
use crate::{DataError, DataHome, Manifest, manifest};

/// The folder of an arrival; `gc` removes what begins so.
const SCRATCH: &str = "scratch-arrival";

/// Versions that come from elsewhere: file by file, and shown when they are whole. While it lives no ingest of the
/// dataset runs.
pub struct Arrival {
    dataset: DatasetFolder,
    scratch: PathBuf,
    published: Vec<Manifest>,
    _lock: DatasetLock,
}

impl Arrival {
    /// Makes the dataset when there is none.
    ///
    /// # Errors
    /// [`DataError::InvalidName`], [`DataError::Locked`], [`DataError::Damaged`].
    pub fn begin(home: &DataHome, name: &str) -> Result<Arrival, DataError> {
        let dataset = home.dataset(name)?;
        let lock = dataset.lock()?;
        let published = manifest::published(&dataset)?;
        let scratch = dataset.objects.with_file_name(SCRATCH);
        // What a killed one left: its whole files have their names among the objects.
        remove_folder(&scratch)?;
        fs::create_dir_all(&scratch).map_err(io_error("create the folder", &scratch))?;
        Ok(Arrival { dataset, scratch, published, _lock: lock })
    }

    /// Whether the version has to come; `false` when it is here.
    ///
    /// # Errors
    /// [`DataError::Diverged`].
    pub fn wants(&self, new: Link<'_>) -> Result<bool, DataError> {
        joins(self.published.iter().map(Link::of), new).map_err(|here| DataError::Diverged {
            name: self.dataset.name.clone(),
            sequence: new.sequence,
            version: new.version.to_owned(),
            here_sequence: here.sequence,
            here: here.version.to_owned(),
        })
    }

    /// Whether the object is here, by its name and its size.
    pub fn has(&self, object: &CarriedFile) -> bool {
        let metadata = self.dataset.objects.join(&object.name).metadata();
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == object.size_bytes)
    }

    /// Where an object is written before it counts.
    pub fn scratch(&self, object: &CarriedFile) -> PathBuf {
        self.scratch.join(&object.name)
    }

    /// Writes a file of a version's folder, which does not count before the version is published.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn write(&self, link: Link<'_>, file: &str, bytes: &[u8]) -> Result<(), DataError> {
        let folder = self.scratch.join(folder_name(link.sequence, link.version));
        fs::create_dir_all(&folder).map_err(io_error("create the folder", &folder))?;
        write_whole(&folder.join(file), bytes)
    }

    /// Gives an object, whole in the scratch folder and of the right digest, its name. It outlives a kill from then on.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn keep(&self, object: &CarriedFile) -> Result<(), DataError> {
        let target = self.dataset.objects.join(&object.name);
        fs::rename(self.scratch(object), &target).map_err(io_error("store as", &target))?;
        sync_folder(&self.dataset.objects)
    }

    /// Shows versions, the oldest first, whose folders lie in the scratch folder and whose objects were kept: when all of
    /// them hold the rows of their ids, and otherwise none. The contract of the newest version becomes the dataset's when
    /// it has none, or that of the version that was the newest before. Returns whether another one is installed, and stays.
    ///
    /// # Errors
    /// [`DataError::Damaged`] when an object is missing, [`DataError::OtherRows`].
    pub fn publish(&mut self, manifests: Vec<Manifest>) -> Result<bool, DataError> {
        for (i, manifest) in manifests.iter().enumerate() {
            let objects = carried_objects(manifest);
            if let Some(lacking) = objects.iter().find(|object| !self.has(object)) {
                let path = self.dataset.objects.join(&lacking.name);
                return Err(DataError::Damaged { path, detail: "it did not come".to_owned() });
            }
            proof::check(&self.dataset, manifest, self.published.iter().chain(&manifests[..i]))?;
        }
        // Before the renames, as an ingest does: a kill between the two leaves a contract that the next pull finds in its
        // place, never a version with an older one.
        let is_other = self.settle_contract(&manifests)?;
        for manifest in manifests {
            let folder = self.scratch.join(manifest.folder_name());
            sync_folder(&folder)?;
            let target = self.dataset.versions.join(manifest.folder_name());
            fs::rename(&folder, &target).map_err(io_error("publish as", &target))?;
            sync_folder(&self.dataset.versions)?;
            self.published.push(manifest);
        }
        Ok(is_other)
    }

    /// Installs the contract of what will be the newest version. `true` when one is installed that is neither its nor
    /// that of the version before: somebody chose it, and it stays.
    fn settle_contract(&self, coming: &[Manifest]) -> Result<bool, DataError> {
        let here = self.published.iter().max_by_key(|manifest| manifest.sequence);
        let Some(newest) = coming.iter().max_by_key(|manifest| manifest.sequence) else {
            return Ok(false);
        };
        let is_new = here.is_none_or(|here| here.sequence < newest.sequence);
        let newest = here.filter(|_| !is_new).unwrap_or(newest);
        let installed = self.dataset.installed_contract();
        if let Some((installed, _)) = installed.as_deref().map(digest).transpose()? {
            if !is_new || installed == newest.contract_hash {
                return Ok(false);
            }
            if here.is_none_or(|here| installed != here.contract_hash) {
                return Ok(true);
            }
        }
        let folders = if is_new { &self.scratch } else { &self.dataset.versions };
        let folder = folders.join(newest.folder_name());
        let found = CONTRACTS.iter().find(|name| folder.join(name).is_file());
        let Some(name) = found else { return Ok(false) };
        let path = folder.join(name);
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        contract::install(&self.dataset.contract, name.trim_start_matches("contract."), &bytes)?;
        Ok(false)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // The next one and `gc` would do it, too.
        let _ = remove_folder(&self.scratch);
    }
}
