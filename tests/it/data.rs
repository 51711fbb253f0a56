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

/// A dataset "notes" of one file under a contract with every cross-row rule; two of its rows can be repaired.
fn notes(home: &Home) -> Ran {
    let contract = "format = 1\nunique = [[\"id\"]]\n[text]\nmojibake = true\ncontrol_chars = true\n\
                    [schema]\nrequired = [\"id\"]\n[schema.properties.text]\ntype = \"string\"\n";
    let contract = home.write("in/notes.toml", contract);
    let mut rows: String =
        (0..200).map(|i| format!("{{\"id\":{i},\"text\":\"note {i}\"}}\n")).collect();
    rows.push_str("{\"id\":7,\"text\":\"again\"}\n{\"id\":200,\"text\":\"cafÃ©\"}\n");
    rows.push_str("{\"id\":201,\"text\":\"a\\u0007b\"}\n");
    home.write("in/notes/a.jsonl", rows);
    let (folder, contract) = (home.path().join("in/notes"), contract.to_str().unwrap().to_owned());
    let folder = folder.to_str().unwrap();
    let watch = ["data", "watch", "notes", folder, "--once", "--settle", "0", "--json"];
    home.run(watch.into_iter().chain(["--contract", &contract]))
}

#[test]
fn a_watched_folder_is_read_once_and_its_quarantine_can_be_repaired() {
    let home = Home::new();
    let first = notes(&home).json();
    assert_eq!((&first["versions_published"], &first["rows_published"]), (&1.into(), &200.into()));
    assert_eq!(notes(&home).json()["versions_published"], 0);

    let rows = home.run(["quarantine", "list", "notes", "--json"]).json();
    let rules: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["rule"].clone()).collect();
    assert_eq!(rules, ["mojibake", "control_chars", "unique:id"]);
    let id = rows[0]["id"].as_str().unwrap();
    let row = home.run(["quarantine", "show", "notes", &id[..8], "--json"]).json();
    assert_eq!(row["repair"]["row"], "{\"id\":200,\"text\":\"café\"}");

    let repaired = home.run(["quarantine", "repair", "notes", "--all", "--json"]).json();
    assert_eq!(repaired["version"]["manifest"]["rows_published"], 202);
    assert_eq!(repaired["kept"].as_array().unwrap().len(), 1);
    let log = home.run(["data", "log", "notes", "--json"]).json();
    assert_eq!((&log[0]["rows_in"], &log[0]["rows_quarantined"]), (&203.into(), &1.into()));
    home.run(["quarantine", "repair", "notes", "--all"]).refused(1, &["no repair is proposed"]);
    home.run(["quarantine", "release", "notes", "ffff"]).refused(3, &["\"ffff\""]);
}

#[test]
fn versions_can_be_shown_compared_exported_and_checked_out() {
    let home = Home::new();
    notes(&home).json();
    home.run(["quarantine", "repair", "notes", "--rule", "mojibake"]).done();
    let diff = home.run(["data", "diff", "notes", "--json"]).json();
    assert_eq!((&diff["rows_added"], &diff["rows_removed"]), (&1.into(), &0.into()));
    let shown = home.run(["data", "show", "notes", "--json"]).json();
    assert_eq!(shown["version"], diff["to"]);
    let out = home.path().join("out");
    let out = out.to_str().unwrap();
    home.run(["data", "checkout", "notes", "-o", out]).done();
    home.run(["data", "checkout", "notes", "-o", out]).refused(3, &["exists"]);
    let lines = home.run(["data", "export", "notes"]);
    assert_eq!(lines.stdout.lines().count(), 201);
    let strata = home.run(["data", "coverage", "notes", "--json"]).json();
    assert_eq!(strata[0]["rows"], 201);
    let collected = home.run(["data", "gc", "notes", "--keep", "1", "--json"]).json();
    assert_eq!(collected["versions"].as_array().unwrap().len(), 1);
}

#[test]
fn a_contract_is_inferred_and_wrong_uses_are_refused() {
    let home = Home::new();
    let rows: String = (0..50).map(|i| format!("{{\"id\":{i}}}\n")).collect();
    let file = home.write("in/a.jsonl", rows);
    let (file, toml) = (file.to_str().unwrap(), home.path().join("a.toml"));
    let toml = toml.to_str().unwrap();
    let inferred = home.run(["data", "infer", file, "-o", toml, "--json"]).json();
    assert_eq!((&inferred["n_rows"], &inferred["n_broken"]), (&50.into(), &0.into()));
    let ingested = home.run(["data", "ingest", "a", file, "--contract", toml, "--json"]).json();
    assert_eq!(ingested["rows_published"], 50);
    home.run(["data", "infer", file, "-o", toml]).refused(3, &["a.toml"]);
    let wrong = ["data", "ingest", "a", file, "--format", "xml"];
    home.run(wrong).refused(2, &["xml", "jsonl, json, csv"]);
    let wrong = ["data", "watch", "a", "/nowhere", "--once"];
    home.run(wrong).refused(3, &["/nowhere"]);
}

#[test]
fn tokens_are_counted_by_the_tokenizer_that_the_contract_names() {
    let home = Home::new();
    let contract = "format = 1\ntokenizer = \"placeholder\"\n[columns.text]\nmax_tokens = 40\n";
    let contract = home.write("in/a.toml", contract);
    let long = "many words ".repeat(100);
    let rows = format!("{{\"text\":\"few\"}}\n{{\"text\":\"{long}\"}}\n");
    let file = home.write("in/a.jsonl", rows);
    let (file, contract) = (file.to_str().unwrap(), contract.to_str().unwrap());
    let args = ["data", "ingest", "a", file, "--contract", contract, "--allow", "all", "--json"];
    let version = home.run(args).json();
    assert_eq!(version["by_rule"]["tokens:text"], 1);
}
