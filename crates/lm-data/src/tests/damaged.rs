//! Files that are damaged somewhere: what comes before the damage is rows, once.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use super::*;

/// Ten rows as gzip that says them one by one, without its last 15 bytes: the tenth row is cut.
fn cut_gzip() -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gz.write_all(good_rows(10).as_bytes()).unwrap();
    let bytes = gz.finish().unwrap();
    bytes[..bytes.len() - 15].to_vec()
}

#[track_caller]
fn check(desk: &Desk) {
    assert_eq!(String::from_utf8(newest_rows(desk)).unwrap(), good_rows(9));
    let [row] = desk.quarantined(Report::Newest).try_into().unwrap();
    assert_eq!((row.line, row.rule.as_str()), (10, "unreadable"));
}

#[test]
fn rows_before_the_damage_are_read_and_are_known_when_the_file_is_touched() {
    let desk = Desk::new();
    let options = IngestOptions { append: true, ..desk.lenient() };
    let source = desk.file("a.jsonl.gz", cut_gzip());
    let add = || {
        ingest(&desk.home, "tickets", std::slice::from_ref(&source), &options, &mut |_| {})
            .unwrap();
    };
    add();
    check(&desk);
    let file = File::options().append(true).open(&source).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(86_400)).unwrap();
    add();
    check(&desk);
}
