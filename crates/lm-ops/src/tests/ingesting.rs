//! The thread that adds what was sent: what it cannot do is told, and a panic does not end it.

use std::fs;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lm_data::{DataError, DataHome, Format, InboxLimits};

use crate::ingests::refusal;
use crate::{Ingests, TokenCounter};

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited 120 s until {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn start(tokens: TokenCounter) -> (tempfile::TempDir, Ingests) {
    let folder = tempfile::tempdir().unwrap();
    let home = DataHome(folder.path().join("data"));
    fs::create_dir_all(home.0.join("contracts")).unwrap();
    fs::write(home.0.join("contracts/notes.json"), "{}").unwrap();
    (folder, Ingests::start(home, InboxLimits::default(), tokens).unwrap())
}

fn send(ingests: &Ingests, rows: &str) {
    send_to(ingests, "notes", rows);
}

fn send_to(ingests: &Ingests, source: &str, rows: &str) {
    let mut upload = ingests.begin(source, None, None, Format::Jsonl).unwrap();
    upload.write(rows.as_bytes()).unwrap();
    upload.finish().unwrap();
}

fn n_added(ingests: &Ingests) -> u64 {
    n_added_to(ingests, "notes")
}

fn n_added_to(ingests: &Ingests, source: &str) -> u64 {
    ingests.counts().get(source).map_or(0, |counts| counts.rows.rows_published)
}

#[test]
fn a_dataset_that_cannot_be_added_to_is_named_until_it_can() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = Arc::clone(&is_broken);
    let tokens: TokenCounter = Arc::new(move |_, _| {
        if broken.load(Ordering::Relaxed) { Err("no tokenizer".to_owned()) } else { Ok(None) }
    });
    let (_folder, ingests) = start(tokens);
    send(&ingests, "{\"text\":\"a\"}\n");
    let failing = || ingests.attendant().failing;
    wait_until("it is told", || failing().is_some());
    assert_eq!(failing().unwrap(), "notes: no tokenizer");
    is_broken.store(false, Ordering::Relaxed);
    wait_until("it is over", || failing().is_none());
    assert_eq!(n_added(&ingests), 1);
}

#[test]
fn a_panic_is_counted_and_what_waits_is_added_all_the_same() {
    let n_calls = AtomicU64::new(0);
    let tokens: TokenCounter = Arc::new(move |_, _| {
        assert!(n_calls.fetch_add(1, Ordering::Relaxed) > 0, "the first one goes wrong");
        Ok(None)
    });
    let (_folder, ingests) = start(tokens);
    send(&ingests, "{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
    wait_until("both are added", || n_added(&ingests) == 2);
    let standing = ingests.attendant();
    assert_eq!((standing.thread, standing.panics), ("lm-ingest", 1));
    assert_eq!(standing.last_panic.unwrap(), "the first one goes wrong");
}

#[test]
fn a_panic_over_one_dataset_is_named_and_keeps_no_other_waiting() {
    let tokens: TokenCounter = Arc::new(|_, source| {
        assert!(source != "bad", "there is something wrong with it");
        Ok(None)
    });
    let (folder, ingests) = start(tokens);
    // The bad one comes first by its name.
    fs::write(folder.path().join("data/contracts/bad.json"), "{}").unwrap();
    send_to(&ingests, "bad", "{\"text\":\"a\"}\n");
    send(&ingests, "{\"text\":\"b\"}\n");
    wait_until("the good one is added", || n_added(&ingests) == 1);
    wait_until("it is counted", || ingests.attendant().panics > 0);
    let said = "bad: adding its rows panicked: there is something wrong with it";
    assert_eq!(ingests.attendant().failing.unwrap(), said);
}

#[test]
fn a_full_disk_says_so_and_when_to_come_again() {
    let path = std::path::PathBuf::from("/home/operator/inbox");
    let io = |kind| DataError::Io { action: "write to", path: path.clone(), source: kind };
    let full = DataError::DiskFull { path: path.clone(), free_bytes: 1, needed_bytes: 2 };
    for error in [io(Error::from(ErrorKind::StorageFull)), io(Error::from_raw_os_error(28)), full] {
        let refused = refusal(error);
        assert_eq!((refused.status(), refused.code()), (503, "disk_full"));
        assert!(refused.retry_after().is_some());
        assert!(!refused.to_string().contains("operator"), "{refused}");
    }
    assert_eq!(refusal(io(Error::from(ErrorKind::PermissionDenied))).status(), 500);
}

#[test]
fn what_was_refused_is_looked_at_again_when_its_contract_changes() {
    let n_looks = Arc::new(AtomicU64::new(0));
    let looks = Arc::clone(&n_looks);
    let tokens: TokenCounter = Arc::new(move |_, source| {
        looks.fetch_add(u64::from(source == "notes"), Ordering::Relaxed);
        Ok(None)
    });
    let (folder, ingests) = start(tokens);
    let contracts = folder.path().join("data/contracts");
    fs::write(contracts.join("other.json"), "{}").unwrap();
    fs::write(contracts.join("notes.json"), r#"{"required": ["text"]}"#).unwrap();
    send(&ingests, &"{}\n".repeat(30));
    let n_refused = || ingests.counts().get("notes").map_or(0, |counts| counts.refused_batches);
    wait_until("it is refused", || n_refused() == 1);
    // Each of these takes a look at all that waits.
    for i in 1..=3 {
        send_to(&ingests, "other", &format!("{{\"i\":{i}}}\n"));
        wait_until("it is added", || n_added_to(&ingests, "other") == i);
    }
    assert_eq!(n_looks.load(Ordering::Relaxed), 1);
    fs::write(contracts.join("notes.json"), "{}").unwrap();
    wait_until("all is added", || n_added(&ingests) == 30);
}
