//! What is sent: taken once by its key, checked at the door, added once whatever is killed, and never dropped.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::{Drained, Fate, Receipt, Tally, drain, inbox, receipt};

impl Desk {
    fn with_contract() -> Desk {
        let desk = Desk::new();
        desk.install(SCHEMA);
        desk
    }

    fn install(&self, schema: &str) {
        let contracts = self.home.0.join("contracts");
        fs::create_dir_all(&contracts).unwrap();
        fs::write(contracts.join("tickets.json"), schema).unwrap();
    }

    fn send(&self, key: &str, format: Format, bytes: impl AsRef<[u8]>) -> Result<Taken, DataError> {
        let limits = InboxLimits::default();
        let mut offering =
            Offering::begin(&self.home, "tickets", Some(key), None, format, &limits)?;
        // Pieces that end anywhere.
        bytes.as_ref().chunks(7).try_for_each(|piece| offering.write(piece))?;
        offering.finish()
    }

    fn drain(&self) -> Result<Drained, DataError> {
        drain(&self.home, "tickets", &IngestOptions::default(), &mut |_| ())
    }

    #[track_caller]
    fn add(&self) -> Tally {
        match self.drain().unwrap() {
            Drained::Added { rows, .. } => rows,
            other => panic!("{other:?}"),
        }
    }

    fn receipt(&self, key: &str) -> Option<Receipt> {
        receipt(&self.home, "tickets", key).unwrap()
    }

    fn inbox(&self) -> PathBuf {
        self.dataset().join("inbox")
    }
}

#[test]
fn each_body_has_a_receipt_that_says_what_became_of_it() {
    let desk = Desk::with_contract();
    let good = good_rows(40);
    desk.send("a", Format::Jsonl, &good).unwrap();
    desk.send("b", Format::Csv, "text,n\nfine,1\n,2\nfine too,three\n").unwrap();
    assert_eq!(desk.receipt("a").unwrap().fate, Fate::Waiting);
    let all = desk.add();
    assert_eq!((all.rows_in, all.rows_published, all.rows_quarantined), (43, 41, 2));
    let Fate::Added { version, rows, .. } = desk.receipt("b").unwrap().fate else { panic!() };
    assert_eq!((rows.rows_in, rows.rows_published), (3, 1));
    let rules: Vec<_> = rows.by_rule.iter().map(|(rule, n)| (rule.as_str(), *n)).collect();
    assert_eq!(rules, [("schema:minLength", 1), ("schema:type", 1)]);
    let newest = crate::show(&desk.home, "tickets", None).unwrap().manifest;
    assert_eq!(version, Some(newest.version));
    let Fate::Added { rows, .. } = desk.receipt("a").unwrap().fate else { panic!() };
    assert_eq!((rows.rows_in, rows.rows_published, rows.rows_quarantined), (40, 40, 0));
    // The same key with the same bytes is answered again; nothing comes twice.
    let again = desk.send("a", Format::Jsonl, &good).unwrap();
    assert!(again.already_taken && matches!(again.receipt.fate, Fate::Added { .. }));
    assert!(matches!(desk.drain().unwrap(), Drained::Nothing));
    assert_eq!(backlog(&desk.home, "tickets").unwrap(), crate::Backlog::default());
}

#[test]
fn every_format_is_taken() {
    let desk = Desk::new();
    desk.install("{}");
    let mail = "From a@b.c Mon Jan  1 00:00:00 2001\nFrom: a@b.c\nSubject: s\n\ntext\n\n";
    let parquet = {
        let other = Desk::new();
        other.ingest(good_rows(3)).unwrap();
        let out = other.folder.path().join("out");
        crate::checkout(&other.home, "tickets", None, &out).unwrap();
        fs::read(out.join("part-00000.parquet")).unwrap()
    };
    let chat =
        r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}"#;
    let sharegpt =
        r#"{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"hello"}]}"#;
    let bodies: [(Format, &[u8], u64); 8] = [
        (Format::Jsonl, b"{\"x\": 1}\n{\"x\": 2}", 2),
        (Format::Json, b"[{\"x\": 3}, {\"x\": 4}]", 2),
        (Format::Csv, b"x\n5\n", 1),
        (Format::Parquet, &parquet, 3),
        (Format::Chat, chat.as_bytes(), 1),
        (Format::Sharegpt, sharegpt.as_bytes(), 1),
        (Format::Mbox, mail.as_bytes(), 1),
        (Format::Mail, b"From: a@b.c\nSubject: t\n\nother text\n", 1),
    ];
    for (format, bytes, _) in &bodies {
        desk.send(&format.to_string(), *format, bytes).unwrap();
    }
    let all = desk.add();
    assert_eq!((all.rows_in, all.rows_published), (12, 12), "{all:?}");
    for (format, _, n_rows) in bodies {
        let Fate::Added { rows, .. } = desk.receipt(&format.to_string()).unwrap().fate else {
            panic!("{format}")
        };
        assert_eq!(rows.rows_published, n_rows, "{format}");
    }
}

#[test]
fn a_key_that_was_used_for_other_rows_is_refused_with_both_digests() {
    let desk = Desk::with_contract();
    let (one, two) = (good_rows(1), good_rows(2));
    desk.send("k", Format::Jsonl, &one).unwrap();
    for (format, bytes) in [(Format::Jsonl, &two), (Format::Chat, &one)] {
        let error = desk.send("k", format, bytes).unwrap_err().to_string();
        for bytes in [one.as_bytes(), bytes.as_bytes()] {
            assert!(error.contains(blake3::hash(bytes).to_hex().as_str()), "{error}");
        }
        assert!(error.contains(&format!("as {format}")), "{error}");
    }
    assert_eq!(backlog(&desk.home, "tickets").unwrap().n_bodies, 1);
}

#[test]
fn senders_of_the_same_at_once_are_one() {
    let desk = Desk::with_contract();
    let rows = good_rows(500);
    let taken: Vec<Taken> = std::thread::scope(|scope| {
        let senders: Vec<_> =
            (0..8).map(|_| scope.spawn(|| desk.send("k", Format::Jsonl, &rows).unwrap())).collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    assert_eq!(taken.iter().filter(|taken| !taken.already_taken).count(), 1);
    assert_eq!(desk.add().rows_published, 500);
}

#[track_caller]
fn check_fault(format: Format, bytes: &[u8], expect: Option<u64>) {
    let desk = Desk::with_contract();
    let taken = desk.send("k", format, bytes);
    match (taken, expect) {
        (Ok(_), None) => {}
        (Err(DataError::NotOfFormat { offset_bytes, .. }), Some(at)) => {
            assert_eq!(offset_bytes, at);
        }
        (taken, expect) => panic!("{taken:?}, wanted {expect:?}"),
    }
    // Nothing of what was refused is left.
    let n_bodies = u64::from(expect.is_none());
    assert_eq!(backlog(&desk.home, "tickets").unwrap().n_bodies, n_bodies);
    assert!(names_in(&desk.inbox()).iter().all(|name| !name.ends_with(".part")));
}

#[test]
fn what_is_not_of_its_format_is_refused_with_the_offset_of_the_first_fault() {
    check_fault(Format::Jsonl, b"\n{\"text\": tru}\n", Some(13));
    check_fault(Format::Jsonl, b"just words\n", Some(0));
    check_fault(Format::Jsonl, b"\x00\xff\xfe binary", Some(1));
    check_fault(Format::Json, b"[{\"text\": \"a\"", Some(12));
    check_fault(Format::Csv, b"x,x\n1,2\n", Some(0));
    check_fault(Format::Csv, b"x,y\n1\n2\n", Some(4));
    check_fault(Format::Csv, b"x,y\r1,2\r", Some(0));
    check_fault(Format::Parquet, b"PAR1 no more of it", Some(10));
    check_fault(Format::Parquet, b"text\n", Some(0));
    check_fault(Format::Mbox, b"  {\"text\": 1}", Some(2));
    check_fault(Format::Jsonl, b"\x1f\x8b\x08\x00 zipped", Some(0));
    check_fault(Format::Csv, b"\x28\xb5\x2f\xfd zipped", Some(0));
    // A bad row among others is for quarantine, and so is what only is in another encoding.
    check_fault(Format::Jsonl, b"just words\n{\"text\": \"a\"}\n", None);
    check_fault(Format::Jsonl, b"{\"text\": \"caf\xe9\"}\n", None);
    check_fault(Format::Jsonl, b"[]\n", None);
}

#[test]
fn bodies_that_are_too_large_or_too_many_are_refused_and_leave_nothing() {
    let desk = Desk::with_contract();
    let limits = InboxLimits { n_bodies: 2, size_bytes: 100, body_bytes: 60 };
    let begin =
        |key: &str| Offering::begin(&desk.home, "tickets", Some(key), None, Format::Jsonl, &limits);
    let mut large = begin("large").unwrap();
    large.write(&[b' '; 60]).unwrap();
    let error = large.write(b" ").unwrap_err();
    assert!(matches!(error, DataError::OfferTooLarge { limit_bytes: 60 }), "{error}");
    drop(large);
    let send = |key: &str, text: &str| {
        let mut offering = begin(key)?;
        let row = format!("{{\"text\":\"{text}\"}}");
        offering.write(format!("{row:50}").as_bytes())?;
        offering.finish()
    };
    send("a", "1").unwrap();
    let mut other = begin("b").unwrap();
    other.write(&[b' '; 59]).unwrap();
    // What is being received has its room, too.
    let error = send("c", "2").unwrap_err();
    assert!(matches!(error, DataError::InboxFull { what: "bytes", limit: 100, .. }), "{error}");
    drop(other);
    assert!(send("a", "1").unwrap().already_taken);
    assert_eq!(desk.add().rows_in, 1);
    send("c", "2").unwrap();
    assert_eq!(desk.add().rows_in, 1);
    let n_bytes = backlog(&desk.home, "tickets").unwrap().receiving_bytes;
    assert_eq!(n_bytes, 0);
}

#[test]
fn a_body_that_breaks_the_contract_waits_for_another_one() {
    let desk = Desk::with_contract();
    desk.send("good", Format::Jsonl, good_rows(30)).unwrap();
    let bad = "{}\n".repeat(30);
    desk.send("bad", Format::Jsonl, &bad).unwrap();
    let drained = desk.drain().unwrap();
    let Drained::Refused { bodies, error: DataError::AuditFailed { .. } } = &drained else {
        panic!("{drained:?}")
    };
    assert_eq!(*bodies, [format!("inbox/{}.jsonl", inbox::file_of("bad"))]);
    let Fate::Refused { why, .. } = desk.receipt("bad").unwrap().fate else { panic!() };
    assert!(why.contains("schema:required is broken by 30 of 60 rows"), "{why}");
    // The others are not in its way, nor it in theirs.
    assert_eq!(desk.add().rows_published, 30);
    assert!(matches!(desk.drain().unwrap(), Drained::Nothing));
    assert!(desk.send("bad", Format::Jsonl, &bad).unwrap().already_taken);
    desk.install("{}");
    assert_eq!(desk.add().rows_published, 30);
    assert!(matches!(desk.receipt("bad").unwrap().fate, Fate::Added { .. }));
}

#[test]
fn what_is_refused_is_in_the_way_of_its_sender_only() {
    let desk = Desk::with_contract();
    let limits = InboxLimits { n_bodies: 2, ..InboxLimits::default() };
    let send = |sender: Option<&str>, key: Option<&str>, rows: &str| {
        let mut offering =
            Offering::begin(&desk.home, "tickets", key, sender, Format::Jsonl, &limits)?;
        offering.write(rows.as_bytes())?;
        offering.finish()
    };
    let (rubbish, bad) = (Some("rubbish"), "{}\n".repeat(30));
    send(rubbish, Some("a"), &bad).unwrap();
    send(rubbish, Some("b"), &bad).unwrap();
    let error = send(Some("good"), Some("c"), &good_rows(30)).unwrap_err();
    assert!(matches!(error, DataError::InboxFull { value: 2, limit: 2, .. }), "{error}");
    while !matches!(desk.drain().unwrap(), Drained::Nothing) {}
    let now = backlog(&desk.home, "tickets").unwrap();
    assert_eq!((now.n_bodies, now.size_bytes), (0, 0));
    assert_eq!((now.refused_bodies, now.refused_bytes), (2, 2 * bad.len() as u64));
    // With a key it is known at once, without one at the end.
    for key in [Some("c"), None] {
        let error = send(rubbish, key, &good_rows(1)).unwrap_err();
        let is_full = matches!(error, DataError::RefusedFull { value: 2, limit: 2, .. });
        assert!(is_full, "{error}");
    }
    assert!(send(rubbish, Some("a"), &bad).unwrap().already_taken);
    send(Some("good"), Some("c"), &good_rows(30)).unwrap();
    send(None, Some("d"), &good_rows(30)).unwrap();
    assert_eq!(desk.add().rows_published, 60);
    desk.install("{}");
    assert_eq!(desk.add().rows_published, 60);
    send(rubbish, None, &good_rows(1)).unwrap();
    let now = backlog(&desk.home, "tickets").unwrap();
    assert_eq!((now.n_bodies, now.refused_bodies, now.refused_bytes), (1, 0, 0));
}

#[test]
fn what_killed_receivers_leave_is_removed_and_what_is_being_received_is_not() {
    let desk = Desk::with_contract();
    let mut alive =
        Offering::begin(&desk.home, "tickets", None, None, Format::Jsonl, &InboxLimits::default())
            .unwrap();
    alive.write(good_rows(1).as_bytes()).unwrap();
    fs::write(desk.inbox().join("body-dead.part"), "{\"text\"").unwrap();
    // A receipt whose body never came says nothing.
    let half = Receipt {
        key: "half".to_owned(),
        hash: "0".repeat(64),
        format: Format::Jsonl,
        size_bytes: 1,
        offered_at_ms: 1,
        sender: None,
        fate: Fate::Waiting,
    };
    let path = desk.inbox().join("keys").join(inbox::file_of("half"));
    fs::write(path, half.to_json()).unwrap();
    assert_eq!(desk.receipt("half"), None);
    assert!(!desk.send("half", Format::Jsonl, good_rows(2)).unwrap().already_taken);
    assert!(names_in(&desk.inbox()).iter().all(|name| name != "body-dead.part"));
    assert!(!alive.finish().unwrap().already_taken);
    assert_eq!(desk.add().rows_published, 3);
}

const CHILD: &str = "LASTMILE_TEST_OFFERS_OF_CHILD";
const N_BODIES: usize = 30;
const N_ROWS: usize = 400;

fn body(i: usize) -> String {
    (0..N_ROWS).map(|row| format!("{{\"text\":\"{i}-{row}\"}}\n")).collect()
}

/// Not a test by itself: the process that the next test kills. Without its variable it ends.
#[test]
fn child_that_sends_and_adds_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let home = DataHome(folder.join("data"));
    let limits = InboxLimits::default();
    for i in 0..N_BODIES {
        let key = format!("key {i}");
        let mut offering =
            Offering::begin(&home, "tickets", Some(&key), None, Format::Jsonl, &limits).unwrap();
        offering.write(body(i).as_bytes()).unwrap();
        offering.finish().unwrap();
        if i % 3 == 2 {
            drain(&home, "tickets", &IngestOptions::default(), &mut |_| ()).unwrap();
        }
    }
    stay_if_told();
}

#[test]
fn kills_of_who_sends_and_adds_lose_and_double_nothing() {
    let desk = Desk::with_contract();
    let mut killed = 0;
    // Later and later, so that the kills meet receiving, renaming, publishing and settling.
    for round in 0..200_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::offers::child_that_sends_and_adds_until_it_is_killed"])
            .env(CHILD, desk.folder.path())
            .env(STAYS, if round < 2 { "1" } else { "" })
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (told, ended) = std::sync::mpsc::channel::<()>();
        // Nobody ever tells: this is a clock, not a wait for something.
        let _ = ended.recv_timeout(Duration::from_millis(12 * (round + 1)));
        drop(told);
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        killed += 1;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 1, "the child ended before it could be killed");
    while !matches!(desk.drain().unwrap(), Drained::Nothing) {}
    let rows = String::from_utf8(newest_rows(&desk)).unwrap();
    let mut found: Vec<&str> = rows.lines().collect();
    found.sort_unstable();
    let all: String = (0..N_BODIES).map(body).collect();
    let mut expect: Vec<&str> = all.lines().collect();
    expect.sort_unstable();
    assert_eq!(found.len(), expect.len());
    assert!(found == expect);
}
