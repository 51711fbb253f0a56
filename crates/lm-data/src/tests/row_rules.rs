//! Which rule each kind of bad row breaks, and what its report says.

use super::*;

/// Ingests the row between two good ones; `expect` is the rule it breaks, or "" for none.
#[track_caller]
fn check(row: impl AsRef<[u8]>, expect: &str) {
    let row = row.as_ref();
    let desk = Desk::new();
    let good = b"{\"text\":\"x\"}\n".as_slice();
    let version = desk.ingest([good, row, b"\n", good].concat()).unwrap();
    let found = desk.quarantined(Report::Newest);
    if expect.is_empty() {
        assert_eq!(rows_of(&desk, &version), [good, row, b"\n", good].concat());
        assert_eq!(found, []);
    } else {
        assert_eq!(rows_of(&desk, &version), [good, good].concat());
        let [found] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((found.rule.as_str(), found.offset_bytes, found.line), (expect, 13, 2));
        assert_eq!(found.raw_bytes().unwrap(), row);
        assert_eq!(version.manifest.by_rule.get(expect), Some(&1));
    }
}

#[test]
fn each_bad_row_breaks_its_rule() {
    check(r#"{"text":"ok","label":"a","n":3}"#, "");
    check("{\"text\" : \"white space stays\"}  ", "");
    check(r#"{"text":"\ud83d\ude00"}"#, "");
    check(b"{\"text\":\"\xff\"}", "not_utf8");
    check("{\"text\":\"x\"", "not_json");
    check("{\"text\":\"x\"} {}", "not_json");
    check("{\"text\":\"a\tb\"}", "not_json");
    check("{\"text\":NaN}", "not_json");
    check(r#"{"text":"\ud800"}"#, "not_json");
    check("[".repeat(200), "not_json");
    check("\0", "not_json");
    check(r#"{"text":"x","text":"y"}"#, "duplicate_key");
    check("[]", "schema:type");
    check("null", "schema:type");
    check("{}", "schema:required");
    check(r#"{"text":5}"#, "schema:type");
    check(r#"{"text":""}"#, "schema:minLength");
    check(r#"{"text":"012345678901234567890"}"#, "schema:maxLength");
    check(r#"{"text":"x","label":"c"}"#, "schema:enum");
    check(r#"{"text":"x","n":-1}"#, "schema:minimum");
    check(r#"{"text":"x","other":1}"#, "schema:additionalProperties");
}

/// Ingests one row after a good one; the report's detail must say this.
#[track_caller]
fn check_detail(row: impl AsRef<[u8]>, expect: &str) {
    let desk = Desk::new();
    desk.ingest([b"{\"text\":\"x\"}\n".as_slice(), row.as_ref()].concat()).unwrap();
    assert_eq!(desk.quarantined(Report::Newest)[0].detail, expect);
}

#[test]
fn a_report_says_where_and_why() {
    let at = "byte 0xff at column 10 (offset 22 of the file) is not UTF-8";
    check_detail(b"{\"text\":\"\xff\"}", at);
    check_detail("{\"text\" 1}", "column 9: expected `:` (offset 21 of the file)");
    let at = "column 18: key \"text\" comes a second time (offset 30 of the file)";
    check_detail(r#"{"text":"x","text":"y"}"#, at);
    check_detail("{}", "the row: \"text\" is a required property");
    check_detail(r#"{"text":7}"#, "/text: value is not of type \"string\"");
}

#[test]
fn a_row_that_is_too_long_is_quarantined_by_its_beginning() {
    let desk = Desk::new();
    let options = IngestOptions { max_row_bytes: 100, ..desk.lenient() };
    let long = format!("{{\"text\":\"{}é\"}}", "x".repeat(10_000_000));
    let version = desk.ingest_with(format!("{long}\n{}{long}", good_rows(1)), &options).unwrap();
    assert_eq!(rows_of(&desk, &version), good_rows(1).as_bytes());
    let found = desk.quarantined(Report::Newest);
    let rules: Vec<_> = found.iter().map(|row| (row.line, row.rule.as_str())).collect();
    assert_eq!(rules, [(1, "row_too_long"), (3, "row_too_long")]);
    assert_eq!(found[0].size_bytes, long.len() as u64);
    let kept = found[0].raw_bytes().unwrap();
    assert!(kept.len() < 5000 && long.as_bytes().starts_with(&kept));
    assert_eq!(found[0].detail, "the row has 10000013 bytes, and at most 100 may be");
}

#[test]
fn blank_lines_line_ends_and_a_byte_order_mark_are_no_rows() {
    let desk = Desk::new();
    let source = "\u{feff}{\"text\":\"a\"}\r\n\r\n \t\n{\"text\":\"b\"}\r\n[]";
    let version = desk.ingest(source).unwrap();
    assert_eq!(rows_of(&desk, &version), b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
    assert_eq!((version.manifest.rows_in, version.manifest.blank_lines), (3, 2));
    let found = desk.quarantined(Report::Newest);
    assert_eq!((found[0].offset_bytes, found[0].line), (36, 5));
    assert_eq!(&source.as_bytes()[36..], b"[]");
}

#[track_caller]
fn check_schema(schema: &str, expect: &str) {
    let desk = Desk::new();
    let contract = Some(desk.file("given.json", schema));
    let error = desk.ingest_with("{}\n", &IngestOptions { contract, ..desk.lenient() });
    let error = error.unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
    assert!(!desk.dataset().exists());
}

#[test]
fn a_contract_that_cannot_be_used_is_named_with_the_place() {
    check_schema("{", "is not JSON: EOF while parsing an object at line 1 column 1");
    check_schema(r#"{"properties":{"a":{"type":"strin"}}}"#, r#"at "/properties/a/type""#);
    check_schema(r#"{"required":"text"}"#, r#"at "/required""#);
    check_schema(r#"{"pattern":"("}"#, "pattern");
    check_schema(r#"{"$ref":"https://example.com/schema.json"}"#, "https://example.com");
    check_schema(r#"{"$ref":"file:///etc/hostname"}"#, "file:///etc/hostname");
    check_schema(r#"{"$ref":"other.json"}"#, "other.json");
    check_schema(r##"{"$ref":"#/$defs/none"}"##, "/$defs/none");
}

#[test]
fn drafts_are_told_apart_by_schema() {
    // `items` with an array is a tuple in draft 7 and no schema in 2020-12.
    let tuple = r#"{"$schema":"http://json-schema.org/draft-07/schema#",
        "items":[{"type":"integer"}]}"#;
    let desk = Desk::new();
    let contract = Some(desk.file("tuple.json", tuple));
    let version =
        desk.ingest_with("[1,\"x\"]\n[\"x\"]\n", &IngestOptions { contract, ..desk.lenient() });
    assert_eq!(rows_of(&desk, &version.unwrap()), b"[1,\"x\"]\n");
    check_schema(r#"{"items":[{"type":"integer"}]}"#, r#"at "/items""#);
}
