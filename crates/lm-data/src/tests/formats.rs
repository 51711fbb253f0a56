//! Each format's rows, and what is broken in it.

use std::io::Write;

use super::*;
use crate::Format;

/// Ingests a file of this name; its rows are these lines, and these rules were broken.
#[track_caller]
fn check(name: &str, format: Option<Format>, bytes: &[u8], rows: &[&str], rules: &[&str]) {
    let desk = Desk::new();
    let source = desk.file(name, bytes);
    let contract = Some(desk.file("any.json", "{\"properties\":{\"n\":{\"type\":\"integer\"}}}"));
    let options = IngestOptions { contract, format, ..desk.lenient() };
    let version = ingest(&desk.home, "tickets", &[source], &options, &mut |_| {}).unwrap();
    let found = String::from_utf8(rows_of(&desk, &version)).unwrap();
    assert_eq!(found.lines().collect::<Vec<_>>(), rows);
    let found: Vec<_> = desk.quarantined(Report::Newest).into_iter().map(|row| row.rule).collect();
    assert_eq!(found, rules);
}

#[test]
fn rows_come_out_of_every_text_format() {
    check("a.json", None, b"[{\"n\": 1},\n {\n\"n\": 2}]", &["{\"n\": 1}", "{\"n\":2}"], &[]);
    check("a.json", None, b"[{\"n\": 1}, {\"n\"}]", &["{\"n\": 1}"], &["not_json"]);
    check(
        "a.csv",
        None,
        b"n,t\n1,\"a \"\"b\"\"\"\n,x\n",
        &[r#"{"n":1,"t":"a \"b\""}"#],
        &["schema:type"],
    );
    check("a.csv", None, b"n,t\n1\nx,y\n2,z", &[r#"{"n":2,"t":"z"}"#], &["not_csv", "schema:type"]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"{\"n\":1}\n").unwrap();
    check("a.jsonl.gz", None, &gz.finish().unwrap(), &["{\"n\":1}"], &[]);
}

#[test]
fn cells_after_a_cr_alone_are_not_lost() {
    let row = r#"{"n":3,"t":"\ra"}"#;
    check("a.csv", None, b"n,t\n1,2\rlost,3\n3,\"\ra\"\r\n", &[row], &["not_csv"]);
    // Such a file has no line end at all.
    check("a.csv", None, b"n,t\r1,a\r2,b\r", &[], &["unreadable"]);
}

#[test]
fn integers_that_64_bits_do_not_hold_are_not_rounded() {
    let rows =
        [r#"{"id":18446744073709551615}"#, r#"{"id":1e23}"#, r#"{"id":"12345678901234567890123"}"#];
    let file = format!("{}\n{{\"id\":12345678901234567890123}}\n", rows.join("\n"));
    check("a.jsonl", None, file.as_bytes(), &rows, &["integer_too_large"]);
    let file = b"[{\"id\":\n-9223372036854775809},{\"id\":\n-9223372036854775808}]";
    check("a.json", None, file, &[r#"{"id":-9223372036854775808}"#], &["integer_too_large"]);
    let shared = r#"{"id":99999999999999999999,"conversations":[{"from":"gpt","value":"b"}]}"#;
    check("a.jsonl", Some(Format::Sharegpt), shared.as_bytes(), &[], &["integer_too_large"]);
}

#[test]
fn conversations_are_checked_and_sharegpt_becomes_messages() {
    let good = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
    let no_answer = r#"{"messages":[{"role":"user","content":"a"}]}"#;
    let bad_role = r#"{"messages":[{"role":"bot","content":"a"}]}"#;
    let file = [good, no_answer, bad_role, "{}"].join("\n");
    check("a.jsonl", Some(Format::Chat), file.as_bytes(), &[good], &["chat", "chat", "chat"]);
    let shared = r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#;
    let odd = r#"{"conversations":[{"from":"alien","value":"a"}]}"#;
    let file = [shared, odd].join("\n");
    check("a.jsonl", Some(Format::Sharegpt), file.as_bytes(), &[good], &["chat"]);
}

#[test]
fn parquet_comes_back_as_it_went_out() {
    let desk = Desk::new();
    let schema = r#"{"properties":{"n":{"type":["integer","null"]}}}"#;
    let contract = Some(desk.file("any.json", schema));
    let options = IngestOptions { contract, ..desk.lenient() };
    desk.ingest_with("{\"n\":7,\"t\":[1]}\n{\"t\":null}\n", &options).unwrap();
    let folder = desk.folder.path().join("out");
    crate::checkout(&desk.home, "tickets", None, &folder).unwrap();
    let part = folder.join("part-00000.parquet");
    let version = ingest(&desk.home, "again", &[part], &options, &mut |_| {}).unwrap();
    assert_eq!(version.manifest.rows_published, 2);
    let mut rows = Vec::new();
    export(&desk.home, "again", None, &mut rows).unwrap();
    let rows = String::from_utf8(rows).unwrap();
    let first: serde_json::Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert_eq!(first["n"], 7);
    assert_eq!(first["_json"], "{\"n\":7,\"t\":[1]}");
    assert_eq!(first["_source"], "source.jsonl");
}

const MAIL: &str = "From: Ann <ann@example.org>\nTo: bob@example.org\nSubject: =?utf-8?q?caf=C3=A9?=\n\
    Date: Tue, 30 Jul 2002 00:23:07 -0700\n\nGood morning.\n";

#[test]
fn a_mail_is_a_row_of_who_when_and_what() {
    let row = r#"{"from":"Ann <ann@example.org>","to":"bob@example.org","subject":"café","date":"2002-07-30T00:23:07-07:00","message_id":null,"text":"Good morning.\n","n_attachments":0}"#;
    check("a.eml", None, MAIL.as_bytes(), &[row], &[]);
    let from_line = format!("From ann@example.org Tue Jul 30 08:30:04 2002\n{MAIL}");
    check("a.txt", Some(Format::Mail), from_line.as_bytes(), &[row], &[]);
    let two = format!("{from_line}\n{from_line}");
    let twice = row.replacen("morning.\\n", "morning.\\n\\n", 1);
    check("a.mbox", None, two.as_bytes(), &[&twice, row], &[]);
}

/// The rule that a damaged mail breaks, and whether a repair is proposed.
#[track_caller]
fn check_mail(mail: &[u8], rule: &str, is_repaired: bool) {
    let desk = Desk::new();
    let source = desk.file("a.eml", mail);
    let contract = Some(desk.file("any.json", "{}"));
    let options = IngestOptions { contract, ..desk.lenient() };
    ingest(&desk.home, "tickets", &[source], &options, &mut |_| {}).unwrap();
    let [found] = desk.quarantined(Report::Newest).try_into().unwrap();
    assert_eq!((found.rule.as_str(), found.repair.is_some()), (rule, is_repaired), "{found:?}");
    assert_eq!(found.raw_bytes().unwrap(), mail);
}

#[test]
fn damaged_mails_are_kept_with_what_is_wrong() {
    check_mail(b"Subject: x\n\ntext\n", "mail_headers", false);
    check_mail(b"From: a@b.c\nno header here\n\ntext\n", "mail_headers", false);
    check_mail(b"From: a@b.c\nSubject: caf\xe9\n\ntext\n", "mail_headers", true);
    check_mail(b"From: a@b.c\n\ncaf\xe9\n", "mail_charset", true);
    let odd = b"From: a@b.c\nContent-Type: text/plain; charset=klingon\n\nx\n";
    check_mail(odd, "mail_charset", false);
    check_mail(b"From: a@b.c\n\n \n", "mail_empty", false);
    check_mail(b"", "mail_headers", false);
}
