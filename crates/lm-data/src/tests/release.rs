//! Rows of a quarantine that are published after all, and what can be asked of versions.

use super::*;
use crate::{Release, Select, checkout, coverage, diff, gc, log, release};

fn options(desk: &Desk) -> IngestOptions {
    let terms = "format = 1\nunique = [[\"t\"]]\n[text]\nmojibake = true\nsecrets = true\n";
    IngestOptions { contract: Some(desk.file("contract.toml", terms)), ..desk.lenient() }
}

const ROWS: &str =
    "{\"t\":\"a\"}\n{\"t\":\"cafÃ©\"}\n{\"t\":\"AKIAIOSFODNN7EXAMPLE\"}\n{\"t\":\"a\"}\n{\"t\":\n";

fn ids(desk: &Desk) -> Vec<String> {
    desk.quarantined(Report::Newest).into_iter().map(|row| row.id).collect()
}

#[test]
fn a_repaired_row_is_published_with_its_lineage() {
    let desk = Desk::new();
    desk.ingest_with(ROWS, &options(&desk)).unwrap();
    let all = ids(&desk);
    assert_eq!(all.len(), 4);
    let released = release(&desk.home, "tickets", &Select::All, Release::Repaired, None).unwrap();
    let manifest = &released.version.manifest;
    assert_eq!((manifest.rows_in, manifest.rows_published, manifest.rows_quarantined), (5, 2, 3));
    assert_eq!(manifest.by_rule.values().sum::<u64>(), 3);
    assert_eq!(newest_rows(&desk), "{\"t\":\"a\"}\n{\"t\":\"café\"}\n".as_bytes());
    let lineage = fs::read_to_string(released.version.folder.join("lineage.jsonl")).unwrap();
    let lineage: serde_json::Value = serde_json::from_str(&lineage).unwrap();
    assert_eq!(lineage["id"], all[0].as_str());
    assert_eq!(
        (&lineage["rule"], &lineage["repair"]),
        (&"mojibake".into(), &"mojibake_undone".into())
    );
    assert_eq!(released.kept.len(), 3);
    assert_eq!(ids(&desk), all[1..]);
}

#[test]
fn a_row_is_released_as_it_is_only_when_it_is_a_row() {
    let desk = Desk::new();
    desk.ingest_with(ROWS, &options(&desk)).unwrap();
    let by_rule = |rule: &str| Select::Rule(rule.to_owned());
    let go = |select: &Select| release(&desk.home, "tickets", select, Release::AsIs, None);
    let error = go(&by_rule("not_json")).unwrap_err().to_string();
    assert!(error.contains("it is no row"), "{error}");
    assert_eq!(go(&by_rule("secret")).unwrap().rows.len(), 1);
    // Somebody says that it may come twice.
    assert_eq!(go(&by_rule("unique:t")).unwrap().version.manifest.rows_published, 3);
    let error = go(&Select::Ids(vec!["zz".to_owned()])).unwrap_err();
    assert!(matches!(error, DataError::UnknownRow { n_matches: 0, .. }), "{error}");
    let error = go(&Select::Ids(vec![String::new()])).unwrap_err();
    assert!(matches!(error, DataError::UnknownRow { n_matches: 2, .. }), "{error}");
}

#[test]
fn a_repair_that_would_break_a_rule_stays() {
    let desk = Desk::new();
    let rows = "{\"t\":\"café\"}\n{\"t\":\"cafÃ©\"}\n";
    desk.ingest_with(rows, &options(&desk)).unwrap();
    let error = release(&desk.home, "tickets", &Select::All, Release::Repaired, None).unwrap_err();
    assert!(error.to_string().contains("repaired it breaks unique:t"), "{error}");
    assert_eq!(ids(&desk).len(), 1);
}

/// Publishes one source under a contract that allows rows of these terms.
fn publish(desk: &Desk, name: &str, format: Format, bytes: &[u8], terms: &str) {
    let contract = Some(desk.file("contract.toml", format!("format = 1\n{terms}")));
    let options = IngestOptions { contract, format: Some(format), ..desk.lenient() };
    let source = desk.file(name, bytes);
    ingest(&desk.home, "tickets", &[source], &options, &mut |_| {}).unwrap();
}

#[test]
fn rows_of_other_formats_are_released_as_the_rows_that_they_would_be() {
    let go = |desk: &Desk| release(&desk.home, "tickets", &Select::All, Release::AsIs, None);
    let last = |desk: &Desk| -> serde_json::Value {
        let rows = String::from_utf8(newest_rows(desk)).unwrap();
        serde_json::from_str(rows.lines().last().unwrap()).unwrap()
    };
    let desk = Desk::new();
    let short = "[columns.x]\nmax_chars = 1\n";
    publish(&desk, "a.csv", Format::Csv, b"x\n1\n42\n", short);
    assert_eq!(go(&desk).unwrap().rows.len(), 1);
    assert_eq!(last(&desk), serde_json::json!({ "x": "42" }));

    let desk = Desk::new();
    let talk = br#"{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"yes"}]}"#;
    let half = br#"{"conversations":[{"from":"human","value":"hi"}]}"#;
    publish(&desk, "a", Format::Sharegpt, &[&talk[..], b"\n", half, b"\n"].concat(), "");
    go(&desk).unwrap();
    let expect = serde_json::json!({ "messages": [{ "role": "user", "content": "hi" }] });
    assert_eq!(last(&desk), expect);

    // As an older version of the program wrote it, without the row: none is made up.
    let desk = Desk::new();
    publish(&desk, "a.csv", Format::Csv, b"x\n1\n42\n", short);
    let objects = desk.dataset().join("objects");
    let object = names_in(&objects).into_iter().find(|name| name.ends_with(".jsonl")).unwrap();
    let path = objects.join(object);
    let mut row: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let fields = row.as_object_mut().unwrap();
    assert!(fields.remove("format").is_some() && fields.remove("row").is_some());
    fs::write(&path, format!("{row}\n")).unwrap();
    let error = go(&desk).unwrap_err().to_string();
    assert!(error.contains("it is no row"), "{error}");

    // A record of which no row can be made is none.
    let desk = Desk::new();
    publish(&desk, "a.csv", Format::Csv, b"x,y\n1,2\n42\n", "");
    let error = go(&desk).unwrap_err().to_string();
    assert!(error.contains("it is no row: 1 cells"), "{error}");
}

#[test]
fn repairs_are_of_the_format_of_their_source() {
    let desk = Desk::new();
    publish(&desk, "a.csv", Format::Csv, b"x\n1\n\"caf\xe9\"\n", "");
    let [row] = desk.quarantined(Report::Newest).try_into().unwrap();
    assert_eq!(row.repair.unwrap().row, "{\"x\":\"café\"}");
    release(&desk.home, "tickets", &Select::All, Release::Repaired, None).unwrap();
    assert_eq!(newest_rows(&desk), "{\"x\":\"1\"}\n{\"x\":\"café\"}\n".as_bytes());

    // What is no chat is none when it is decoded.
    let desk = Desk::new();
    let chat = br#"{"messages":[{"role":"assistant","content":"yes"}]}"#;
    let bytes = [&chat[..], b"\n{\"t\":\"caf\xe9\"}\n"].concat();
    publish(&desk, "a", Format::Chat, &bytes, "");
    let [row] = desk.quarantined(Report::Newest).try_into().unwrap();
    assert_eq!((row.rule.as_str(), row.repair), ("not_utf8", None));
}

#[test]
fn a_diff_counts_rows_that_come_several_times() {
    let desk = Desk::new();
    desk.ingest(good_rows(3) + &good_rows(2)).unwrap();
    desk.ingest("{\"text\":\"new\"}\n".to_owned() + &good_rows(2)).unwrap();
    let diff = diff(&desk.home, "tickets", None, None, 2).unwrap();
    assert_eq!((diff.rows_added, diff.rows_removed, diff.rows_same), (1, 3, 2));
    assert_eq!(diff.added, ["{\"text\":\"new\"}"]);
    assert_eq!(diff.removed, ["{\"text\":\"row 2\"}", "{\"text\":\"row 0\"}"]);
}

#[test]
fn an_old_version_is_checked_out_byte_for_byte_or_not_at_all() {
    let desk = Desk::new();
    let first = desk.ingest(good_rows(3)).unwrap();
    let here = desk.folder.path().join("here");
    checkout(&desk.home, "tickets", None, &here).unwrap();
    desk.ingest(good_rows(9)).unwrap();
    let there = desk.folder.path().join("there");
    checkout(&desk.home, "tickets", Some(&first.manifest.version), &there).unwrap();
    for name in names_in(&here) {
        assert_eq!(
            fs::read(here.join(&name)).unwrap(),
            fs::read(there.join(&name)).unwrap(),
            "{name}"
        );
    }
    assert!(names_in(&there).contains(&"part-00000.parquet".to_owned()));
    let error = checkout(&desk.home, "tickets", None, &there).unwrap_err();
    assert!(matches!(error, DataError::Exists { .. }), "{error}");

    let object = format!("{}.parquet", first.manifest.segments[0].hash);
    let object = desk.dataset().join("objects").join(object);
    let mut bytes = fs::read(&object).unwrap();
    bytes[40] ^= 1;
    fs::write(&object, bytes).unwrap();
    let again = desk.folder.path().join("again");
    let error = checkout(&desk.home, "tickets", Some(&first.manifest.version), &again).unwrap_err();
    assert!(matches!(error, DataError::Damaged { .. }), "{error}");
    assert!(!again.exists());
}

#[test]
fn gc_removes_what_no_kept_version_has() {
    let desk = Desk::new();
    desk.ingest(good_rows(3)).unwrap();
    let second = desk.ingest(good_rows(4)).unwrap();
    fs::write(desk.dataset().join("objects/leftover.parquet"), "x").unwrap();
    let collected = gc(&desk.home, "tickets", None).unwrap();
    assert_eq!((collected.versions.len(), collected.n_objects), (0, 1));
    let collected = gc(&desk.home, "tickets", Some(1)).unwrap();
    assert_eq!((collected.versions.len(), collected.n_objects), (1, 1));
    assert_eq!(log(&desk.home, "tickets").unwrap().len(), 1);
    assert_eq!(rows_of(&desk, &second), good_rows(4).as_bytes());
    assert!(gc(&desk.home, "tickets", Some(0)).is_err());
}

#[test]
fn gc_removes_what_a_failed_ingest_left() {
    let desk = Desk::new();
    desk.ingest(good_rows(3)).unwrap();
    let staging = desk.dataset().join("staging");
    fs::create_dir_all(&staging).unwrap();
    fs::write(staging.join("chunk-000000.rows"), "cut").unwrap();
    let collected = gc(&desk.home, "tickets", None).unwrap();
    assert_eq!((collected.n_objects, collected.size_bytes), (1, 3));
    assert!(names_in(&staging).is_empty());
}

#[test]
fn a_gc_that_was_killed_leaves_no_version_that_cannot_be_read() {
    let desk = Desk::new();
    let first = desk.ingest(good_rows(3)).unwrap();
    let second = desk.ingest(good_rows(4)).unwrap().manifest;
    // It removes the files of a folder in any order.
    fs::remove_file(first.folder.join("manifest.json")).unwrap();
    fs::create_dir(desk.dataset().join("scratch-old")).unwrap();
    let ids = || -> Vec<String> {
        log(&desk.home, "tickets").unwrap().into_iter().map(|one| one.version).collect()
    };
    assert_eq!(ids(), std::slice::from_ref(&second.version));
    assert_eq!(crate::datasets(&desk.home, None, 1).unwrap()[0].n_versions, 1);
    let third = desk.ingest(good_rows(5)).unwrap().manifest;
    assert_eq!((third.sequence, third.parent.as_ref()), (3, Some(&second.version)));
    let collected = gc(&desk.home, "tickets", Some(1)).unwrap();
    assert_eq!((collected.versions, collected.n_objects), (vec![second.version], 2));
    assert_eq!(ids(), [third.version]);
    assert_eq!(names_in(&desk.dataset().join("versions")).len(), 1);
    assert!(!names_in(&desk.dataset()).iter().any(|name| name.starts_with("scratch-")));
}

#[test]
fn coverage_names_what_the_dataset_lacks() {
    let desk = Desk::new();
    let row = |label: &str| format!("{{\"text\":\"x\",\"label\":\"{label}\"}}\n");
    desk.ingest(row("a").repeat(9)).unwrap();
    let source = desk.file("traffic.jsonl", row("a").repeat(5) + &row("b").repeat(5));
    ingest(&desk.home, "traffic", &[source], &desk.lenient(), &mut |_| {}).unwrap();
    let by = ["label".to_owned()];
    let strata = coverage(&desk.home, "tickets", &by, Some("traffic")).unwrap();
    let found: Vec<_> = strata.iter().map(|s| (s.values[0].as_str(), s.rows, s.lacking)).collect();
    assert_eq!(found, [("b", 0, true), ("a", 9, false)]);
    let strata = coverage(&desk.home, "tickets", &[], None).unwrap();
    assert_eq!(strata[0].values, ["0 to 50 characters"]);
}

#[test]
fn a_version_of_the_first_format_can_be_read_but_not_added_to() {
    let desk = Desk::new();
    let id = "ab".repeat(32);
    let folder = desk.dataset().join("versions").join(&id);
    fs::create_dir_all(&folder).unwrap();
    let manifest = serde_json::json!({
        "version": id, "parent": null, "sequence": 1, "contract_hash": "00", "rows_in": 3,
        "rows_published": 2, "rows_quarantined": 1, "blank_lines": 0,
        "by_rule": { "not_json": 1 }, "created_at_ms": 1,
        "source": { "name": "a.jsonl", "size_bytes": 1, "hash": "00" },
    });
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    fs::write(folder.join("contract.json"), SCHEMA).unwrap();
    fs::write(folder.join("rows.jsonl"), good_rows(2)).unwrap();
    let bad = r#"{"offset_bytes":9,"line":3,"rule":"not_json","detail":"x","size_bytes":1,"encoding":"utf8","raw":"{"}"#;
    fs::write(folder.join("quarantine.jsonl"), format!("{bad}\n")).unwrap();

    assert_eq!(log(&desk.home, "tickets").unwrap()[0].rows_published, 2);
    assert_eq!(newest_rows(&desk), good_rows(2).as_bytes());
    assert_eq!(desk.quarantined(Report::Newest)[0].raw, "{");
    let options = IngestOptions { append: true, ..desk.lenient() };
    let error = desk.ingest_with(good_rows(3), &options).unwrap_err().to_string();
    assert!(error.contains("is of the first format"), "{error}");
    let second = desk.ingest(good_rows(3)).unwrap().manifest;
    assert_eq!((second.sequence, second.parent), (2, Some(id)));
    let diff = diff(&desk.home, "tickets", None, None, 9).unwrap();
    assert_eq!((diff.rows_added, diff.rows_removed, diff.rows_same), (1, 0, 2));
}
