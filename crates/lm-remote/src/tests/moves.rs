//! What goes and what comes back, also after it was cut off anywhere.

use std::collections::BTreeSet;
use std::sync::Mutex;

use lm_data::{CarriedFile, DataError};

use super::stores::Odd;
use super::*;
use crate::crew::Counted;
use crate::shelf::Shelf;

#[test]
fn versions_come_back_byte_for_byte_under_the_same_names() {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    let told = Mutex::new(Vec::new());
    let tell = |at: Transferred| told.lock().unwrap().push(at);
    let moved = push(&place, &home.data, NAME, Pick::All, &tell).unwrap();
    assert_eq!((moved.n_files, moved.n_files_there), (3, 0));
    let numbers: Vec<u64> = moved.versions.iter().map(|version| version.sequence).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let last = told.into_inner().unwrap().into_iter().max_by_key(|at| at.done_bytes).unwrap();
    assert_eq!((last.done_bytes, last.size_bytes), (moved.size_bytes, moved.size_bytes));

    let mut there = stored(&place);
    assert!(there.remove("catalog.json").is_some());
    assert_eq!(there, home.files());

    let other = Home::new();
    let came = other.pull(&place, Pick::All).unwrap();
    assert_eq!((came.n_files, came.size_bytes), (3, moved.size_bytes));
    assert_eq!(other.files(), home.files());
    assert_eq!(lm_data::log(&other.data, NAME).unwrap(), lm_data::log(&home.data, NAME).unwrap());
    let contract = fs::read_to_string(other.data.0.join("contracts").join("notes.toml"));
    assert_eq!(contract.unwrap(), CONTRACT);
    let next = other.add("d.jsonl", &["d"]);
    assert_eq!((next.sequence, next.parent.as_ref()), (4, Some(&versions[2].version)));
    assert_eq!(next.rows_published, 4);
    other.push(&place, Pick::Newest).unwrap();
    home.pull(&place, Pick::Newest).unwrap();
    assert_eq!(home.files(), other.files());
}

#[test]
fn what_is_there_is_not_moved_again() {
    let (home, versions) = Home::with_three();
    let store = Odd::after(usize::MAX);
    let place = place(store.clone());
    home.push(&place, Pick::Version(&versions[1].version[..9])).unwrap();
    let moved = home.push(&place, Pick::Newest).unwrap();
    assert_eq!((moved.n_files, moved.n_files_there), (1, 2));
    assert!(!moved.versions[0].was_there);
    let n_written = store.written.lock().unwrap().len();
    let again = home.push(&place, Pick::Newest).unwrap();
    assert_eq!((again.n_files, again.n_files_there), (0, 3));
    assert!(again.versions[0].was_there);
    assert_eq!(store.written.lock().unwrap().len(), n_written);

    let other = Home::new();
    other.pull(&place, Pick::Version(&versions[1].version)).unwrap();
    let came = other.pull(&place, Pick::Newest).unwrap();
    assert_eq!((came.n_files, came.n_files_there), (1, 2));
    let again = other.pull(&place, Pick::All).unwrap();
    assert_eq!(again.n_files, 0);
    assert!(again.versions.iter().all(|version| version.was_there));
}

#[test]
fn a_push_that_ends_anywhere_shows_nothing_and_goes_on() {
    let (home, versions) = Home::with_three();
    for puts in 0.. {
        let store = Odd::after(puts);
        let place = place(store.clone());
        let whole = home.push(&place, Pick::Newest).is_ok();
        let came = Home::new().pull(&place, Pick::All);
        let known = matches!(came, Err(RemoteError::UnknownDataset { .. }));
        assert_eq!(known, !whole, "after {puts} puts: {came:?}");

        *store.puts_left.lock().unwrap() = usize::MAX;
        home.push(&place, Pick::Newest).unwrap();
        let written = store.written.lock().unwrap().clone();
        let distinct: BTreeSet<_> = written.iter().collect();
        assert_eq!(distinct.len(), written.len(), "after {puts} puts: {written:?}");
        let other = Home::new();
        other.pull(&place, Pick::Newest).unwrap();
        assert!(other.files().iter().all(|(path, bytes)| home.files().get(path) == Some(bytes)));
        if whole {
            // 3 files of rows, 3 of the version, and the catalog, of which none is there twice.
            assert_eq!(written.len(), 7, "{written:?}");
            assert!(written[6].ends_with("catalog.json") && written[5].ends_with("manifest.json"));
            assert_eq!(lm_data::log(&other.data, NAME).unwrap()[0].version, versions[2].version);
            return;
        }
    }
}

#[test]
fn a_version_can_be_read_and_checked_out_where_it_lies() {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    home.push(&place, Pick::All).unwrap();
    assert_eq!(crate::log(&place, NAME).unwrap(), lm_data::log(&home.data, NAME).unwrap());
    let shown = crate::show(&place, NAME, Some(&versions[0].version[..10])).unwrap();
    assert_eq!(shown.manifest, versions[0]);
    let folder = shown.folder.display().to_string();
    assert!(
        folder.starts_with("s3://bucket/team/data/datasets/notes/versions/000001-"),
        "{folder}"
    );

    let (near, far) = (home.folder.path().join("near"), home.folder.path().join("far"));
    lm_data::checkout(&home.data, NAME, None, &near).unwrap();
    let manifest = crate::checkout(&place, NAME, None, &far, &|_| {}).unwrap();
    assert_eq!(manifest, versions[2]);
    let read = |folder: &FilePath| {
        let mut files = BTreeMap::new();
        collect(folder, ".", &mut files);
        files
    };
    assert_eq!(read(&far), read(&near));
    let again = crate::checkout(&place, NAME, None, &far, &|_| {}).unwrap_err();
    assert!(matches!(again, RemoteError::Data(DataError::Exists { .. })), "{again}");
}

#[test]
fn a_folder_appears_when_all_of_it_is_there_and_takes_no_others_place() {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    home.push(&place, Pick::All).unwrap();
    let names = |folder: &FilePath| {
        let mut files = BTreeMap::new();
        collect(folder, ".", &mut files);
        files.into_keys().collect::<Vec<_>>()
    };
    let root = tempfile::tempdir().unwrap();
    let far = root.path().join("far");
    // A kill at any of these moments leaves nothing under the name.
    let tell = |_: Transferred| assert!(!far.exists());
    assert_eq!(crate::checkout(&place, NAME, None, &far, &tell).unwrap(), versions[2]);
    let whole = names(&far);
    assert_eq!(whole.len(), 6, "{whole:?}");

    // Another one comes first.
    let taken = root.path().join("taken");
    let tell = |_: Transferred| {
        fs::create_dir_all(&taken).unwrap();
        fs::write(taken.join("a"), "theirs").unwrap();
    };
    let error = crate::checkout(&place, NAME, None, &taken, &tell).unwrap_err();
    assert!(matches!(error, RemoteError::Data(DataError::Exists { .. })), "{error}");
    assert_eq!(fs::read(taken.join("a")).unwrap(), b"theirs");
    assert_eq!(names(&taken), ["./a"]);
    let kept = fs::read_dir(root.path()).unwrap().count();
    assert_eq!(kept, 2, "only the two folders");
}

#[test]
fn a_file_that_is_cut_off_again_and_again_goes_on_where_it_was() {
    let (home, versions) = Home::with_three();
    let store = Odd::after(usize::MAX);
    let place = place(store.clone());
    home.push(&place, Pick::Version(&versions[0].version)).unwrap();
    *store.cuts_left.lock().unwrap() = 3;
    let other = Home::new();
    let moved = other.pull(&place, Pick::Newest).unwrap();
    let left = |n_bytes: u64| n_bytes - n_bytes / 2;
    let size_bytes = moved.size_bytes;
    let after = [left(size_bytes), left(left(size_bytes)), left(left(left(size_bytes)))];
    let begins = [0].into_iter().chain(after.map(|left| size_bytes - left)).collect::<Vec<_>>();
    assert_eq!(*store.begins.lock().unwrap(), begins);
    let pushed: Vec<_> =
        stored(&place).into_iter().filter(|(path, _)| path != "catalog.json").collect();
    assert_eq!(other.files().into_iter().collect::<Vec<_>>(), pushed);

    // A store that gives nothing any more is given up.
    *store.cuts_left.lock().unwrap() = usize::MAX;
    let error = Home::new().pull(&place, Pick::Newest).unwrap_err().to_string();
    assert!(error.contains(".parquet") && error.contains("cut off"), "{error}");
}

#[test]
fn a_pull_brings_the_contract_of_the_newest_version_unless_another_was_chosen() {
    let newer = format!("{CONTRACT}maxLength = 99\n");
    let home = Home::new();
    let first = home.add("a.jsonl", &["a"]);
    home.add_under(&newer, "b.jsonl", &["b"]);
    let (_, place) = memory();
    home.push(&place, Pick::All).unwrap();
    let installed = |home: &Home| fs::read_to_string(home.contract()).unwrap();

    let whole = Home::new();
    assert!(!whole.pull(&place, Pick::All).unwrap().contract_differs);
    assert_eq!(installed(&whole), newer);

    let later = Home::new();
    later.pull(&place, Pick::Version(&first.version)).unwrap();
    assert_eq!(installed(&later), CONTRACT);
    assert!(!later.pull(&place, Pick::Newest).unwrap().contract_differs);
    assert_eq!(installed(&later), newer);

    // An older version changes nothing.
    let older = Home::new();
    older.pull(&place, Pick::Newest).unwrap();
    assert!(!older.pull(&place, Pick::Version(&first.version)).unwrap().contract_differs);
    assert_eq!(installed(&older), newer);

    let chosen = Home::new();
    chosen.pull(&place, Pick::Version(&first.version)).unwrap();
    let own = format!("{CONTRACT}maxLength = 7\n");
    fs::write(chosen.contract(), &own).unwrap();
    assert!(chosen.pull(&place, Pick::All).unwrap().contract_differs);
    assert_eq!(installed(&chosen), own);
    assert!(!chosen.pull(&place, Pick::All).unwrap().contract_differs);
}

#[test]
fn a_large_file_goes_in_parts_and_only_as_it_was() {
    let (_, place) = memory();
    let shelf = Shelf { place: &place, name: NAME };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    let bytes: Vec<u8> = (0..(20 << 20) + 3_u32).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &bytes).unwrap();
    let hash = blake3::hash(&bytes).to_hex().to_string();
    let size_bytes = bytes.len() as u64;
    let object = CarriedFile { name: format!("{hash}.jsonl"), hash, size_bytes };
    let told = Mutex::new(0);
    let tell = |at: Transferred| {
        let mut told = told.lock().unwrap();
        assert!(at.done_bytes - *told <= 8 << 20);
        *told = at.done_bytes;
    };
    shelf.send(&object, &path, &Counted::new(size_bytes, &tell)).unwrap();
    assert_eq!(stored(&place)[&format!("objects/{}", object.name)], bytes);
    let back = folder.path().join("back");
    shelf.fetch(&object, &back, &Counted::new(size_bytes, &|_| {})).unwrap();
    assert_eq!(fs::read(&back).unwrap(), bytes);

    delete(&place, &format!("objects/{}", object.name));
    let mut changed = bytes;
    changed[15 << 20] ^= 1;
    fs::write(&path, &changed).unwrap();
    let error = shelf.send(&object, &path, &Counted::new(size_bytes, &|_| {})).unwrap_err();
    assert!(matches!(error, RemoteError::Data(DataError::Damaged { .. })), "{error}");
    assert_eq!(stored(&place), BTreeMap::new());
}
