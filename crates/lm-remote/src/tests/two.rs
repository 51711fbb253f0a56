//! Two at once, and two who never heard of each other.

use std::sync::Barrier;

use lm_data::DataError;

use super::*;

#[test]
fn pushes_at_once_lose_none() {
    let home = Home::new();
    let texts = ["a", "b", "c", "d", "e", "f"];
    let versions = texts.map(|text| home.add(&format!("{text}.jsonl"), &[text]));
    let (_, place) = memory();
    let barrier = Barrier::new(versions.len());
    let push = |version: &Manifest| {
        barrier.wait();
        home.push(&place, Pick::Version(&version.version)).unwrap();
    };
    std::thread::scope(|scope| {
        for version in &versions {
            let push = &push;
            scope.spawn(move || push(version));
        }
    });
    assert_eq!(crate::log(&place, NAME).unwrap(), lm_data::log(&home.data, NAME).unwrap());
    let other = Home::new();
    other.pull(&place, Pick::All).unwrap();
    assert_eq!(other.files(), home.files());
}

#[test]
fn the_same_version_at_once_is_there_once() {
    let (home, _) = Home::with_three();
    let other = Home::new();
    let (_, place) = memory();
    let (_, first) = memory();
    home.push(&first, Pick::All).unwrap();
    other.pull(&first, Pick::All).unwrap();
    let barrier = Barrier::new(2);
    let push = |home: &Home| {
        barrier.wait();
        home.push(&place, Pick::All).unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| push(&home));
        scope.spawn(|| push(&other));
    });
    let mut there = stored(&place);
    assert!(there.remove("catalog.json").is_some());
    assert_eq!(there, home.files());
    assert_eq!(crate::log(&place, NAME).unwrap().len(), 3);
}

#[test]
fn a_version_made_twice_stays_as_it_came_first() {
    let (home, other) = (Home::new(), Home::new());
    let (_, place) = memory();
    let first = home.add("a.jsonl", &["a"]);
    // Other file names: another list of sources, and another file of rows, of the same version.
    let second = other.add("b.jsonl", &["a"]);
    assert_eq!(first.version, second.version);
    home.push(&place, Pick::Newest).unwrap();
    let there = stored(&place);
    let moved = other.push(&place, Pick::Newest).unwrap();
    assert!(moved.versions[0].was_there);
    assert_eq!((moved.n_files, stored(&place)), (0, there));
    assert!(other.pull(&place, Pick::Newest).unwrap().versions[0].was_there);
}

#[test]
fn what_another_push_began_is_never_mixed_with_ones_own() {
    let (home, other) = (Home::new(), Home::new());
    let (_, place) = memory();
    let version = home.add("a.jsonl", &["a"]);
    other.add("b.jsonl", &["a"]);
    home.push(&place, Pick::Newest).unwrap();
    // As if it had been killed before its manifest.
    delete(&place, "catalog.json");
    delete(&place, &format!("versions/000001-{}/manifest.json", version.version));
    let error = other.push(&place, Pick::Newest).unwrap_err();
    assert!(matches!(error, RemoteError::Claimed { .. }), "{error}");
    assert!(error.to_string().contains("/sources.jsonl belongs to another push"), "{error}");
    assert!(crate::log(&place, NAME).is_err());
    home.push(&place, Pick::Newest).unwrap();
    assert!(other.push(&place, Pick::Newest).unwrap().versions[0].was_there);
}

#[test]
fn lines_that_were_made_apart_stay_apart() {
    let (home, other) = (Home::new(), Home::new());
    let (_, place) = memory();
    home.add("a.jsonl", &["a"]);
    home.push(&place, Pick::Newest).unwrap();
    let there = stored(&place);
    other.add("x.jsonl", &["x"]);
    let second = other.add("y.jsonl", &["y"]);
    for pick in [Pick::Newest, Pick::All, Pick::Version(&second.version)] {
        let error = other.push(&place, pick).unwrap_err();
        assert!(matches!(error, RemoteError::Diverged { .. }), "{error}");
        assert_eq!(stored(&place), there);
    }
    let files = other.files();
    let error = other.pull(&place, Pick::Newest).unwrap_err();
    assert!(matches!(error, RemoteError::Data(DataError::Diverged { .. })), "{error}");
    assert_eq!(other.files(), files);
}
