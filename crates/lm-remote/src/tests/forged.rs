//! Places in which somebody wrote what no home pushed: an id is trusted, and what comes under it is not.

use lm_data::{DataError, Segment};
use serde_json::Value;

use super::*;

/// A row in quarantine, as it is written.
const BAD: &[u8] =
    b"{\"offset_bytes\":0,\"line\":1,\"rule\":\"r\",\"detail\":\"d\",\"size_bytes\":1,\
    \"encoding\":\"utf8\",\"raw\":\"x\"}\n";

/// Writes another manifest of the version that is the newest, and lists it.
fn forge(place: &Place, version: &Manifest, change: impl Fn(&mut Manifest)) {
    let mut manifest = version.clone();
    change(&mut manifest);
    let bytes = serde_json::to_vec_pretty(&manifest).unwrap();
    let mut catalog: Value = serde_json::from_slice(&stored(place)["catalog.json"]).unwrap();
    let versions = catalog["versions"].as_array_mut().unwrap();
    let files = versions.last_mut().unwrap()["files"].as_array_mut().unwrap();
    let file = files.iter_mut().find(|file| file["name"] == "manifest.json").unwrap();
    file["hash"] = blake3::hash(&bytes).to_hex().as_str().into();
    file["size_bytes"] = bytes.len().into();
    let folder = lm_data::version_folder(version.sequence, &version.version);
    put(place, &format!("versions/{folder}/manifest.json"), bytes);
    put(place, "catalog.json", serde_json::to_vec(&catalog).unwrap());
}

/// A pull of the forged version beside others, into a home that has the first one, and a checkout: nothing is taken in.
#[track_caller]
fn check(change: impl Fn(&mut Manifest, &Manifest), expect: &str) {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    let other = Home::new();
    home.push(&place, Pick::Version(&versions[0].version)).unwrap();
    other.pull(&place, Pick::Newest).unwrap();
    home.push(&place, Pick::All).unwrap();

    let hostile = Home::new();
    let foreign = hostile.add("x.jsonl", &["x"]);
    let objects = hostile.files().into_iter().filter(|(path, _)| path.starts_with("objects/"));
    objects.for_each(|(path, bytes)| put(&place, &path, bytes));
    put(&place, &format!("objects/{}.jsonl", bad().hash), BAD.to_vec());
    forge(&place, &versions[2], |manifest| change(manifest, &foreign));
    let (log, files) = (lm_data::log(&other.data, NAME).unwrap(), other.files());
    let error = other.pull(&place, Pick::All).unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
    assert_eq!(lm_data::log(&other.data, NAME).unwrap(), log);
    let versions_of = |files: BTreeMap<String, Vec<u8>>| -> Vec<String> {
        files.into_keys().filter(|path| path.starts_with("versions")).collect()
    };
    assert_eq!(versions_of(other.files()), versions_of(files));

    let target = other.folder.path().join("target");
    let id = &versions[2].version;
    let checked_out = crate::checkout(&place, NAME, Some(id), &target, &|_| {});
    if expect.contains("the quarantined rows") {
        // Those are no part of a checkout.
        checked_out.unwrap();
        return;
    }
    let error = checked_out.unwrap_err().to_string();
    assert!(error.contains(expect) && !target.exists(), "{error}");
}

#[test]
fn rows_that_are_not_those_of_the_id_are_not_taken_in() {
    let last = |manifest: &mut Manifest, foreign: &Manifest| {
        manifest.segments[2] = foreign.segments[0].clone();
    };
    check(last, "the rows of version");
    let first = |manifest: &mut Manifest, foreign: &Manifest| {
        manifest.segments[0] = foreign.segments[0].clone();
    };
    check(first, "the rows of version");
    check(|manifest, _| manifest.segments.swap(0, 1), "the rows of version");
    check(|manifest, _| manifest.quarantine = vec![bad()], "the quarantined rows of version");
}

/// A file that holds a row, and says that it holds none.
fn bad() -> Segment {
    let hash = blake3::hash(BAD).to_hex().to_string();
    Segment { hash, n_rows: 0, size_bytes: BAD.len() as u64 }
}

#[test]
fn numbers_that_are_not_those_of_the_id_are_not_taken_in() {
    let check = |change: fn(&mut Manifest), expect| check(|manifest, _| change(manifest), expect);
    check(|manifest| manifest.rows.peaks.clear(), "its trees");
    check(|manifest| manifest.rows_in = u64::MAX, "rows_in is 18446744073709551615");
    check(|manifest| manifest.rows_quarantined = 1, "a push does not mend it");
    check(|manifest| manifest.segments[0].size_bytes = u64::MAX, "the files of rows_published");
    check(|manifest| manifest.parent = None, "it is not that of version 3");
    check(|manifest| manifest.format = 3, "is of format 3, and this program knows 2: update");
}

#[test]
fn a_file_that_was_here_and_is_damaged_is_not_blamed_on_the_place() {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    home.push(&place, Pick::All).unwrap();
    let other = Home::new();
    other.pull(&place, Pick::Version(&versions[1].version)).unwrap();
    // The version goes, its files stay, and one of them is exchanged for another of its size.
    fs::remove_dir_all(other.dataset().join("versions")).unwrap();
    let path = |at: usize| {
        other.dataset().join("objects").join(format!("{}.parquet", versions[1].segments[at].hash))
    };
    let size_bytes = |at: usize| versions[1].segments[at].size_bytes;
    assert_eq!(size_bytes(0), size_bytes(1));
    fs::copy(path(1), path(0)).unwrap();
    let error = other.pull(&place, Pick::Newest).unwrap_err();
    assert!(matches!(error, RemoteError::Data(DataError::Damaged { .. })), "{error}");
    assert!(error.to_string().contains(path(0).to_str().unwrap()), "{error}");
    assert_eq!(lm_data::log(&other.data, NAME).unwrap(), []);
}
