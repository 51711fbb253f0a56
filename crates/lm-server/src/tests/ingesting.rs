//! Rows on the wire: each body once by its key, on the disk before it is answered, refused by name.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use lastmile::{Configure, Declared, ModelSource, RegistryOptions, RuntimeConfig};
use lm_keys::{KeyLimits, Scope};
use lm_ops::{DataHome, InboxLimits, Ingests, Ops, Store, StoreOptions};
use serde_json::{Value, json};

use super::client::{Reply, exchange_with, open_with, read_reply, read_until};
use super::{Server, folder_with_key, key_file, wait_until};
use crate::ingest_routes::MAX_UPLOADS;
use crate::{Access, ServerConfig};

const TICKETS: &str = "/ops/v1/ingest/tickets";
const SCHEMA: &str =
    r#"{"required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}"#;

fn start(limits: InboxLimits) -> Server {
    start_in(tempfile::tempdir().unwrap(), limits)
}

fn start_in(folder: tempfile::TempDir, limits: InboxLimits) -> Server {
    start_with(folder, limits, ServerConfig::default())
}

fn start_with(folder: tempfile::TempDir, limits: InboxLimits, config: ServerConfig) -> Server {
    let contracts = folder.path().join("data/contracts");
    std::fs::create_dir_all(&contracts).unwrap();
    std::fs::write(contracts.join("tickets.json"), SCHEMA).unwrap();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let home = DataHome(folder.path().join("data"));
    let ingests = Ingests::start(home, limits, Arc::new(|_, _| Ok(None))).unwrap();
    let ops = Ops::new(store).with_ingests(ingests);
    let mut model = RuntimeConfig::new(ModelSource::placeholder("mode=echo").unwrap());
    model.observer = ops.observer();
    let configure: Configure = Arc::new(move || Ok(model.clone()));
    let name = "placeholder".to_owned();
    let declared = vec![Declared { name, aliases: Vec::new(), configure }];
    let address = "127.0.0.1:0".parse().unwrap();
    let config = ServerConfig { address, ..config };
    let access = Access { key_file: Some(key_file(&folder)), ..Access::default() };
    access.load_keys(&ops).unwrap();
    Server::start_models(folder, declared, RegistryOptions::default(), config, access, ops)
}

impl Server {
    fn send(&self, key: &str, query: &str, body: &str) -> Reply {
        let line = format!("Idempotency-Key: {key}\r\n");
        exchange_with(self.address, "POST", &format!("{TICKETS}{query}"), &line, body)
    }

    /// What became of a body, once it is over.
    #[track_caller]
    fn fate(&self, poll: &str) -> Value {
        let state = || self.get(poll).json();
        wait_until("the body is added or refused", || state()["state"] != "waiting");
        state()
    }
}

#[track_caller]
fn check_refused(reply: &Reply, status: u16, code: &str, says: &str) {
    let error = reply.json()["error"].clone();
    assert_eq!((reply.status, error["code"].as_str().unwrap()), (status, code), "{}", reply.body);
    assert!(error["message"].as_str().unwrap().contains(says), "{error}");
}

#[test]
fn a_body_is_taken_once_and_says_what_became_of_its_rows() {
    let server = start(InboxLimits::default());
    let rows: String = (0..40).map(|i| format!("{{\"text\":\"{i}\"}}\n")).collect();
    let body = rows + "{\"text\":\"\"}\n";
    let first = server.send("k 1", "?format=jsonl", &body);
    assert_eq!(first.status, 202, "{}", first.body);
    let job = first.json();
    assert_eq!(job["size_bytes"], body.len());
    let poll = job["poll"].as_str().unwrap();
    assert_eq!((first.header("location"), poll), (Some(poll), "/ops/v1/ingest/tickets?key=k%201"));
    let added = server.fate(poll);
    let rows = json!({ "rows_in": 41, "rows_published": 40, "rows_quarantined": 1, "by_rule": { "schema:minLength": 1 } });
    assert_eq!((&added["state"], &added["rows"]), (&json!("added"), &rows));
    // The first answer again, and nothing is added.
    let again = server.send("k 1", "?format=jsonl", &body);
    assert_eq!((again.status, &again.body), (202, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(first.header("idempotent-replayed"), None);
    let other = server.send("k 1", "?format=jsonl", "{\"text\":\"other\"}\n");
    check_refused(&other, 409, "idempotency_key_reused", job["hash"].as_str().unwrap());
    assert_eq!(server.get(TICKETS).json()["newest"]["rows_published"], 40);
    // The body is removed after it was said what became of it.
    let nothing = json!({
        "n_bodies": 0, "size_bytes": 0, "receiving_bytes": 0, "refused_bodies": 0, "refused_bytes": 0
    });
    wait_until("nothing waits", || server.get(TICKETS).json()["backlog"] == nothing);
    wait_until("all is counted", || {
        let page = server.get("/metrics").body;
        let has = |line: &str| page.lines().any(|found| found == line);
        has("lastmile_ingest_published_rows_total{source=\"tickets\"} 40")
            && has("lastmile_ingest_bodies_total{source=\"tickets\"} 1")
            && has("lastmile_ingest_backlog_bodies{source=\"tickets\"} 0")
            && has(
                "lastmile_ingest_quarantined_rows_total{source=\"tickets\",rule=\"schema:minLength\"} 1",
            )
    });
}

#[test]
fn content_types_say_the_format() {
    let server = start(InboxLimits::default());
    let send = |kind: &str, body: &str| {
        let line = format!("Content-Type: {kind}\r\n");
        let mut stream = open_plain(&server, &line, body.len());
        stream.write_all(body.as_bytes()).unwrap();
        read_reply(stream)
    };
    for (kind, format, body) in [
        ("application/x-ndjson", "jsonl", "{\"text\":\"a\"}\n"),
        ("Application/JSON; charset=utf-8", "json", "[{\"text\":\"b\"}]"),
        ("text/csv", "csv", "text\nc\n"),
        ("application/mbox", "mbox", "From a@b.c Mon Jan  1 00:00:00 2001\nFrom: a@b.c\n\nd\n"),
    ] {
        let reply = send(kind, body);
        assert_eq!(
            (reply.status, &reply.json()["format"]),
            (202, &json!(format)),
            "{}",
            reply.body
        );
    }
    check_refused(&send("image/png", "x"), 415, "unknown_format", "image/png");
}

/// Sends a head that names no content type but its own.
fn open_plain(server: &Server, line: &str, n_body: usize) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST {TICKETS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{line}\
         Content-Length: {n_body}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn what_cannot_be_taken_is_refused_by_name_and_limit() {
    let server = start(InboxLimits { n_bodies: 2, size_bytes: 4000, body_bytes: 1000 });
    let jsonl = "?format=jsonl";
    let unreadable = server.send("a", jsonl, "{\"text\":\"a\n");
    check_refused(&unreadable, 400, "unreadable_body", "cannot be read as jsonl: offset ");
    check_refused(&server.send("a", jsonl, "\n \n"), 400, "empty_body", "2 blank lines");
    check_refused(&server.send("a", "?format=xml", "x"), 400, "invalid_value", "sharegpt");
    check_refused(&server.send("a", "?fruit=1", "x"), 400, "invalid_value", "fruit");
    let large = server.send("a", jsonl, &" ".repeat(1001));
    check_refused(&large, 413, "body_too_large", "1000 bytes");
    let long = server.send(&"k".repeat(201), jsonl, "{}");
    check_refused(&long, 400, "invalid_value", "1 to 200 bytes");
    let zipped = exchange_with(server.address, "POST", TICKETS, "Content-Encoding: br\r\n", "x");
    check_refused(&zipped, 415, "unsupported_encoding", "br");
    let unknown = server.get("/ops/v1/ingest/tickets?key=never");
    check_refused(&unknown, 404, "ingest_not_found", "never");
    check_refused(&server.post("/ops/v1/ingest/nothing", "[]"), 404, "no_contract", "nothing");
    check_refused(&server.post("/ops/v1/ingest/A.B", "[]"), 400, "invalid_value", "a-z");
    assert_eq!(server.get(TICKETS).json()["backlog"]["n_bodies"], 0);
}

#[test]
fn a_sender_of_what_is_refused_keeps_nobody_else_out_and_nothing_is_dropped() {
    let (folder, rubbish) = folder_with_key(&[Scope::Ops], KeyLimits::default());
    let good = super::add_key(&folder, "good", &[Scope::Ops, Scope::Metrics], KeyLimits::default());
    let server = start_in(folder, InboxLimits { n_bodies: 2, ..InboxLimits::default() });
    let send = |key: &str, name: &str, body: &str| {
        let lines = format!("Authorization: Bearer {key}\r\nIdempotency-Key: {name}\r\n");
        exchange_with(server.address, "POST", &format!("{TICKETS}?format=jsonl"), &lines, body)
    };
    let ask = |query: &str| server.get_with(&good, &format!("{TICKETS}{query}")).json();
    let bad = |i: usize| format!("{{\"m\":{i}}}\n").repeat(30);
    for (i, name) in ["a", "b"].iter().enumerate() {
        assert_eq!(send(&rubbish, name, &bad(i)).status, 202);
        let query = format!("?key={name}");
        wait_until("it is refused", || ask(&query)["state"] == "refused");
        assert!(ask(&query)["why"].as_str().unwrap().contains("schema:required"));
    }
    let full = send(&rubbish, "c", &bad(2));
    check_refused(&full, 429, "ingest_refused_full", "bodies 2, limit 2");
    assert_eq!(full.header("retry-after"), Some("1"));
    let backlog = ask("")["backlog"].clone();
    assert_eq!((&backlog["n_bodies"], &backlog["refused_bodies"]), (&json!(0), &json!(2)));
    wait_until("all is counted", || {
        let page = server.get_with(&good, "/metrics").body;
        let has = |line: &str| page.lines().any(|found| found == line);
        has("lastmile_ingest_refused_bodies{source=\"tickets\"} 2")
            && has("lastmile_ingest_refused_bodies_total{source=\"tickets\"} 2")
    });
    let newest = || ask("")["newest"]["rows_published"].clone();
    assert_eq!(send(&good, "c", "{\"text\":\"fine\"}\n").status, 202);
    wait_until("the good one is added", || newest() == 1);
    let contract = server.folder.path().join("data/contracts/tickets.json");
    std::fs::write(contract, "{}").unwrap();
    let n_waiting = || ["refused_bodies", "n_bodies"].map(|name| ask("")["backlog"][name].clone());
    wait_until("there is room", || n_waiting() == [0, 0]);
    assert_eq!(send(&rubbish, "d", &bad(2)).status, 202);
    wait_until("all is added", || newest() == 91);
}

#[test]
fn a_body_that_is_cut_is_not_taken() {
    let server = start(InboxLimits::default());
    let rows = "{\"text\":\"a\"}\n".repeat(2000);
    let line = "Idempotency-Key: cut\r\n";
    let path = format!("{TICKETS}?format=jsonl");
    let mut stream = open_with(server.address, "POST", &path, line, 2 * rows.len());
    stream.write_all(rows.as_bytes()).unwrap();
    let receiving = || server.get(TICKETS).json()["backlog"]["receiving_bytes"].clone();
    wait_until("some of it is on the disk", || receiving() != 0);
    drop(stream);
    wait_until("it is gone again", || receiving() == 0);
    assert_eq!(server.get("/ops/v1/ingest/tickets?key=cut").status, 404);
    assert_eq!(server.send("cut", "?format=jsonl", &rows).status, 202);
    assert_eq!(server.fate("/ops/v1/ingest/tickets?key=cut")["rows"]["rows_published"], 2000);
}

#[test]
fn so_many_bodies_are_received_at_once_and_no_more() {
    let server = start(InboxLimits::default());
    let path = format!("{TICKETS}?format=jsonl");
    let begun = "{\"text\":\"a";
    let mut open: Vec<_> = (0..MAX_UPLOADS)
        .map(|i| {
            let line = format!("Idempotency-Key: open {i}\r\n");
            let mut stream = open_with(server.address, "POST", &path, &line, 1000);
            stream.write_all(begun.as_bytes()).unwrap();
            stream
        })
        .collect();
    let receiving = || server.get(TICKETS).json()["backlog"]["receiving_bytes"].clone();
    wait_until("all of them are received", || receiving() == begun.len() * MAX_UPLOADS);
    let row = "{\"text\":\"one more\"}\n";
    let refused = server.send("one more", "?format=jsonl", row);
    check_refused(&refused, 429, "too_many_uploads", "32 bodies");
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(open.pop());
    wait_until("one has room", || server.send("one more", "?format=jsonl", row).status == 202);
}

#[test]
fn a_head_that_promises_too_much_is_answered_at_once() {
    // Nobody waits for so long.
    let config = ServerConfig { body_timeout: Duration::from_hours(24), ..Default::default() };
    let limits = InboxLimits { body_bytes: 1000, ..InboxLimits::default() };
    let server = start_with(tempfile::tempdir().unwrap(), limits, config);
    let path = format!("{TICKETS}?format=jsonl");
    for lines in ["", "Expect: 100-continue\r\n"] {
        let reply = read_reply(open_with(server.address, "POST", &path, lines, 1001));
        check_refused(&reply, 413, "body_too_large", "1000 bytes");
        assert_eq!(reply.header("connection"), Some("close"));
    }
}

#[test]
fn a_body_that_drips_is_cut_off() {
    let config = ServerConfig { body_timeout: Duration::from_millis(300), ..Default::default() };
    let server = start_with(tempfile::tempdir().unwrap(), InboxLimits::default(), config);
    let path = format!("{TICKETS}?format=jsonl");
    let mut stream = open_with(server.address, "POST", &path, "", 100_000);
    let mut writer = stream.try_clone().unwrap();
    writer.write_all(b" ").unwrap();
    // It never stands still for so long.
    let writing = std::thread::spawn(move || {
        while writer.write_all(b" ").is_ok() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    });
    let reply = read_until(&mut stream, "body_too_slow");
    assert!(reply.starts_with("HTTP/1.1 408") && reply.contains("1024 bytes/s"), "{reply}");
    drop(stream);
    writing.join().unwrap();
    let receiving = || server.get(TICKETS).json()["backlog"]["receiving_bytes"].clone();
    wait_until("nothing of it is left", || receiving() == 0);
}

#[test]
fn rows_are_for_operators() {
    let (folder, key) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let ops = super::add_key(&folder, "ops", &[Scope::Ops], KeyLimits::default());
    let server = start_in(folder, InboxLimits::default());
    let path = format!("{TICKETS}?format=jsonl");
    let rows = "{\"text\":\"a\"}\n";
    assert_eq!(server.post(&path, rows).status, 401);
    assert_eq!(server.post_with(&key, &path, rows).status, 403);
    assert_eq!(server.get_with(&key, TICKETS).status, 403);
    assert_eq!(server.post_with(&ops, &path, rows).status, 202);
}
