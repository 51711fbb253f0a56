//! Which datasets there are, and their versions page by page.

use super::*;
use crate::{datasets, unpublished, versions};

#[test]
fn datasets_are_listed_by_name_each_with_its_newest_version() {
    let desk = Desk::new();
    assert!(datasets(&desk.home, None, 10).unwrap().is_empty());
    desk.ingest(good_rows(2)).unwrap();
    let newest = desk.ingest(good_rows(3)).unwrap().manifest;
    let other = desk.file("other.jsonl", good_rows(1));
    ingest(&desk.home, "abc", &[other], &desk.lenient(), &mut |_| {}).unwrap();
    fs::create_dir_all(desk.home.0.join("datasets").join("No Dataset")).unwrap();

    let all = datasets(&desk.home, None, 10).unwrap();
    let names: Vec<_> = all.iter().map(|one| (one.name.as_str(), one.n_versions)).collect();
    assert_eq!(names, [("abc", 1), ("tickets", 2)]);
    assert_eq!(all[1].newest.as_ref().unwrap(), &Some(newest));
    let after = datasets(&desk.home, Some("abc"), 10).unwrap();
    assert_eq!(after.len(), 1);
    assert_eq!(datasets(&desk.home, None, 1).unwrap()[0].name, "abc");

    // One that is damaged hides no other.
    let broken = desk.home.0.join("datasets").join("abc").join("versions");
    let version = broken.join(&names_in(&broken)[0]).join("manifest.json");
    fs::write(version, "{").unwrap();
    let all = datasets(&desk.home, None, 10).unwrap();
    assert!(all[0].newest.is_err() && all[1].newest.is_ok());
}

#[test]
fn versions_come_in_pages_newest_first() {
    let desk = Desk::new();
    let made: Vec<_> = (1..=4).map(|n| desk.ingest(good_rows(n)).unwrap().manifest).collect();
    let page = versions(&desk.home, "tickets", None, 3).unwrap();
    assert_eq!(page, [made[3].clone(), made[2].clone(), made[1].clone()]);
    let rest = versions(&desk.home, "tickets", Some(page[2].sequence), 3).unwrap();
    assert_eq!(rest, [made[0].clone()]);
    let unknown = versions(&desk.home, "letters", None, 3).unwrap_err();
    assert!(matches!(unknown, DataError::UnknownDataset { .. }), "{unknown}");
}

#[test]
fn an_ingest_that_published_nothing_left_a_report() {
    let desk = Desk::new();
    desk.ingest(good_rows(1)).unwrap();
    assert_eq!(unpublished(&desk.home, "tickets").unwrap(), None);
    let strict = IngestOptions { contract: None, ..IngestOptions::default() };
    let refused = desk.ingest_with("[]\n[]\n", &strict).unwrap_err();
    assert!(matches!(refused, DataError::AuditFailed { .. }), "{refused}");
    let report = unpublished(&desk.home, "tickets").unwrap().unwrap();
    let n_bad = desk.quarantined(Report::Unpublished).len() as u64;
    assert_eq!(report.by_rule.get("schema:type"), Some(&n_bad));
}
