//! What may go wrong around the store: full queues, full disks, kills, damaged files.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use rusqlite::Connection;

use super::*;
use crate::schema::SCHEMA_VERSION;
use crate::{Reader, RunInfo, RunState};

/// A connection of "another process" that holds the write lock until it is dropped.
fn hold_write_lock(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

#[test]
fn a_full_queue_drops_and_counts_and_never_waits() {
    let home = Home::new();
    let store = home.open_with(|o| {
        o.queue_capacity = 1;
        o.busy_timeout = Duration::from_secs(60);
    });
    let lock = hold_write_lock(&home.path());
    record_all(&store, 0..2000);
    // The writer holds a group, of as many as come while it begins, and the queue one more answer.
    assert!(store.counters().dropped >= 2000 - 512 - 1, "{:?}", store.counters());
    drop(lock);
    store.flush().unwrap();
    let counters = store.counters();
    assert_eq!((counters.recorded + counters.dropped, counters.write_errors), (2000, 0));
    assert_eq!((counters.queue_len, counters.queue_capacity), (0, 1));
}

#[test]
fn a_queue_full_of_bytes_drops_and_counts() {
    let home = Home::new();
    let store = home.open_with(|o| o.queue_bytes = 1000);
    let mut large = event(1);
    large.output_text = "x".repeat(1001);
    store.record(&large);
    store.record(&event(2));
    store.flush().unwrap();
    assert_eq!((store.counters().dropped, store.counters().recorded), (1, 1));
    let mut many = event(3);
    let empty = ChatMessage { role: Role::User, content: String::new() };
    many.request.prompt = Prompt::Chat(vec![empty; 100]);
    store.record(&many);
    store.flush().unwrap();
    assert_eq!((store.counters().dropped, store.counters().recorded), (2, 1));
}

#[test]
fn feedback_gets_in_while_telemetry_fills_the_queue() {
    let home = Home::new();
    let store = home.open_with(|o| {
        o.queue_capacity = 1;
        o.busy_timeout = Duration::from_secs(60);
    });
    store.record(&event(1));
    store.flush().unwrap();
    let lock = hold_write_lock(&home.path());
    record_all(&store, 2..20);
    std::thread::scope(|scope| {
        let feedback = scope.spawn(|| store.feedback(thumb_up(1)));
        drop(lock);
        feedback.join().unwrap().unwrap();
    });
    assert_eq!(store.reader().feedback_for(RequestId(1)).unwrap().len(), 1);
}

#[test]
fn a_lock_held_too_long_is_counted_and_told_and_the_store_goes_on() {
    let home = Home::new();
    let store = home.open_with(|o| o.busy_timeout = Duration::from_millis(20));
    store.record(&event(1));
    store.flush().unwrap();
    // The second answer comes after the erasing at open, which would count a write error too.
    store.flush().unwrap();
    let lock = hold_write_lock(&home.path());
    store.record(&event(2));
    store.flush().unwrap();
    assert_eq!(store.counters().write_errors, 1);
    let error = store.feedback(thumb_up(1)).unwrap_err();
    assert!(matches!(error, StoreError::Busy { waited_ms: 20, .. }), "{error}");
    drop(lock);
    store.record(&event(3));
    store.feedback(thumb_up(3)).unwrap();
    assert_eq!((store.counters().recorded, store.counters().feedback), (2, 1));
}

/// Eight groups wait for what cannot be written to: one of them tries, and the others are lost with it.
#[test]
fn a_store_that_closes_does_not_wait_anew_for_each_group() {
    let home = Home::new();
    let store = home.open_with(|o| o.busy_timeout = Duration::from_secs(1));
    let lock = hold_write_lock(&home.path());
    let n = 8 * 500;
    record_all(&store, 0..n);
    let began = Instant::now();
    drop(store.close());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let counters = store.counters();
    assert_eq!((counters.recorded, counters.dropped), (0, 0));
    assert!(counters.write_errors >= u64::try_from(n).unwrap(), "{counters:?}");
    drop(lock);
}

#[test]
fn a_full_store_is_counted_and_told_and_stays_readable() {
    let home = Home::new();
    let store = home.open_with(|o| o.max_bytes = 1 << 20);
    store.record(&event(0));
    store.flush().unwrap();
    for id in 1..30 {
        let mut large = event(id);
        large.output_text = "x".repeat(100_000);
        store.record(&large);
    }
    store.flush().unwrap();
    let counters = store.counters();
    assert_eq!(counters.recorded + counters.write_errors, 30);
    assert!(counters.write_errors > 0, "{counters:?}");
    let long = Feedback { correction: Some("y".repeat(1 << 20)), ..thumb_up(0) };
    let error = store.feedback(long).unwrap_err();
    assert!(matches!(error, StoreError::Full { max_bytes: 1_048_576, .. }), "{error}");
    assert!(store.reader().request(RequestId(0)).unwrap().is_some());
}

#[test]
fn a_row_that_cannot_go_in_costs_no_other_even_where_it_takes_the_transaction_with_it() {
    let home = Home::new();
    let store = home.open_with(|o| o.busy_timeout = Duration::from_secs(60));
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON request WHEN NEW.model = 'poison' \
                   BEGIN SELECT RAISE(ROLLBACK, 'poison'); END";
    Connection::open(home.path()).unwrap().execute_batch(trigger).unwrap();
    // What comes while the writer waits for the lock is one group, feedback included.
    let lock = hold_write_lock(&home.path());
    for id in 0..50 {
        let is_bad = [7, 8, 31].contains(&id);
        let model = if is_bad { "poison" } else { "placeholder" }.to_owned();
        store.record(&RequestEvent { model, ..event(id) });
    }
    std::thread::scope(|scope| {
        let good = scope.spawn(|| store.feedback(thumb_up(12)));
        let bad = scope.spawn(|| store.feedback(thumb_up(8)));
        drop(lock);
        good.join().unwrap().unwrap();
        let bad = bad.join().unwrap().unwrap_err();
        assert!(matches!(bad, StoreError::UnknownRequest { .. }), "{bad}");
    });
    store.flush().unwrap();
    let counters = store.counters();
    assert_eq!((counters.recorded, counters.write_errors, counters.feedback), (47, 3, 1));
    assert_eq!(store.reader().counts().unwrap().requests, 47);
    assert!(store.reader().request(RequestId(8)).unwrap().is_none());
}

#[test]
fn a_closed_store_drops_telemetry_and_refuses_feedback() {
    let home = Home::new();
    let store = home.open();
    store.close().unwrap();
    store.close().unwrap();
    store.record(&event(1));
    assert_eq!(store.counters().dropped, 1);
    assert!(matches!(store.feedback(thumb_up(1)), Err(StoreError::Closed)));
}

#[test]
fn two_stores_write_one_file() {
    let home = Home::new();
    let (a, b) = (home.open(), home.open());
    std::thread::scope(|scope| {
        scope.spawn(|| record_all(&a, 0..500));
        scope.spawn(|| record_all(&b, 500..1000));
    });
    a.flush().unwrap();
    b.flush().unwrap();
    assert_eq!(a.reader().counts().unwrap().requests, 1000);
    b.feedback(thumb_up(1)).unwrap();
    assert_eq!(a.counters().write_errors + b.counters().write_errors, 0);
}

const CHILD: &str = "LASTMILE_TEST_STORE_OF_CHILD";

/// Not a test by itself: the process that the next test kills. Without its variable it ends.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Store::open(Path::new(&path), StoreOptions::default()).unwrap();
    let info = RunInfo {
        pid: std::process::id(),
        version: "0.1.0".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        model: "placeholder".to_owned(),
        release: RELEASE,
    };
    store.begin_run(info).unwrap();
    for id in 0.. {
        store.record(&event(id));
        store.feedback(thumb_up(id)).unwrap();
        println!("durable {id}");
    }
}

#[test]
fn after_a_kill_all_feedback_that_was_answered_is_there_and_the_crash_is_seen() {
    let home = Home::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::faults::child_that_writes_until_it_is_killed", "--nocapture"])
        .env(CHILD, home.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let durable = lines.map(Result::unwrap).filter(|line| line.starts_with("durable")).take(30);
    assert_eq!(durable.count(), 30);
    child.kill().unwrap();
    child.wait().unwrap();

    let store = home.open();
    for id in 0..30 {
        assert_eq!(store.reader().feedback_for(RequestId(id)).unwrap().len(), 1, "{id}");
        assert!(store.reader().request(RequestId(id)).unwrap().is_some(), "{id}");
    }
    let run = store.reader().runs(1).unwrap().remove(0);
    assert_eq!(run.state(SystemTime::now() + DAY, Duration::from_secs(30)), RunState::Crashed);
    store.record(&event(1 << 64));
    store.flush().unwrap();
    assert_eq!(store.counters().recorded, 1);
}

#[test]
fn a_damaged_file_is_named_and_left_as_it_is() {
    let home = Home::new();
    drop(home.open());
    let garbage = vec![0xa5; 8192];
    std::fs::write(home.path(), &garbage).unwrap();
    let error = home.open_error();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("lastmile.db"), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
    assert_eq!(std::fs::read(home.path()).unwrap(), garbage);
}

#[test]
fn a_newer_schema_is_refused_by_writer_and_reader() {
    let home = Home::new();
    drop(home.open());
    Connection::open(home.path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let newer = |e: &StoreError| match e {
        StoreError::SchemaNewer { found, known, .. } => (*found, *known) == (99, SCHEMA_VERSION),
        _ => false,
    };
    assert!(newer(&home.open_error()));
    assert!(newer(&Reader::open(&home.path()).err().unwrap()));
}

#[test]
fn a_file_of_another_program_is_refused() {
    let home = Home::new();
    std::fs::create_dir_all(home.path().parent().unwrap()).unwrap();
    Connection::open(home.path()).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    assert!(matches!(home.open_error(), StoreError::NotAStore { found: 0, .. }));
}

#[test]
fn a_reader_makes_no_file() {
    let home = Home::new();
    assert!(matches!(Reader::open(&home.path()), Err(StoreError::Missing { .. })));
    assert!(!home.path().exists());
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let store = home.open();
    store.record(&event(1));
    store.flush().unwrap();
    for entry in std::fs::read_dir(home.path().parent().unwrap()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
    }
}
