//! Servers that go away, hang, refuse us or are not what they should be.

use std::time::Instant;

use super::*;
use crate::sql::{Connection, ErrorKind, Patience, Postgres, shown};

#[test]
fn a_server_that_goes_away_is_counted_and_used_again_when_it_is_back() {
    let Some(server) = Server::start() else { return };
    let store = Store::open(&server.url("restarts"), StoreOptions::default()).unwrap();
    record_all(&store, 0..10);
    store.flush().unwrap();
    // What the writer does at its start is over once it takes another entry.
    store.flush().unwrap();
    server.stop();
    record_all(&store, 10..20);
    store.flush().unwrap();
    assert_eq!((store.counters().recorded, store.counters().write_errors), (10, 10));
    let lost = store.feedback(thumb_up(1)).unwrap_err();
    assert!(matches!(lost, StoreError::Unreachable { .. }), "{lost}");
    assert!(!lost.to_string().contains(PASSWORD), "{lost}");
    assert!(store.reader().counts().is_err());
    server.start_again();
    record_all(&store, 20..30);
    store.feedback(thumb_up(1)).unwrap();
    let counts = store.reader().counts().unwrap();
    assert_eq!((counts.requests, counts.feedback), (20, 1));
}

#[test]
fn a_restart_between_two_entries_costs_nothing() {
    let Some(server) = Server::start() else { return };
    let options = StoreOptions { heartbeat: DAY, ..StoreOptions::default() };
    let store = Store::open(&server.url("between"), options).unwrap();
    record_all(&store, 0..10);
    store.flush().unwrap();
    store.flush().unwrap();
    server.stop();
    server.start_again();
    record_all(&store, 10..20);
    store.flush().unwrap();
    assert_eq!((store.counters().recorded, store.counters().write_errors), (20, 0));
    assert_eq!(store.reader().counts().unwrap().requests, 20);
}

#[test]
fn a_row_that_a_server_refuses_costs_no_other() {
    let Some(server) = Server::start() else { return };
    let url = server.url("poison");
    let store = Store::open(&url, StoreOptions::default()).unwrap();
    let other = connect(url.to_str().unwrap(), Duration::from_secs(60));
    let check = "ALTER TABLE request ADD CONSTRAINT sound CHECK (model <> 'poison')";
    other.execute_batch(check).unwrap();
    let holding = hold(&url);
    for id in 0..50 {
        let is_bad = [0, 7, 31].contains(&id);
        let model = if is_bad { "poison" } else { "placeholder" }.to_owned();
        store.record(&RequestEvent { model, ..event(id) });
    }
    holding.execute_batch("COMMIT").unwrap();
    store.feedback(thumb_up(12)).unwrap();
    store.flush().unwrap();
    assert_eq!((store.counters().recorded, store.counters().write_errors), (47, 3));
    assert_eq!(store.reader().counts().unwrap().requests, 47);
}

#[test]
fn a_group_whose_connection_is_lost_is_written_by_the_next_one() {
    let Some(server) = Server::start() else { return };
    let url = server.url("cut");
    let busy_timeout = Duration::from_secs(60);
    let store =
        Store::open(&url, StoreOptions { busy_timeout, ..StoreOptions::default() }).unwrap();
    store.record(&event(0));
    // The second is answered after what the writer does beside: its failures are counted, too.
    store.flush().unwrap();
    store.flush().unwrap();
    let holding = hold(&url);
    record_all(&store, 1..20);
    std::thread::scope(|scope| {
        let feedback = scope.spawn(|| store.feedback(thumb_up(0)));
        // The writer waits in the middle of its transaction, and its connection is cut there.
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE wait_event_type = 'Lock'";
        let (admin, begun) = (server.admin(), Instant::now());
        while admin.query_row(cut, (), |row| row.get::<_, i64>(0)).unwrap() == 0 {
            assert!(begun.elapsed() < Duration::from_secs(8), "the writer does not wait");
            std::thread::yield_now();
        }
        holding.execute_batch("COMMIT").unwrap();
        feedback.join().unwrap().unwrap();
    });
    store.flush().unwrap();
    assert_eq!((store.counters().recorded, store.counters().write_errors), (20, 0));
    let counts = store.reader().counts().unwrap();
    assert_eq!((counts.requests, counts.feedback), (20, 1));
}

#[test]
fn who_stops_in_the_middle_of_a_write_holds_up_others_for_a_while_only() {
    let Some(server) = Server::start() else { return };
    let url = server.url("idle");
    let connection = connect(url.to_str().unwrap(), Duration::from_secs(60));
    let limit = |connection: &Connection| -> String {
        let sql = "SELECT current_setting('idle_in_transaction_session_timeout')";
        connection.query_row(sql, (), |row| row.get(0)).unwrap()
    };
    let usual = limit(&connection);
    assert_ne!(usual, "30s");
    for is_durable in [true, false] {
        let writing = connection.begin_write(is_durable).unwrap();
        assert_eq!(limit(&writing), "30s");
        writing.commit().unwrap();
        assert_eq!(limit(&connection), usual);
    }
    // Whoever copies one state of it may be busy elsewhere.
    let reading = connection.begin_read().unwrap();
    assert_eq!(limit(&reading), usual);
    drop(reading);

    let writing = connection.begin_write(true).unwrap();
    let pid: i64 = writing.query_row("SELECT pg_backend_pid()", (), |row| row.get(0)).unwrap();
    writing.execute_batch("SET LOCAL idle_in_transaction_session_timeout = '1ms'").unwrap();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = ?1";
    let (admin, begun) = (server.admin(), Instant::now());
    while admin.query_row(sql, [pid], |row| row.get::<_, i64>(0)).unwrap() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(8), "it is still there");
        std::thread::yield_now();
    }
    let lost = writing.execute("SELECT 1", ()).unwrap_err();
    assert_eq!(lost.kind, ErrorKind::Unreachable, "{lost}");
    drop(writing);
    assert_eq!(limit(&connection), usual, "it is connected anew");
}

/// A connection of "another process" that nobody can write beside.
fn hold(url: &Path) -> Connection {
    let other = connect(url.to_str().unwrap(), Duration::from_secs(60));
    other.execute_batch("BEGIN; LOCK TABLE request").unwrap();
    other
}

#[test]
fn a_full_queue_drops_and_counts_and_never_waits_for_a_server() {
    let Some(server) = Server::start() else { return };
    let url = server.url("full_queue");
    let options = StoreOptions {
        queue_capacity: 1,
        busy_timeout: Duration::from_secs(60),
        ..StoreOptions::default()
    };
    let store = Store::open(&url, options).unwrap();
    let other = hold(&url);
    let begun = Instant::now();
    record_all(&store, 0..2000);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    // The writer holds a group, of as many as come while it begins, and the queue one more answer.
    assert!(store.counters().dropped >= 2000 - 512 - 1, "{:?}", store.counters());
    other.execute_batch("COMMIT").unwrap();
    store.flush().unwrap();
    let counters = store.counters();
    assert_eq!((counters.recorded + counters.dropped, counters.write_errors), (2000, 0));
}

#[test]
fn what_another_process_holds_is_waited_for_and_then_named() {
    let Some(server) = Server::start() else { return };
    let url = server.url("busy");
    let busy_timeout = Duration::from_millis(100);
    let store =
        Store::open(&url, StoreOptions { busy_timeout, ..StoreOptions::default() }).unwrap();
    store.record(&event(1));
    store.flush().unwrap();
    let other = hold(&url);
    // It asks for the request, which another process has locked for itself.
    let busy = store.feedback(thumb_up(1)).unwrap_err();
    assert!(matches!(busy, StoreError::Busy { waited_ms: 100, .. }), "{busy}");
    other.execute_batch("COMMIT").unwrap();
    store.feedback(thumb_up(1)).unwrap();
}

#[test]
fn a_server_that_stands_still_is_given_up_in_time() {
    let Some(server) = Server::start() else { return };
    let url = server.url("hangs");
    let patience = Patience { statement: Duration::from_secs(2), lock: DAY };
    let hanging =
        Connection::Postgres(Box::new(Postgres::open(url.to_str().unwrap(), patience).unwrap()));
    let pid = |connection: &Connection| -> i64 {
        connection
            .query_row("SELECT CAST(pg_backend_pid() AS BIGINT)", (), |row| row.get(0))
            .unwrap()
    };
    let first = pid(&hanging);
    server.signal(first, "-STOP");
    let begun = Instant::now();
    let error = hanging.execute_batch("SELECT 1").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    // Another process serves the next statement.
    assert_ne!(pid(&hanging), first);
    server.signal(first, "-CONT");
    // What merely takes long is ended by the server itself, and the connection stays.
    let second = pid(&hanging);
    let slow = hanging.execute_batch("SELECT pg_sleep(60)").unwrap_err();
    assert!(slow.detail.contains("statement timeout"), "{slow}");
    assert_eq!(pid(&hanging), second);
}

#[test]
fn a_lost_connection_takes_its_transaction_with_it() {
    let Some(server) = Server::start() else { return };
    let url = server.url("lost");
    drop(Store::open(&url, StoreOptions::default()).unwrap());
    let connection = connect(url.to_str().unwrap(), Duration::from_secs(60));
    let insert = "INSERT INTO release VALUES (?1, 'm', 'v', '{}', 0, NULL)";
    let transaction = connection.begin_write(true).unwrap();
    transaction.execute(insert, ["a"]).unwrap();
    server
        .admin()
        .execute_batch(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity \
        WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        .unwrap();
    // It must not be written alone, on another connection.
    let lost = transaction.execute(insert, ["b"]).unwrap_err();
    assert_eq!(lost.kind, ErrorKind::Unreachable, "{lost}");
    assert!(transaction.is_rolled_back());
    assert!(transaction.commit().is_err());
    let n_rows: i64 =
        connection.query_row("SELECT count(*) FROM release", (), |row| row.get(0)).unwrap();
    assert_eq!(n_rows, 0);
}

#[test]
fn numbers_are_given_in_the_order_of_commits_over_several_servers() {
    let Some(server) = Server::start() else { return };
    let url = server.url("in_order");
    let store = Store::open(&url, StoreOptions::default()).unwrap();
    let other = connect(url.to_str().unwrap(), Duration::from_secs(60));
    let transaction = other.begin_write(true).unwrap();
    transaction.number_in_order("assignment").unwrap();
    let first: i64 = transaction
        .query_row(
            "INSERT INTO assignment(request_id, choice, experiment, arm, unit, percent, variant, \
             arrived_at_ms) VALUES ('r', 0, 'other', 'primary', 'u', 1, 'v', 0) RETURNING seq",
            (),
            |row| row.get(0),
        )
        .unwrap();
    store.record(&evidence::assigned(1, lm_types::Arm::Primary, None));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'";
    let admin = server.admin();
    while admin.query_row(waiting, (), |row| row.get::<_, i64>(0)).unwrap() == 0 {
        std::thread::yield_now();
    }
    assert!(store.reader().assigned("greeting", 0, 9).unwrap().is_empty());
    transaction.commit().unwrap();
    store.flush().unwrap();
    assert!(store.reader().assigned("greeting", first, 9).unwrap().len() == 1);
}

#[test]
fn who_is_not_let_in_hears_why_without_the_password() {
    let Some(server) = Server::start() else { return };
    let admin = server.admin();
    admin
        .execute_batch("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        .unwrap();
    drop(admin);
    let check = |place: &str, expect: &str| {
        let refused = open_error(Path::new(place)).to_string();
        assert!(refused.contains(expect), "{refused}");
        for secret in [PASSWORD, "open%3A", "wr0ng"] {
            assert!(!refused.contains(secret), "{refused}");
        }
    };
    let right = "open%3Ase%2Fs%40me%3F";
    check(&server.place("wr0ng", "postgres"), "password authentication failed");
    check(&server.place(right, "none"), "database \"none\" does not exist");
    check(&server.place(right, "latin"), "encoding is LATIN1");
    let unreachable = "cannot be reached";
    check("postgres://me:wr0ng@127.0.0.1:1/db", unreachable);
    check("postgres://me:wr0ng@no-such-host.invalid/db?sslmode=disable", unreachable);
    check("postgres://me:wr0ng@no-such-host.invalid/db", "does not say sslmode");
    // A server without TLS, and parameters that are none.
    check(&format!("{}?sslmode=require", server.place(right, "postgres")), "TLS");
    check("postgres://me:wr0ng@host:0x/db", "the URL must be");
    check("postgres://me@host/db?wr0ng=1", "the URL must be");
    check("postgres:///db", "names no host");
}

#[test]
fn a_password_is_never_shown_and_a_file_is_no_server() {
    #[track_caller]
    fn check(place: &str, expect: &str) {
        assert_eq!(shown(Path::new(place)), Path::new(expect));
    }
    check("postgres://me:secret@host:5432/db", "postgres://me@host/db");
    check("postgres://me:secret@host:5433,other/db", "postgres://me@host:5433,other/db");
    check("postgresql://me:s%40cret@host/db?application_name=a%40b", "postgres://me@host/db");
    check("postgresql://host/db?password=secret", "postgres://host/db");
    check("postgresql://me:secret@%2Frun%2Fpg/db", "postgres://me@/run/pg/db");
    check("postgres://host/db", "postgres://host/db");
    // A password that is written wrong makes a URL that says nothing.
    for odd in ["me:se/cret@host/db", "me:se?cret@host/db", "me:secret@host:port/db"] {
        let shown = shown(Path::new(&format!("postgres://{odd}"))).display().to_string();
        assert!(!shown.contains("cret"), "{shown}");
    }
    check("/var/lib/store.db", "/var/lib/store.db");
}
