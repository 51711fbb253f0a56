//! The rules of a contract, and the contracts that cannot be meant.

use super::*;
use crate::{CountTokens, infer};

const TERMS: &str = r#"
format = 1
tokenizer = "words"

[text]
mojibake = true
control_chars = true
empty = true
secrets = true
personal_data = ["email", "iban", "phone", "credit_card"]
languages = ["en"]
context_tokens = 40

[columns.n]
min = 1
max = 9

[columns."/a/b"]
one_of = ["x", 2]

[columns.code]
pattern = "^[A-Z]{2}$"
min_chars = 2

[columns.t]
max_chars = 300
max_tokens = 30
"#;

fn options(desk: &Desk, terms: &str) -> IngestOptions {
    let count = |text: &str| text.split_whitespace().count() as u64;
    IngestOptions {
        contract: Some(desk.file("contract.toml", terms)),
        count_tokens: Some(CountTokens::new(count)),
        ..desk.lenient()
    }
}

/// The rule that the row breaks, or "" for none.
#[track_caller]
fn check(row: &str, expect: &str) {
    let desk = Desk::new();
    desk.ingest_with(format!("{{}}\n{row}\n"), &options(&desk, TERMS)).unwrap();
    let found = desk.quarantined(Report::Newest);
    let found = found.first().map_or("", |row| row.rule.as_str());
    assert_eq!(found, expect, "{row}");
}

#[test]
fn each_term_refuses_what_it_names() {
    check(r#"{"n": 1, "a": {"b": "x"}, "code": "AB", "t": "fine"}"#, "");
    check(r#"{"n": null, "a": {"b": 2}}"#, "");
    check(r#"{"n": 0.5}"#, "range:n");
    check(r#"{"n": 10}"#, "range:n");
    check(r#"{"a": {"b": "y"}}"#, "one_of:/a/b");
    check(r#"{"code": "A"}"#, "length:code");
    check(r#"{"code": "ABC"}"#, "pattern:code");
    check(&format!(r#"{{"t": "{}"}}"#, "x".repeat(301)), "length:t");
    check(&format!(r#"{{"t": "{}"}}"#, "x ".repeat(31)), "tokens:t");
    check(
        &format!(r#"{{"u": "{}", "v": "{}"}}"#, "x ".repeat(21), "y ".repeat(20)),
        "context_tokens",
    );
    check(r#"{"t": "cafÃ©"}"#, "mojibake");
    check(r#"{"t": ["deep", {"er": "\ufffd"}]}"#, "mojibake");
    check(r#"{"t": "a\u0007b"}"#, "control_chars");
    check(r#"{"t": "a\tb\r\n"}"#, "");
    check(r#"{"t": " \n "}"#, "empty_text");
    check(r#"{"t": "AKIAIOSFODNN7EXAMPLE"}"#, "secret");
    check(r#"{"t": "write to a@example.org"}"#, "personal_data");
    check(r#"{"t": "4111 1111 1111 1111"}"#, "personal_data");
    let german = "Die Lieferung ist nicht an der Adresse angekommen, die auf dem Zettel steht.";
    check(&format!(r#"{{"t": "{german}"}}"#), "language");
}

#[test]
fn repairs_are_proposed_where_there_is_one() {
    let desk = Desk::new();
    let rows = b"{\"t\":\"caf\xe9\"}\n{\"t\":\"caf\xc3\x83\xc2\xa9\"}\n{\"t\":\"a\\u0007b\"}\n{\"n\":0}\n{}\n";
    desk.ingest_with(rows, &options(&desk, TERMS)).unwrap();
    let repair =
        |row: QuarantinedRow| row.repair.map(|repair| (repair.kind.to_string(), repair.row));
    let found: Vec<_> = desk.quarantined(Report::Newest).into_iter().map(repair).collect();
    let some = |kind: &str, row: &str| Some((kind.to_owned(), row.to_owned()));
    assert_eq!(
        found,
        [
            some("decoded_as_windows_1252", "{\"t\":\"café\"}"),
            some("mojibake_undone", "{\"t\":\"café\"}"),
            some("control_chars_removed", "{\"t\":\"ab\"}"),
            None,
        ]
    );
}

#[test]
fn a_share_of_nulls_over_its_limit_publishes_nothing() {
    let desk = Desk::new();
    let terms = "format = 1\n[columns.a]\nmax_null_share = 0.25\n";
    let options = options(&desk, terms);
    desk.ingest_with("{\"a\":1}\n{\"a\":1}\n{\"a\":1}\n{}\n", &options).unwrap();
    let error = desk.ingest_with("{\"a\":1}\n{\"a\":null}\n{}\n", &options).unwrap_err();
    assert!(error.to_string().contains("rule nulls:a is broken by 2 of 3 rows"), "{error}");
}

#[test]
fn nulls_of_rows_that_are_known_do_not_count_again() {
    let desk = Desk::new();
    let terms = "format = 1\n[columns.a]\nmax_null_share = 0.5\n";
    let options = IngestOptions { append: true, ..options(&desk, terms) };
    let old = "{\"a\":1}\n{}\n".repeat(50);
    desk.ingest_with(&old, &options).unwrap();
    // Written anew, with 30 rows before those that are known.
    let new: String = (0..30).map(|i| format!("{{\"a\":{}}}\n", i + 2)).collect();
    let manifest = desk.ingest_with(new + &old, &options).unwrap().manifest;
    assert_eq!((manifest.batch_rows_in, manifest.rows_repeated), (30, 100));
    // Those that are new do count.
    let nulls = "{\"b\":1}\n".repeat(30);
    let error = desk.ingest_with(nulls + &old, &options).unwrap_err();
    assert!(error.to_string().contains("rule nulls:a is broken by 30 of 30 rows"), "{error}");
}

#[test]
fn thresholds_of_the_contract_and_of_a_rule_come_before_the_defaults() {
    let desk = Desk::new();
    let terms = "format = 1\n[thresholds]\nfail = 0.4\n[thresholds.rules.\"range:n\"]\nfail = 0.1\n\
                 [columns.n]\nmax = 1\n[columns.m]\nmax = 1\n";
    let options =
        IngestOptions { thresholds: Thresholds { warn: 0.0, fail: 0.0 }, ..options(&desk, terms) };
    desk.ingest_with("{\"m\":2}\n{\"m\":1}\n{\"m\":1}\n", &options).unwrap();
    let error = desk.ingest_with("{\"n\":2}\n{\"n\":1}\n{\"n\":1}\n", &options).unwrap_err();
    assert!(matches!(error, DataError::AuditFailed { .. }), "{error}");
}

#[track_caller]
fn check_terms(terms: &str, expect: &str) {
    let desk = Desk::new();
    let error = desk.ingest_with("{}\n", &options(&desk, terms)).unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
    assert!(!desk.dataset().exists());
}

#[test]
fn a_contract_that_cannot_be_meant_is_named_with_its_field() {
    check_terms("format = 2", "format is 2, and this program knows 1");
    check_terms("format = 1\ncolums = 1", "colums");
    check_terms("format = 1\n[columns.a]\npattern = \"(\"", "columns.a.pattern");
    check_terms("format = 1\n[columns.a]\nmin = 2\nmax = 1", "columns.a.min is over max");
    check_terms("format = 1\n[columns.a]\nmax_null_share = 2.0", "columns.a.max_null_share is 2");
    check_terms("format = 1\n[text]\nlanguages = [\"xx\"]", "text.languages has \"xx\"");
    check_terms("format = 1\n[text]\npersonal_data = [\"x\"]", "text.personal_data has \"x\"");
    check_terms("format = 1\n[columns.a]\nmax_tokens = 1", "tokenizer must name a model");
    check_terms("format = 1\nunique = [[]]", "unique names no column");
    check_terms("format = 1\n[near_duplicates]\ncolumns = [\"a\"]\nsimilarity = 0.1", "is 0.1");
    let near = "format = 1\n[near_duplicates]\ncolumns = [\"a\"]\nsimilarity = 0.7";
    check_terms(near, "near_duplicates.similarity is 0.7, but must be between 0.8 and 1");
    check_terms("format = 1\n[thresholds.rules.nonsense]\nfail = 1.0", "no rule \"nonsense\"");
    check_terms("format = 1\n[schema]\ntype = 3", "at \"/type\"");
}

#[test]
fn tokens_are_not_counted_by_guessing() {
    let desk = Desk::new();
    let options = IngestOptions { count_tokens: None, ..options(&desk, TERMS) };
    let error = desk.ingest_with("{}\n", &options).unwrap_err().to_string();
    assert!(error.contains("counts tokens of \"words\""), "{error}");
}

/// What is inferred from rows is kept by them.
#[track_caller]
fn check_inferred(name: &str, bytes: impl AsRef<[u8]>, expect: &[&str]) {
    let desk = Desk::new();
    let source = desk.file(name, bytes);
    let inferred = infer(&source, None, 1000).unwrap();
    for part in expect {
        assert!(inferred.contract.contains(part), "no {part:?} in\n{}", inferred.contract);
    }
    let contract = Some(desk.file("contract.toml", &inferred.contract));
    let options = IngestOptions { contract, ..desk.lenient() };
    let version = ingest(&desk.home, "tickets", &[source], &options, &mut |_| {}).unwrap();
    assert_eq!(version.manifest.by_rule, Default::default());
}

#[test]
fn a_contract_is_inferred_that_its_rows_keep() {
    let words = ["alpha", "beta"];
    let row = |i: usize| {
        let (kind, score) = (words[i % 2], i as f64 / 2.0);
        let note = if i.is_multiple_of(4) { "null".to_owned() } else { format!("\"note {i}\"") };
        format!("{{\"id\":\"t-{i}\",\"kind\":\"{kind}\",\"score\":{score:?},\"note\":{note}}}\n")
    };
    let rows: String = (0..60).map(row).collect();
    check_inferred(
        "a.jsonl",
        rows,
        &[
            "unique = [[\"id\"]]",
            "one_of = [",
            "max = 29.5",
            "max_null_share = 0.25",
            "pattern = '^[A-Za-z]{1,8}[-_]\\d+$'",
            "type = \"number\"",
        ],
    );
    let cells: String = (0..30).map(|i| format!("{i},0{i},{}\n", i % 2 == 0)).collect();
    let expect = ["type = \"integer\"", "type = \"boolean\"", "type = \"string\""];
    check_inferred("a.csv", format!("n,code,flag\n{cells}"), &expect);
    // Digits that no number holds are a name.
    let ids: String = (10..40).map(|i| format!("{i}345678901234567890123\n")).collect();
    check_inferred("ids.csv", format!("id\n{ids}"), &["type = \"string\""]);
}

#[test]
fn what_some_row_breaks_is_not_proposed() {
    let long =
        "The parcel was sent on Monday and should arrive by Thursday at the latest. ".repeat(4);
    let near: String = (0..120).map(|i| format!("{{\"t\":\"{long}{i}\"}}\n")).collect();
    let dirty = "{\"m\":{\"x\":\"cafÃ©\"}}\n{\"c\":\"a\\u0007b\"}\n{\"b\":[\" \"]}\n{\"/t\":1}\n";
    check_inferred("dirty.jsonl", near + dirty, &[]);
    let row = |i: usize| match i % 2 {
        0 => format!("alpha,{i},true,\n"),
        _ => ",,7,\n".to_owned(),
    };
    let cells: String = (0..30).map(row).collect();
    check_inferred("cells.csv", format!("t,n,mixed,void\n{cells}"), &["one_of = ["]);
    // What all keep is.
    let hex = |i: usize| blake3::hash(&i.to_le_bytes()).to_hex();
    let far = |i: usize| format!("{{\"t\":\"{} {}\"}}\n", hex(2 * i), hex(2 * i + 1));
    let rules = ["[near_duplicates]", "mojibake = true", "control_chars = true", "empty = true"];
    check_inferred("far.jsonl", (0..120).map(far).collect::<String>(), &rules);
}

#[test]
fn a_column_of_json_with_several_kinds_keeps_them() {
    let ids: String = (0..30).map(|i| format!("{{\"id\":{i}}}\n")).collect();
    check_inferred("a.jsonl", ids + "{\"id\":\"x\"}\n", &["\"integer\"", "\"string\""]);
    let texts = "{\"id\":\"x\"}\n".repeat(30);
    check_inferred("b.jsonl", texts + "{\"id\":1}\n", &["\"integer\"", "\"string\""]);
}

#[test]
fn a_column_with_more_values_than_are_followed_is_no_key() {
    let desk = Desk::new();
    let rows: String = (0..200_000).map(|i| format!("{{\"id\":\"x{i}\"}}\n")).collect();
    let source = desk.file("a.jsonl", rows + "{\"id\":\"x0\"}\n");
    let inferred = infer(&source, None, 1_000_000).unwrap();
    assert!(!inferred.contract.contains("unique"), "{}", inferred.contract);
}
