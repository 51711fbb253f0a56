//! A version as the files that another place needs, and what is believed of one that comes from there.
//!
//! It must never know what carries the files, nor believe a number that it can check.
//!
//! Start reading at [`parcels`], then [`read_manifest`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::home::DatasetFolder;
use crate::manifest::folder_name;
use crate::version::merkle::{Growing, Tree};
use crate::version::publish;
use crate::version::segment::{Segment, digest};
use crate::{DataError, DataHome, Manifest, manifest};

/// What a version's folder may hold besides its contract.
const FILES: [&str; 3] = ["sources.jsonl", "lineage.jsonl", "manifest.json"];
pub(crate) const CONTRACTS: [&str; 2] = ["contract.toml", "contract.json"];

/// No number of a version may be larger: versions that build on it count on, and readers of JSON know no larger one in
/// all its digits.
pub const MAX_COUNT: u64 = 1 << 53;

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
        let is_before = link.sequence.checked_add(1) == Some(new.sequence);
        let is_after = new.sequence.checked_add(1) == Some(link.sequence);
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
/// version is known by. Whether the files that it names hold these rows is another matter.
///
/// # Errors
/// [`DataError::Damaged`], [`DataError::Newer`].
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
    fault(&manifest).map_or(Ok(manifest), |fault| Err(damaged(fault)))
}

/// A number that cannot be, or is not that of the trees, which the id stands for.
fn fault(manifest: &Manifest) -> Option<String> {
    let numbers = [
        ("sequence", manifest.sequence),
        ("rows_in", manifest.rows_in),
        ("blank_lines", manifest.blank_lines),
        ("created_at_ms", manifest.created_at_ms),
        ("batch_rows_in", manifest.batch_rows_in),
        ("n_sources", manifest.n_sources),
        ("sources_repeated", manifest.sources_repeated),
        ("rows_repeated", manifest.rows_repeated),
        ("rows_released", manifest.rows_released),
    ];
    let by_rule = manifest.by_rule.values().map(|n_rows| ("by_rule", *n_rows));
    let mut numbers = numbers.into_iter().chain(by_rule);
    if let Some((name, value)) = numbers.find(|(_, value)| *value > MAX_COUNT) {
        return Some(format!("{name} is {value}, and at most {MAX_COUNT} may be"));
    }
    if manifest.sequence == 0 {
        return Some("sequence is 0, and versions count from 1".to_owned());
    }
    let Manifest { segments, rows, rows_published, .. } = manifest;
    let Manifest { quarantine, bad_rows, rows_quarantined, .. } = manifest;
    for (name, n_rows, tree, segments) in [
        ("rows_published", *rows_published, rows, segments),
        ("rows_quarantined", *rows_quarantined, bad_rows, quarantine),
    ] {
        let in_files = sum(segments, |segment| segment.n_rows);
        if n_rows != tree.n_rows || in_files != Some(n_rows) {
            let (in_tree, in_files) = (tree.n_rows, in_files.unwrap_or(u64::MAX));
            return Some(format!(
                "{name} is {n_rows}, its tree has {in_tree} rows, and its files have {in_files}"
            ));
        }
        if sum(segments, |segment| segment.size_bytes).is_none_or(|bytes| bytes > MAX_COUNT) {
            return Some(format!("the files of {name} have more than {MAX_COUNT} bytes"));
        }
    }
    None
}

fn sum(segments: &[Segment], count: impl Fn(&Segment) -> u64) -> Option<u64> {
    segments.iter().try_fold(0_u64, |sum, segment| sum.checked_add(count(segment)))
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
        check(&line, link(u64::MAX, "z", "y"), Ok(true));
        check(&[link(u64::MAX, "z", "y")], link(0, "", ""), Ok(true));
    }

    #[test]
    fn a_manifest_that_names_another_file_than_a_digest_is_refused() {
        let segment = Segment { hash: "../../x".to_owned(), ..segment() };
        let manifest = Manifest { format: 2, segments: vec![segment], ..Manifest::default() };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let error = read_manifest(Path::new("m"), &bytes, b"").unwrap_err().to_string();
        assert!(error.contains("\"../../x\", which is no digest"), "{error}");
    }

    /// A manifest of two rows under this contract, in a file each, and of one in quarantine.
    fn whole(contract: &[u8]) -> Manifest {
        let contract = blake3::hash(contract);
        let (mut rows, mut bad_rows) = (Growing::default(), Growing::default());
        rows.push(blake3::hash(b"a"));
        rows.push(blake3::hash(b"b"));
        bad_rows.push(blake3::hash(b"c"));
        Manifest {
            format: 2,
            version: publish::id(&contract, &rows, &bad_rows),
            sequence: 1,
            contract_hash: contract.to_hex().to_string(),
            rows_in: 3,
            rows_published: 2,
            rows_quarantined: 1,
            rows: rows.tree(),
            bad_rows: bad_rows.tree(),
            segments: vec![segment(), segment()],
            quarantine: vec![segment()],
            ..Manifest::default()
        }
    }

    #[track_caller]
    fn check_read(change: impl Fn(&mut Manifest), contract: &[u8], expect: &str) {
        let mut manifest = whole(b"format = 1");
        change(&mut manifest);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        match read_manifest(Path::new("m"), &bytes, contract).map_err(|error| error.to_string()) {
            Ok(read) => assert_eq!((read, ""), (manifest, expect)),
            Err(error) => assert!(!expect.is_empty() && error.contains(expect), "{error}"),
        }
    }

    #[test]
    fn a_manifest_of_another_version_or_contract_is_refused() {
        let contract = b"format = 1";
        check_read(|_| {}, contract, "");
        check_read(|_| {}, b"format = 2", "its contract");
        check_read(|manifest| manifest.rows.peaks.swap_remove(0).clear(), contract, "its trees");
        check_read(|manifest| manifest.rows.n_rows = 4, contract, "the manifest of");
        check_read(|manifest| manifest.rows.n_rows = 3, contract, "its trees");
        check_read(|manifest| manifest.bad_rows = Tree::default(), contract, "the manifest of");
    }

    #[test]
    fn a_manifest_with_numbers_that_cannot_be_is_refused() {
        let check = |change: fn(&mut Manifest), expect| check_read(change, b"format = 1", expect);
        check(|manifest| manifest.sequence = 0, "sequence is 0");
        check(|manifest| manifest.sequence = MAX_COUNT, "");
        check(|manifest| manifest.sequence = u64::MAX, "sequence is 18446744073709551615");
        check(|manifest| manifest.rows_in = u64::MAX, "rows_in is");
        check(|manifest| manifest.rows_repeated = MAX_COUNT + 1, "rows_repeated is");
        check(|manifest| _ = manifest.by_rule.insert("x".to_owned(), u64::MAX), "by_rule is");
        check(|manifest| manifest.rows_published = 3, "rows_published is 3, its tree has 2");
        check(|manifest| manifest.rows_quarantined = 0, "rows_quarantined is 0, its tree has 1");
        check(|manifest| manifest.segments[0].n_rows = 2, "its files have 3");
        check(|manifest| manifest.segments[0].n_rows = u64::MAX, "rows_published is 2");
        check(|manifest| _ = manifest.segments.pop(), "its files have 1");
        check(|manifest| manifest.segments[0].size_bytes = MAX_COUNT, "rows_published have more");
        check(|manifest| manifest.quarantine[0].size_bytes = u64::MAX, "rows_quarantined have");
    }

    fn segment() -> Segment {
        Segment { hash: "0".repeat(64), n_rows: 1, size_bytes: 1 }
    }
}
