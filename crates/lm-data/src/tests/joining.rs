//! Versions that grow by small pieces: few files, the same rows under the same ids.

use super::*;
use crate::{checkout, gc, log, show};

fn append(desk: &Desk) -> IngestOptions {
    IngestOptions { append: true, ..desk.lenient() }
}

/// Of each row that is good one that is not, too.
fn rows(n: usize) -> String {
    (0..n).map(|i| format!("{{\"text\":\"row {i}\"}}\n[{i}]\n")).collect()
}

#[test]
fn many_small_pieces_become_few_files_and_stay_the_same_version() {
    let desk = Desk::new();
    let ids: Vec<String> = (1..=40)
        .map(|n| desk.ingest_with(rows(n), &append(&desk)).unwrap().manifest.version)
        .collect();
    let newest = show(&desk.home, "tickets", None).unwrap().manifest;
    // Two of 16, and one for each piece since.
    assert_eq!((newest.segments.len(), newest.quarantine.len()), (10, 10));
    assert_eq!(newest.segments.iter().map(|segment| segment.n_rows).sum::<u64>(), 40);
    assert_eq!(newest.quarantine.iter().map(|segment| segment.n_rows).sum::<u64>(), 40);
    let whole = Desk::new().ingest(rows(40)).unwrap().manifest;
    assert_eq!((whole.version.as_str(), whole.rows), (ids[39].as_str(), newest.rows));

    // What was written for a joined file alone is not there, and what an old version has is.
    assert_eq!(gc(&desk.home, "tickets", None).unwrap().n_objects, 0);
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(rows_at(&desk, Some(id)), good_rows(i + 1).as_bytes());
        let bad = desk.quarantined(Report::Version(id));
        let raws: Vec<String> = (0..=i).map(|i| format!("[{i}]")).collect();
        assert_eq!(bad.iter().map(|row| row.raw.clone()).collect::<Vec<_>>(), raws);
    }
    let target = desk.folder.path().join("old");
    let old = checkout(&desk.home, "tickets", Some(&ids[14]), &target).unwrap();
    assert_eq!(old.segments.len(), 15);

    // The rows are known by their sources as before.
    let more = format!("{{\"text\":\"new\"}}\n{}", rows(40));
    let next = desk.ingest_with(more, &append(&desk)).unwrap().manifest;
    assert_eq!((next.batch_rows_in, next.rows_repeated), (1, 80));
    gc(&desk.home, "tickets", Some(1)).unwrap();
    assert_eq!(newest_rows(&desk), (good_rows(40) + "{\"text\":\"new\"}\n").as_bytes());
    assert_eq!(desk.quarantined(Report::Newest).len(), 40);
}

#[test]
fn a_damaged_file_is_not_hidden_in_a_joined_one() {
    let desk = Desk::new();
    let mut hash = String::new();
    for n in 1..=20 {
        let manifest = desk.ingest_with(good_rows(n), &append(&desk)).unwrap().manifest;
        if n == 3 {
            hash.clone_from(&manifest.segments[2].hash);
            let path = desk.dataset().join("objects").join(format!("{hash}.parquet"));
            let mut bytes = fs::read(&path).unwrap();
            bytes[40] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let newest = show(&desk.home, "tickets", None).unwrap().manifest;
    assert!(newest.segments.iter().any(|segment| segment.hash == hash));
    let target = desk.folder.path().join("there");
    let error = checkout(&desk.home, "tickets", None, &target).unwrap_err();
    assert!(matches!(error, DataError::Damaged { .. }), "{error}");
}

#[test]
fn what_is_added_needs_no_manifest_but_the_newest() {
    let desk = Desk::new();
    let first = desk.ingest(good_rows(1)).unwrap();
    desk.ingest(good_rows(2)).unwrap();
    fs::write(first.folder.join("manifest.json"), "{").unwrap();
    assert!(log(&desk.home, "tickets").is_err());
    let third = desk.ingest_with(good_rows(3), &append(&desk)).unwrap().manifest;
    assert_eq!((third.sequence, third.batch_rows_in), (3, 1));
    assert_eq!(desk.ingest(good_rows(4)).unwrap().manifest.sequence, 4);
    assert!(desk.ingest(good_rows(2)).unwrap().already_published);
    assert_eq!(newest_rows(&desk), good_rows(4).as_bytes());
}
