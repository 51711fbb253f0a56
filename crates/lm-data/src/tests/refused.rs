//! What is known of refused bodies: by heart, and right whoever else changes it.

use std::process::{Command, Stdio};

use super::*;
use crate::{Backlog, Drained, drain, inbox};

fn install_contract(home: &DataHome, schema: &str) {
    let contracts = home.0.join("contracts");
    fs::create_dir_all(&contracts).unwrap();
    fs::write(contracts.join("tickets.json"), schema).unwrap();
}

/// Sends bodies that break the contract under these keys, and lets them be refused.
fn refuse(home: &DataHome, keys: &[&str]) {
    let bad = "{}\n".repeat(30);
    for &key in keys {
        let limits = InboxLimits::default();
        offer(home, "tickets", Some(key), bad.as_bytes(), &limits).unwrap();
    }
    let drained = drain(home, "tickets", &IngestOptions::default(), &mut |_| ()).unwrap();
    assert!(matches!(drained, Drained::Refused { .. }), "{drained:?}");
}

/// Bodies that wait, and those that were refused.
fn counts(desk: &Desk) -> (u64, u64) {
    let Backlog { n_bodies, refused_bodies, .. } = backlog(&desk.home, "tickets").unwrap();
    (n_bodies, refused_bodies)
}

#[test]
fn receipts_are_read_again_only_when_somebody_else_changed_what_is_refused() {
    let desk = Desk::new();
    install_contract(&desk.home, SCHEMA);
    refuse(&desk.home, &["a", "b"]);
    assert_eq!(counts(&desk), (0, 2));
    let folder = desk.dataset().join("inbox");
    let receipt = folder.join("keys").join(inbox::file_of("a"));
    let body = |key: &str| folder.join(format!("{}.jsonl", inbox::file_of(key)));
    let whole = fs::read(&receipt).unwrap();
    // Who does not read it does not see that it is damaged.
    fs::write(&receipt, "{").unwrap();
    let good = good_rows(1);
    offer(&desk.home, "tickets", Some("c"), good.as_bytes(), &InboxLimits::default()).unwrap();
    assert_eq!(counts(&desk), (1, 2));
    // Another process changed something, or was killed before it did.
    let change = |number: u64| fs::write(folder.join("lock"), number.to_le_bytes()).unwrap();
    change(1);
    assert_eq!(counts(&desk), (2, 1));
    fs::write(&receipt, whole).unwrap();
    change(2);
    assert_eq!(counts(&desk), (1, 2));
    fs::remove_file(body("b")).unwrap();
    assert_eq!(counts(&desk), (1, 1));
    install_contract(&desk.home, "{}");
    let drained = drain(&desk.home, "tickets", &IngestOptions::default(), &mut |_| ()).unwrap();
    assert!(matches!(drained, Drained::Added { n_bodies: 2, .. }), "{drained:?}");
    // What was refused once and then added is not refused for ever.
    fs::write(body("a"), &good).unwrap();
    assert_eq!(counts(&desk), (1, 0));
}

const CHILD: &str = "LASTMILE_TEST_REFUSED_OF_CHILD";

/// Not a test by itself: the other process of the next test. Without its variable it ends.
#[test]
fn child_whose_body_is_refused() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    refuse(&DataHome(folder.join("data")), &["of the child"]);
}

#[test]
fn what_another_process_refuses_is_in_the_way_of_the_same_sender() {
    let desk = Desk::new();
    install_contract(&desk.home, SCHEMA);
    refuse(&desk.home, &["own"]);
    assert_eq!(counts(&desk), (0, 1));
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::refused::child_whose_body_is_refused"])
        .env(CHILD, desk.folder.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(ended.success());
    let limits = InboxLimits { n_bodies: 2, ..InboxLimits::default() };
    let send = || offer(&desk.home, "tickets", Some("more"), good_rows(1).as_bytes(), &limits);
    let error = send().unwrap_err();
    assert!(matches!(error, DataError::RefusedFull { value: 2, limit: 2, .. }), "{error}");
    refuse(&desk.home, &["own again"]);
    assert_eq!(counts(&desk), (0, 3));
}
