//! What lies in a place and is not what it should be: found by name, and never taken in.

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::stores::Odd;
use super::*;

/// Harms a file of the place, and says what a pull into a new home says then.
#[track_caller]
fn check(harm: impl Fn(&Place, &str), file: impl Fn(&Manifest) -> String, expect: &str) {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    home.push(&place, Pick::Newest).unwrap();
    let file = file(&versions[2]);
    let whole = stored(&place)[&file].clone();
    harm(&place, &file);
    let other = Home::new();
    let error = other.pull(&place, Pick::Newest).unwrap_err().to_string();
    let key = format!("s3://bucket/{PREFIX}/datasets/{NAME}/{file}");
    assert!(error.contains(&key) && error.contains(expect), "{error}");
    assert_eq!(lm_data::log(&other.data, NAME).unwrap_or_default(), []);

    put(&place, &file, whole);
    other.pull(&place, Pick::Newest).unwrap();
    let mut out = Vec::new();
    lm_data::export(&other.data, NAME, None, &mut out).unwrap();
    assert_eq!(out, b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n");
}

fn flip(place: &Place, file: &str) {
    let mut bytes = stored(place)[file].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    put(place, file, bytes);
}

fn halve(place: &Place, file: &str) {
    let bytes = stored(place)[file].clone();
    put(place, file, bytes[..bytes.len() / 2].to_vec());
}

fn lengthen(place: &Place, file: &str) {
    let mut bytes = stored(place)[file].clone();
    bytes.push(0);
    put(place, file, bytes);
}

fn rows(manifest: &Manifest) -> String {
    format!("objects/{}.parquet", manifest.segments[1].hash)
}

fn of_version(file: &str) -> impl Fn(&Manifest) -> String {
    move |manifest| format!("versions/000003-{}/{file}", manifest.version)
}

#[test]
fn a_file_that_is_not_what_was_pushed_is_found_by_name() {
    check(flip, rows, "its digest is");
    check(halve, rows, "it has only");
    check(lengthen, rows, "it has at least");
    check(delete, rows, "is missing");
    check(flip, of_version("manifest.json"), "its digest is");
    check(flip, of_version("sources.jsonl"), "its digest is");
    check(delete, of_version("contract.toml"), "is missing");
    check(halve, |_| "catalog.json".to_owned(), "is damaged");
}

#[test]
fn a_push_gives_back_what_is_missing_and_names_what_is_not_its_own() {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    home.push(&place, Pick::Newest).unwrap();
    let whole = stored(&place);
    let sources = of_version("sources.jsonl")(&versions[2]);
    for file in [&rows(&versions[2]), &sources] {
        delete(&place, file);
        assert!(home.push(&place, Pick::Newest).unwrap().versions[0].was_there);
        assert_eq!(stored(&place), whole);
    }
    halve(&place, &rows(&versions[2]));
    home.push(&place, Pick::Newest).unwrap();
    assert_eq!(stored(&place), whole);
    flip(&place, &sources);
    let error = home.push(&place, Pick::Newest).unwrap_err();
    assert!(matches!(error, RemoteError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("sources.jsonl"), "{error}");
}

#[test]
fn a_damaged_file_of_the_home_is_not_pushed() {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    let path = home.dataset().join(rows(&versions[2]));
    let mut bytes = fs::read(&path).unwrap();
    bytes[9] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = home.push(&place, Pick::Newest).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(crate::log(&place, NAME).is_err());
}

#[test]
fn a_store_that_ignores_conditions_is_refused_before_anything_counts() {
    let (home, versions) = Home::with_three();
    let store = Odd::after(usize::MAX);
    store.ignores_creates.store(true, Ordering::SeqCst);
    let place = place(store.clone());
    let check = |header: &str| {
        let error = home.push(&place, Pick::Newest).unwrap_err();
        assert!(matches!(error, RemoteError::NoConditions { .. }), "{error}");
        assert!(error.to_string().contains(header), "{error}");
    };
    check("ignores If-None-Match");
    assert!(crate::log(&place, NAME).is_err());

    // Such stores there are: the one condition came to S3 years before the other.
    store.ignores_creates.store(false, Ordering::SeqCst);
    store.ignores_updates.store(true, Ordering::SeqCst);
    check("ignores If-Match");
    assert!(crate::log(&place, NAME).is_err());
    store.ignores_updates.store(false, Ordering::SeqCst);
    home.push(&place, Pick::Version(&versions[0].version)).unwrap();
    let catalog = stored(&place)["catalog.json"].clone();
    store.ignores_updates.store(true, Ordering::SeqCst);
    check("ignores If-Match");
    assert_eq!(stored(&place)["catalog.json"], catalog);
}

#[test]
fn a_store_without_tags_can_be_read_and_not_pushed_to() {
    let (home, versions) = Home::with_three();
    let store = Odd::after(usize::MAX);
    let place = place(store.clone());
    home.push(&place, Pick::Version(&versions[0].version)).unwrap();
    store.hides_tags.store(true, Ordering::SeqCst);
    let error = home.push(&place, Pick::Newest).unwrap_err().to_string();
    assert!(error.contains("no ETag") && !error.contains("remove"), "{error}");
    Home::new().pull(&place, Pick::Newest).unwrap();
}

#[test]
fn nobody_is_told_to_remove_a_catalog() {
    let (home, _) = Home::with_three();
    let (_, place) = memory();
    home.push(&place, Pick::Newest).unwrap();
    let check = |catalog: Vec<u8>, expect: &str| {
        put(&place, "catalog.json", catalog);
        let pulled = Home::new().pull(&place, Pick::Newest);
        for error in [pulled.unwrap_err(), home.push(&place, Pick::Newest).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("catalog.json") && error.contains(expect), "{error}");
            assert!(!error.replace("do not remove it", "").contains("remove"), "{error}");
        }
    };
    check(
        br#"{"format":2,"lines":[]}"#.to_vec(),
        "is of format 2, and this program knows 1: update",
    );
    check(b"{".to_vec(), "is damaged: EOF");
    check(br#"{"format":1}"#.to_vec(), "is damaged: missing field");
    check(vec![b' '; (64 << 10) + 1], "has 65537 bytes, of which this program reads at most 65536");
}

#[test]
fn a_catalog_never_grows_beyond_what_is_read() {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    home.push(&place, Pick::Version(&versions[0].version)).unwrap();
    let mut catalog: Value = serde_json::from_slice(&stored(&place)["catalog.json"]).unwrap();
    let room = (64 << 10) - serde_json::to_vec_pretty(&catalog).unwrap().len() - 64;
    catalog["versions"][0]["by_rule"][&"x".repeat(room)] = 1.into();
    put(&place, "catalog.json", serde_json::to_vec_pretty(&catalog).unwrap());
    let before = stored(&place);
    let error = home.push(&place, Pick::Newest).unwrap_err();
    assert!(matches!(error, RemoteError::Unlistable { .. }), "{error}");
    assert!(error.to_string().contains("push to another prefix"), "{error}");
    assert_eq!(stored(&place), before);
    Home::new().pull(&place, Pick::Newest).unwrap();
}

#[test]
fn a_file_of_rows_counts_only_where_it_is_looked_for() {
    let (home, versions) = Home::with_three();
    let (_, place) = memory();
    home.push(&place, Pick::Newest).unwrap();
    let file = rows(&versions[2]);
    let whole = stored(&place)[&file].clone();
    put(&place, &file.replace("objects/", "objects/old/"), whole.clone());
    delete(&place, &file);
    let moved = home.push(&place, Pick::Newest).unwrap();
    assert_eq!((moved.n_files, &stored(&place)[&file]), (1, &whole));
}

#[test]
fn what_is_not_there_is_said_with_its_place() {
    let (home, _) = Home::with_three();
    let (_, place) = memory();
    let error = home.pull(&place, Pick::Newest).unwrap_err().to_string();
    assert!(error.contains("no dataset notes in s3://bucket/team/data"), "{error}");
    home.push(&place, Pick::All).unwrap();
    let error = home.pull(&place, Pick::Version("x")).unwrap_err().to_string();
    assert!(error.contains("0 versions of dataset notes") && error.contains("\"x\""), "{error}");
    let error = home.pull(&place, Pick::Version("")).unwrap_err().to_string();
    assert!(error.contains("3 versions"), "{error}");
}
