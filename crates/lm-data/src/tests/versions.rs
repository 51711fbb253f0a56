//! What is published, when, under which id, and what survives a kill.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::log;

#[test]
fn versions_form_a_history_with_the_newest_first() {
    let desk = Desk::new();
    let first = desk.ingest(good_rows(2)).unwrap().manifest;
    // Without a schema the contract of the first ingest holds.
    let options = IngestOptions { contract: None, ..desk.lenient() };
    let second = desk.ingest_with(format!("{}[]\n", good_rows(3)), &options).unwrap().manifest;
    assert_eq!((first.parent.as_ref(), second.parent.as_ref()), (None, Some(&first.version)));
    assert_eq!(first.contract_hash, second.contract_hash);

    let history = log(&desk.home, "tickets").unwrap();
    let expect = serde_json::json!([
        { "version": second.version, "parent": first.version, "rows_in": 4, "rows_published": 3,
          "rows_quarantined": 1, "by_rule": { "schema:type": 1 } },
        { "version": first.version, "parent": null, "rows_in": 2, "rows_published": 2,
          "rows_quarantined": 0, "by_rule": {} },
    ]);
    assert_eq!(serde_json::to_value(history).unwrap(), expect);
    assert_eq!(desk.quarantined(Report::Version(&first.version)), []);
    assert_eq!(desk.quarantined(Report::Version(&second.version[..8])).len(), 1);
    let error = quarantine(&desk.home, "tickets", Report::Version("")).err().unwrap();
    assert!(matches!(error, DataError::UnknownVersion { n_matches: 2, .. }), "{error}");
}

#[test]
fn the_same_rows_are_the_same_version_everywhere_and_are_published_once() {
    let (here, there) = (Desk::new(), Desk::new());
    let first = here.ingest(good_rows(3)).unwrap();
    here.ingest(good_rows(4)).unwrap();
    let again = here.ingest(good_rows(3).replace('\n', "\r\n")).unwrap();
    assert!(again.already_published && !first.already_published);
    assert_eq!(again.manifest, first.manifest);
    assert_eq!(log(&here.home, "tickets").unwrap().len(), 2);

    there.ingest(good_rows(1)).unwrap();
    assert_eq!(there.ingest(good_rows(3)).unwrap().manifest.version, first.manifest.version);
    let contract = Some(there.file("other.json", "{}"));
    let options = IngestOptions { contract, ..there.lenient() };
    let other = there.ingest_with(good_rows(3), &options).unwrap().manifest.version;
    assert_ne!(other, first.manifest.version);
}

#[test]
fn new_bad_rows_beside_known_good_ones_are_kept() {
    let desk = Desk::new();
    desk.ingest(good_rows(3)).unwrap();
    let second = desk.ingest(format!("[1]\n{}", good_rows(3))).unwrap();
    assert!(!second.already_published);
    assert_eq!(desk.quarantined(Report::Newest)[0].raw, "[1]");
    assert_eq!(rows_of(&desk, &second), good_rows(3).as_bytes());
    assert!(desk.ingest(format!("[1]\n{}", good_rows(3))).unwrap().already_published);
}

fn strict(desk: &Desk) -> IngestOptions {
    IngestOptions { thresholds: IngestOptions::default().thresholds, ..desk.lenient() }
}

#[test]
fn too_many_bad_rows_publish_nothing_and_keep_their_report() {
    let desk = Desk::new();
    let source = format!("{}{}", good_rows(94), "[]\n".repeat(6));
    let error = desk.ingest_with(&source, &strict(&desk)).unwrap_err().to_string();
    let expect = "rule schema:type is broken by 6 of 100 rows (6.00 %, limit 5.00 %; \
                  --allow schema:type publishes the rest)";
    assert!(error.contains(expect), "{error}");
    assert_eq!(log(&desk.home, "tickets").unwrap(), []);
    assert_eq!(desk.quarantined(Report::Unpublished).len(), 6);
    assert!(matches!(
        quarantine(&desk.home, "tickets", Report::Newest),
        Err(DataError::NoReport { wanted: "published version", .. })
    ));
    // The contract of a refused ingest is not the dataset's.
    let options = IngestOptions { contract: None, ..strict(&desk) };
    assert!(matches!(desk.ingest_with(&source, &options), Err(DataError::NoContract { .. })));

    let allow = vec!["schema:type".to_owned()];
    let version = desk.ingest_with(&source, &IngestOptions { allow, ..strict(&desk) }).unwrap();
    assert_eq!(version.manifest.rows_published, 94);
    assert_eq!(version.warnings.len(), 1);
}

#[test]
fn a_share_at_the_threshold_passes_with_a_warning() {
    let desk = Desk::new();
    let ingest = |n_bad: usize| {
        let source = format!("{}{}", good_rows(100 - n_bad), "[]\n".repeat(n_bad));
        desk.ingest_with(source, &strict(&desk)).unwrap().warnings.len()
    };
    assert_eq!((ingest(5), ingest(1), ingest(2)), (1, 0, 1));
}

#[test]
fn at_most_sixteen_reports_are_kept() {
    let desk = Desk::new();
    for i in 0..20 {
        desk.ingest_with(format!("[{i}]\n"), &strict(&desk)).unwrap_err();
    }
    assert_eq!(names_in(&desk.dataset().join("reports")).len(), 16);
}

#[track_caller]
fn check_refused(name: &str, source: &str, options: IngestOptions, expect: &str) {
    let desk = Desk::new();
    let source = match source {
        "/nowhere" => desk.folder.path().join("nowhere.jsonl"),
        text => desk.file("source.jsonl", text),
    };
    let contract = Some(desk.file("schema.json", SCHEMA));
    let options = IngestOptions { contract, ..options };
    let error = ingest(&desk.home, name, &[source], &options, &mut |_| {}).unwrap_err();
    let error = error.to_string();
    assert!(error.contains(expect), "{error}");
}

#[test]
fn what_cannot_be_ingested_is_refused_with_name_value_and_limit() {
    let ok = IngestOptions::default;
    for name in ["", "../x", "A", "a b", "ä", &"x".repeat(65)] {
        check_refused(name, "{}", ok(), "must be 1 to 64 of the characters");
    }
    check_refused("x", "/nowhere", ok(), "cannot");
    check_refused("x", "", ok(), "has no rows (0 blank lines)");
    check_refused("x", "\n \n", ok(), "has no rows (2 blank lines)");
    let allow = vec!["not_josn".to_owned()];
    check_refused("x", "{}", IngestOptions { allow, ..ok() }, "no rule \"not_josn\"");
    let max_row_bytes = 0;
    check_refused("x", "{}", IngestOptions { max_row_bytes, ..ok() }, "max_row_bytes is 0");
    let thresholds = Thresholds { warn: 0.1, fail: f64::NAN };
    check_refused("x", "{}", IngestOptions { thresholds, ..ok() }, "fail threshold is NaN");
    let error = log(&DataHome(PathBuf::from("nowhere")), "x").unwrap_err();
    assert!(matches!(error, DataError::UnknownDataset { .. }), "{error}");
}

#[test]
fn a_second_ingest_of_the_same_dataset_is_told_of_the_first() {
    let desk = Desk::new();
    let dataset = desk.home.dataset("tickets").unwrap();
    let lock = dataset.lock().unwrap();
    assert!(matches!(desk.ingest(good_rows(1)), Err(DataError::Locked { .. })));
    drop(lock);
    desk.ingest(good_rows(1)).unwrap();
}

#[test]
fn progress_ends_with_the_whole_file() {
    let desk = Desk::new();
    let source = desk.file("source.jsonl", format!("{}[]\n", good_rows(100_000)));
    let size = fs::metadata(&source).unwrap().len();
    let mut seen = Vec::new();
    ingest(&desk.home, "tickets", &[source], &desk.lenient(), &mut |p| seen.push(p)).unwrap();
    assert!(seen.len() >= 2 && seen.is_sorted_by_key(|p| p.bytes_read));
    let last = seen.last().unwrap();
    assert_eq!((last.bytes_read, last.size_bytes), (size, size));
    assert_eq!((last.rows_in, last.rows_quarantined), (100_001, 1));
}

const CHILD: &str = "LASTMILE_TEST_DATA_OF_CHILD";

/// Not a test by itself: the process that the next test kills. Without its variable it ends.
#[test]
fn child_that_ingests_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let contract = Some(folder.join("schema.json"));
    let options = IngestOptions { contract, ..IngestOptions::default() };
    let source = folder.join("source.jsonl");
    ingest(&DataHome(folder.join("data")), "tickets", &[source], &options, &mut |_| {
        println!("progress");
        // The parent kills here: in the middle, with rows staged.
        loop {
            std::thread::park();
        }
    })
    .unwrap();
}

#[test]
fn after_a_kill_no_half_version_is_seen_and_the_next_ingest_works() {
    let desk = Desk::new();
    let rows = good_rows(100_000);
    desk.file("source.jsonl", &rows);
    let options = desk.lenient();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::versions::child_that_ingests_until_it_is_killed", "--nocapture"])
        .env(CHILD, desk.folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("progress")));
    assert!(matches!(desk.ingest(&rows), Err(DataError::Locked { .. })));
    child.kill().unwrap();
    child.wait().unwrap();

    assert!(desk.dataset().join("staging").exists());
    assert_eq!(log(&desk.home, "tickets").unwrap(), []);
    let version = desk.ingest_with(&rows, &options).unwrap();
    assert_eq!(rows_of(&desk, &version), rows.as_bytes());
    assert!(!desk.dataset().join("staging").exists());
    assert_eq!(version.manifest.version, Desk::new().ingest(&rows).unwrap().manifest.version);
}
