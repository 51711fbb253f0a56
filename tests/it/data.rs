//! Data that comes in: what is good is published, what is not is kept and named.

use std::fmt::Write as _;

use crate::program::{Home, Ran};

const SCHEMA: &str = r#"{
    "type": "object",
    "required": ["text"],
    "properties": { "text": { "type": "string" } }
}"#;

/// Ingests `n_good` good rows, and then `bad` ones.
fn ingest(home: &Home, n_good: usize, bad: &[&str]) -> Ran {
    let mut rows = String::new();
    for i in 0..n_good {
        writeln!(rows, "{{\"text\": \"mail {i}\"}}").unwrap();
    }
    bad.iter().for_each(|row| writeln!(rows, "{row}").unwrap());
    let file = home.write("in/mails.jsonl", rows);
    let schema = home.write("in/schema.json", SCHEMA);
    let (file, schema) = (file.to_str().unwrap(), schema.to_str().unwrap());
    home.run(["data", "ingest", "mails", file, "--schema", schema, "--json"])
}

#[test]
fn good_rows_are_published_and_versions_have_parents() {
    let home = Home::new();
    ingest(&home, 100, &[]).json();
    ingest(&home, 120, &[]).json();
    let log = home.run(["data", "log", "mails", "--json"]).json();
    let log = log.as_array().unwrap();
    assert_eq!(log.len(), 2);
    for key in ["version", "parent", "rows_in", "rows_published", "rows_quarantined", "by_rule"] {
        assert!(log[0].get(key).is_some(), "{key} is missing in {}", log[0]);
    }
    assert_eq!(log[0]["parent"], log[1]["version"]);
    assert_eq!(log[0]["rows_in"], 120);
    assert_eq!(log[1]["rows_published"], 100);
    assert_eq!(log[1]["rows_quarantined"], 0);
    assert!(log[1]["parent"].is_null());
}

#[test]
fn bad_rows_are_kept_with_offset_and_rule() {
    let home = Home::new();
    ingest(&home, 98, &["{\"text\": 7}", "{\"text\""]).json();
    let version = &home.run(["data", "log", "mails", "--json"]).json()[0];
    assert_eq!(version["rows_published"], 98);
    assert_eq!(version["rows_quarantined"], 2);
    let by_rule = version["by_rule"].as_object().unwrap();
    assert_eq!(by_rule.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 2);
    let rows = home.run(["data", "quarantine", "mails", "--json"]).json();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let good_bytes: usize = (0..98).map(|i| format!("{{\"text\": \"mail {i}\"}}\n").len()).sum();
    assert_eq!(rows[0]["offset_bytes"], good_bytes);
    assert_eq!(rows[0]["line"], 99);
    assert!(by_rule.contains_key(rows[0]["rule"].as_str().unwrap()), "{rows:?}");
    assert_eq!(rows[1]["raw"], "{\"text\"");
}

#[test]
fn too_many_bad_rows_publish_nothing() {
    let home = Home::new();
    let ran = ingest(&home, 10, &["{\"text\": 7}"; 5]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.is_empty(), "{ran:?}");
    let log = home.run(["data", "log", "mails", "--json"]);
    assert!(log.status == 3 || log.json().as_array().unwrap().is_empty(), "{log:?}");
    let rows = home.run(["data", "quarantine", "mails", "--unpublished", "--json"]).json();
    assert_eq!(rows.as_array().unwrap().len(), 5);
}

#[test]
fn a_dataset_without_a_schema_and_a_name_that_is_a_path_are_refused() {
    let home = Home::new();
    let file = home.write("mails.jsonl", "{}\n");
    let file = file.to_str().unwrap();
    home.run(["data", "ingest", "mails", file]).refused(3, &["schema"]);
    home.run(["data", "ingest", "../mails", file]).refused(3, &["../mails"]);
}
