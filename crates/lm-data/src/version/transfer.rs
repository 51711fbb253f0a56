//! A version as the files that another place needs, and a version that comes from there.
//!
//! It must never know what carries the files, nor show a version of which something is missing.
//!
//! Start reading at [`parcels`], which go, and [`Arrival`], which comes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::io_error;
use crate::home::{
    DatasetFolder, DatasetLock, remove_folder, replace_whole, sync_folder, write_whole,
};
use crate::manifest::folder_name;
use crate::version::merkle::{Growing, Tree};
use crate::version::publish;
use crate::version::segment::digest;
use crate::{DataError, DataHome, Manifest, manifest};

/// The folder of an arrival; `gc` removes what begins so.
const SCRATCH: &str = "scratch-arrival";
/// What a version's folder may hold besides its contract.
const FILES: [&str; 3] = ["sources.jsonl", "lineage.jsonl", "manifest.json"];
const CONTRACTS: [&str; 2] = ["contract.toml", "contract.json"];

/// Which versions of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick<'a> {
    /// The newest.
    Newest,
    /// The one whose id begins so.
    Version(&'a str),
    /// All of them.
    All,
}

/// A file that is known by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedFile {
    /// In its folder.
    pub name: String,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub hash: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A published version as files: the same names and bytes in every place.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// What is known of it.
    pub manifest: Manifest,
    /// Those of its folder in the order in which they are published: the contract first, `manifest.json` last.
    pub files: Vec<CarriedFile>,
    /// Its folder.
    pub folder: PathBuf,
    /// Its rows and quarantined rows, each once.
    pub objects: Vec<CarriedFile>,
    /// Their folder.
    pub objects_folder: PathBuf,
}

/// A version's place among the others of its dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// From 1.
    pub sequence: u64,
    /// Its id.
    pub version: &'a str,
    /// The version before it.
    pub parent: Option<&'a str>,
}

impl<'a> Link<'a> {
    /// Of a manifest.
    pub fn of(manifest: &'a Manifest) -> Link<'a> {
        let Manifest { sequence, version, parent, .. } = manifest;
        Link { sequence: *sequence, version, parent: parent.as_deref() }
    }
}

/// Whether `new` has to be added to a line of versions; `false` when it is in it. Removed versions leave gaps.
///
/// # Errors
/// The version of the line that `new` cannot stand beside: it has the same number, or it is next to it and not its
/// parent or child.
pub fn joins<'a>(
    line: impl IntoIterator<Item = Link<'a>>,
    new: Link<'_>,
) -> Result<bool, Link<'a>> {
    let mut is_new = true;
    for link in line {
        if link.sequence == new.sequence {
            if link.version != new.version {
                return Err(link);
            }
            is_new = false;
        }
        let is_before = link.sequence + 1 == new.sequence;
        let is_after = new.sequence + 1 == link.sequence;
        if is_before && new.parent != Some(link.version)
            || is_after && link.parent != Some(new.version)
        {
            return Err(link);
        }
    }
    Ok(is_new)
}

/// The versions that are picked as files, the oldest first. Reads the files of their folders, and no rows.
///
/// # Errors
/// [`DataError::UnknownDataset`], [`DataError::UnknownVersion`], [`DataError::NoReport`], [`DataError::FirstFormat`].
pub fn parcels(home: &DataHome, name: &str, pick: Pick<'_>) -> Result<Vec<Parcel>, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let mut manifests = match pick {
        Pick::Newest => vec![manifest::newest(&dataset)?],
        Pick::Version(version) => vec![manifest::find(&dataset, version)?],
        Pick::All => manifest::published(&dataset)?,
    };
    if manifests.is_empty() {
        let wanted = "published version";
        return Err(DataError::NoReport { name: name.to_owned(), wanted });
    }
    manifests.reverse();
    manifests.into_iter().map(|manifest| parcel(&dataset, manifest)).collect()
}

fn parcel(dataset: &DatasetFolder, manifest: Manifest) -> Result<Parcel, DataError> {
    if manifest.is_first_format() {
        let (name, version) = (dataset.name.clone(), manifest.version);
        return Err(DataError::FirstFormat { name, version });
    }
    let folder = dataset.versions.join(manifest.folder_name());
    let mut files = Vec::new();
    for name in CONTRACTS.iter().chain(&FILES) {
        let path = folder.join(name);
        if path.is_file() {
            let (hash, size_bytes) = digest(&path)?;
            files.push(CarriedFile { name: (*name).to_owned(), hash, size_bytes });
        }
    }
    let objects = carried_objects(&manifest);
    let objects_folder = dataset.objects.clone();
    Ok(Parcel { manifest, files, folder, objects, objects_folder })
}

/// The files of rows and of quarantined rows that a version has, each once.
pub fn carried_objects(manifest: &Manifest) -> Vec<CarriedFile> {
    let rows = manifest.segments.iter().map(|segment| (segment, "parquet"));
    let quarantine = manifest.quarantine.iter().map(|segment| (segment, "jsonl"));
    let mut seen = BTreeSet::new();
    let mut objects = Vec::new();
    for (segment, extension) in rows.chain(quarantine) {
        let name = format!("{}.{extension}", segment.hash);
        if seen.insert(name.clone()) {
            let (hash, size_bytes) = (segment.hash.clone(), segment.size_bytes);
            objects.push(CarriedFile { name, hash, size_bytes });
        }
    }
    objects
}

/// Whether a version's folder may hold a file of this name.
pub fn is_carried(name: &str) -> bool {
    FILES.contains(&name) || CONTRACTS.contains(&name)
}

/// The name of a version's folder.
pub fn version_folder(sequence: u64, version: &str) -> String {
    folder_name(sequence, version)
}

/// Reads a manifest that comes from elsewhere, where it lies at `path`, and holds it against the digest that its
/// version is known by.
///
/// # Errors
/// [`DataError::Damaged`].
pub fn read_manifest(path: &Path, bytes: &[u8], contract: &[u8]) -> Result<Manifest, DataError> {
    let damaged = |detail: String| DataError::Damaged { path: path.to_owned(), detail };
    if bytes.len() as u64 > manifest::MAX_MANIFEST_BYTES {
        return Err(damaged(format!("it has {} bytes", bytes.len())));
    }
    let manifest = manifest::parse(path, bytes)?;
    let is_hash = |hash: &str| {
        hash.len() == 64 && hash.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    if let Some(object) = carried_objects(&manifest).iter().find(|object| !is_hash(&object.hash)) {
        let name: String = object.hash.chars().take(80).collect();
        return Err(damaged(format!("it names the file {name:?}, which is no digest")));
    }
    let contract = blake3::hash(contract);
    if manifest.contract_hash != contract.to_hex().as_str() {
        return Err(damaged(format!("its contract has the digest {}", contract.to_hex())));
    }
    let tree =
        |tree: &Tree| Growing::from_tree(tree).ok_or_else(|| damaged("its trees".to_owned()));
    let id = publish::id(&contract, &tree(&manifest.rows)?, &tree(&manifest.bad_rows)?);
    if manifest.is_first_format() || manifest.version != id {
        return Err(damaged(format!("it is the manifest of {id}")));
    }
    Ok(manifest)
}

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

    /// Shows a version, whose folder lies in the scratch folder and whose objects were kept. Its contract becomes the
    /// dataset's when it has none. Returns the folder.
    ///
    /// # Errors
    /// [`DataError::Damaged`] when an object is missing.
    pub fn publish(&mut self, manifest: Manifest) -> Result<PathBuf, DataError> {
        let folder = self.scratch.join(manifest.folder_name());
        if let Some(lacking) = carried_objects(&manifest).iter().find(|object| !self.has(object)) {
            let path = self.dataset.objects.join(&lacking.name);
            return Err(DataError::Damaged { path, detail: "it did not come".to_owned() });
        }
        if self.dataset.installed_contract().is_none() {
            self.install_contract(&folder)?;
        }
        sync_folder(&folder)?;
        let target = self.dataset.versions.join(manifest.folder_name());
        fs::rename(&folder, &target).map_err(io_error("publish as", &target))?;
        sync_folder(&self.dataset.versions)?;
        self.published.push(manifest);
        Ok(target)
    }

    fn install_contract(&self, folder: &Path) -> Result<(), DataError> {
        for name in CONTRACTS {
            let from = folder.join(name);
            if !from.is_file() {
                continue;
            }
            let bytes = fs::read(&from).map_err(io_error("read", &from))?;
            let extension = name.trim_start_matches("contract.");
            let target = self.dataset.contract.with_extension(extension);
            let contracts = target.parent().expect("a file lies in a folder: this is a bug");
            fs::create_dir_all(contracts).map_err(io_error("create the folder", contracts))?;
            return replace_whole(&target, &bytes);
        }
        Ok(())
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // The next one and `gc` would do it, too.
        let _ = remove_folder(&self.scratch);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn link<'a>(sequence: u64, version: &'a str, parent: &'a str) -> Link<'a> {
        Link { sequence, version, parent: Some(parent).filter(|parent| !parent.is_empty()) }
    }

    #[track_caller]
    fn check(line: &[Link<'_>], new: Link<'_>, expect: Result<bool, u64>) {
        let joined = joins(line.iter().copied(), new).map_err(|link| link.sequence);
        assert_eq!(joined, expect);
    }

    #[test]
    fn a_version_joins_the_line_that_it_was_made_in() {
        let line = [link(1, "a", ""), link(2, "b", "a"), link(5, "e", "d")];
        check(&[], link(7, "x", "w"), Ok(true));
        check(&line, link(2, "b", "a"), Ok(false));
        check(&line, link(3, "c", "b"), Ok(true));
        check(&line, link(3, "c", "x"), Err(2));
        check(&line, link(2, "x", "a"), Err(2));
        check(&line, link(4, "d", "c"), Ok(true));
        check(&line, link(4, "x", "c"), Err(5));
        check(&line, link(6, "f", "e"), Ok(true));
        check(&line, link(6, "f", ""), Err(5));
        check(&line, link(8, "h", "g"), Ok(true));
    }

    #[test]
    fn a_manifest_that_names_another_file_than_a_digest_is_refused() {
        let segment = crate::Segment { hash: "../../x".to_owned(), ..segment() };
        let manifest = Manifest { format: 2, segments: vec![segment], ..Manifest::default() };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let error = read_manifest(Path::new("m"), &bytes, b"").unwrap_err().to_string();
        assert!(error.contains("\"../../x\", which is no digest"), "{error}");
    }

    #[test]
    fn a_manifest_of_another_version_or_contract_is_refused() {
        let contract = b"format = 1";
        let hash = blake3::hash(contract);
        let tree = Growing::default();
        let mut manifest = Manifest {
            format: 2,
            version: publish::id(&hash, &tree, &tree),
            contract_hash: hash.to_hex().to_string(),
            ..Manifest::default()
        };
        let read = |manifest: &Manifest, contract: &[u8]| {
            let bytes = serde_json::to_vec(manifest).unwrap();
            read_manifest(Path::new("m"), &bytes, contract).map_err(|error| error.to_string())
        };
        assert_eq!(read(&manifest, contract).unwrap(), manifest);
        assert!(read(&manifest, b"format = 2").unwrap_err().contains("its contract"));
        manifest.rows.n_rows = 1;
        assert!(read(&manifest, contract).unwrap_err().contains("the manifest of"));
    }

    fn segment() -> crate::Segment {
        crate::Segment { hash: "0".repeat(64), n_rows: 1, size_bytes: 1 }
    }
}
