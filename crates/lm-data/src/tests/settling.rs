//! Bodies between their publishing and their removal: whoever comes between doubles and forgets nothing.

use super::*;
use crate::ingest::{prepare, run_batch};
use crate::{Drained, Fate, RECEIPTS_KEPT, drain, forget_receipts, inbox, receipt};

impl Desk {
    /// Sends rows under a key, publishes them as a drain would, and is killed before it settles.
    fn publish_and_die(&self, key: &str, rows: &str) {
        let contracts = self.home.0.join("contracts");
        fs::create_dir_all(&contracts).unwrap();
        fs::write(contracts.join("tickets.json"), SCHEMA).unwrap();
        let limits = InboxLimits::default();
        offer(&self.home, "tickets", Some(key), rows.as_bytes(), &limits).unwrap();
        let dataset = self.home.dataset("tickets").unwrap();
        let options = IngestOptions { append: true, ..IngestOptions::default() };
        let contract = prepare(&dataset, &options).unwrap();
        let found = inbox::pending(&dataset).unwrap();
        run_batch(&dataset, &contract, &options, &found, &mut |_| ()).unwrap().unwrap();
    }
}

fn n_rows(desk: &Desk) -> usize {
    String::from_utf8(newest_rows(desk)).unwrap().lines().count()
}

#[test]
fn an_append_between_publishing_and_settling_doubles_nothing() {
    let desk = Desk::new();
    desk.publish_and_die("x", &good_rows(30));
    let options = IngestOptions { append: true, ..IngestOptions::default() };
    desk.ingest_with("{\"text\":\"other\"}\n", &options).unwrap();
    assert_eq!(n_rows(&desk), 31);
    let options_of_server = IngestOptions::default();
    let drained = drain(&desk.home, "tickets", &options_of_server, &mut |_| ()).unwrap();
    let Drained::Added { n_bodies: 1, rows } = drained else { panic!("{drained:?}") };
    assert_eq!((rows.rows_in, rows.rows_published), (30, 30));
    assert_eq!(n_rows(&desk), 31);
    let receipt = receipt(&desk.home, "tickets", "x").unwrap().unwrap();
    let Fate::Added { version: Some(_), rows, .. } = receipt.fate else { panic!("{receipt:?}") };
    assert_eq!(rows.rows_published, 30);
    assert_eq!(backlog(&desk.home, "tickets").unwrap().n_bodies, 0);
    // What is gone from the inbox is no longer in the list of sources.
    desk.ingest_with("{\"text\":\"other\"}\n{\"text\":\"one more\"}\n", &options).unwrap();
    let newest = crate::show(&desk.home, "tickets", None).unwrap();
    let sources = fs::read_to_string(newest.folder.join("sources.jsonl")).unwrap();
    assert!(!sources.contains("inbox/"), "{sources}");
}

#[test]
fn a_body_that_is_noted_and_not_removed_yet_is_settled_once_more() {
    let desk = Desk::new();
    desk.publish_and_die("x", &good_rows(30));
    let body = desk.dataset().join("inbox").join(format!("{}.jsonl", inbox::file_of("x")));
    let bytes = fs::read(&body).unwrap();
    let add = || drain(&desk.home, "tickets", &IngestOptions::default(), &mut |_| ()).unwrap();
    assert!(matches!(add(), Drained::Added { n_bodies: 1, .. }) && !body.exists());
    // As after a kill between the receipts and the removal.
    fs::write(&body, bytes).unwrap();
    assert!(matches!(add(), Drained::Added { n_bodies: 1, .. }) && !body.exists());
    assert!(matches!(add(), Drained::Nothing));
    assert_eq!(n_rows(&desk), 30);
}

#[test]
fn a_body_with_a_row_that_is_too_long_to_keep_is_kept() {
    let desk = Desk::new();
    desk.publish_and_die("x", &good_rows(30));
    let options = IngestOptions { max_row_bytes: 64, ..IngestOptions::default() };
    let add = || drain(&desk.home, "tickets", &options, &mut |_| ()).unwrap();
    assert!(matches!(add(), Drained::Added { .. }));
    let long = format!("{}{{\"text\":\"{}\"}}\n", good_rows(30), "x".repeat(5_000));
    let limits = InboxLimits::default();
    offer(&desk.home, "tickets", Some("long"), long.as_bytes(), &limits).unwrap();
    let Drained::Added { rows, .. } = add() else { panic!("it is not added") };
    assert_eq!((rows.rows_published, rows.rows_quarantined), (30, 1));
    let body = desk.dataset().join("inbox").join(format!("{}.jsonl", inbox::file_of("long")));
    assert_eq!(fs::read(body).unwrap(), long.as_bytes());
    let fate = receipt(&desk.home, "tickets", "long").unwrap().unwrap().fate;
    assert!(matches!(fate, Fate::Refused { .. }), "{fate:?}");
    assert!(matches!(add(), Drained::Nothing));
}

#[test]
fn receivers_that_give_up_are_in_nobodys_way() {
    let desk = Desk::new();
    let limits = InboxLimits::default();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let begun =
                        Offering::begin(&desk.home, "tickets", None, None, Format::Jsonl, &limits);
                    drop(begun.unwrap());
                }
            });
        }
    });
    assert_eq!(backlog(&desk.home, "tickets").unwrap().receiving_bytes, 0);
}

#[test]
fn a_bad_body_without_a_receipt_gets_one_and_is_tried_once() {
    let desk = Desk::new();
    desk.publish_and_die("x", &good_rows(30));
    let add = || drain(&desk.home, "tickets", &IngestOptions::default(), &mut |_| ()).unwrap();
    assert!(matches!(add(), Drained::Added { .. }));
    let bad = "{}\n".repeat(30);
    fs::write(desk.dataset().join("inbox/by-hand.jsonl"), &bad).unwrap();
    assert!(matches!(add(), Drained::Refused { .. }));
    assert!(matches!(add(), Drained::Nothing));
    let dataset = desk.home.dataset("tickets").unwrap();
    let noted = inbox::read_receipt(&dataset, "by-hand").unwrap().unwrap();
    assert_eq!((noted.key.as_str(), noted.size_bytes), ("by-hand", bad.len() as u64));
    assert_eq!(noted.hash, blake3::hash(bad.as_bytes()).to_hex().to_string());
    assert!(matches!(noted.fate, Fate::Refused { .. }));
}

#[test]
fn receipts_of_what_was_added_go_after_their_time() {
    let desk = Desk::new();
    desk.publish_and_die("added", &good_rows(30));
    let add = || drain(&desk.home, "tickets", &IngestOptions::default(), &mut |_| ()).unwrap();
    assert!(matches!(add(), Drained::Added { .. }));
    let limits = InboxLimits::default();
    let bad = "{}\n".repeat(30);
    offer(&desk.home, "tickets", Some("refused"), bad.as_bytes(), &limits).unwrap();
    assert!(matches!(add(), Drained::Refused { .. }));
    offer(&desk.home, "tickets", Some("waiting"), b"{\"text\":\"w\"}\n", &limits).unwrap();
    let receipt = |key: &str| receipt(&desk.home, "tickets", key).unwrap();
    let Fate::Added { at_ms, .. } = receipt("added").unwrap().fate else { panic!() };
    let kept_ms = u64::try_from(RECEIPTS_KEPT.as_millis()).unwrap();
    assert_eq!(forget_receipts(&desk.home, at_ms + kept_ms).unwrap(), 0);
    assert!(receipt("added").is_some());
    assert_eq!(forget_receipts(&desk.home, at_ms + kept_ms + 1).unwrap(), 1);
    assert_eq!(receipt("added"), None);
    // However old: these are still there.
    assert_eq!(forget_receipts(&desk.home, u64::MAX).unwrap(), 0);
    assert!(receipt("refused").is_some() && receipt("waiting").is_some());
}

#[test]
fn only_a_body_may_be_gone() {
    let dataset = Desk::new().home.dataset("tickets").unwrap();
    let check = |path: PathBuf, expect| {
        assert_eq!(inbox::is_body(&dataset, &path), expect, "{}", path.display());
    };
    check(dataset.inbox.join("a.jsonl"), true);
    check(dataset.inbox.join("lock"), false);
    check(dataset.inbox.join("keys/a.jsonl"), false);
    check(dataset.versions.join("a.jsonl"), false);
}
