//! Rules that compare rows, within an ingest and with what is published.

use super::*;

fn options(desk: &Desk, terms: &str, append: bool) -> IngestOptions {
    let contract = Some(desk.file("contract.toml", format!("format = 1\n{terms}")));
    IngestOptions { contract, append, ..desk.lenient() }
}

/// (line, rule) of what is quarantined.
fn found(desk: &Desk) -> Vec<(u64, String)> {
    let rows = desk.quarantined(Report::Newest);
    rows.into_iter().map(|row| (row.line, row.rule)).collect()
}

#[track_caller]
fn check(terms: &str, rows: &[&str], expect: &[(u64, &str)]) {
    let desk = Desk::new();
    desk.ingest_with(rows.join("\n"), &options(&desk, terms, false)).unwrap();
    let expect: Vec<_> = expect.iter().map(|(line, rule)| (*line, (*rule).to_owned())).collect();
    assert_eq!(found(&desk), expect);
    let n_bad = expect.len();
    assert_eq!(newest_rows(&desk).split(|b| *b == b'\n').count() - 1, rows.len() - n_bad);
}

#[test]
fn of_rows_with_the_same_key_the_first_stays() {
    let rows =
        [r#"{"a":1,"b":1}"#, r#"{"a":1,"b":2}"#, r#"{"a":2,"b":2}"#, r#"{"b":3}"#, r#"{"b":3}"#];
    check("unique = [[\"a\"]]", &rows, &[(2, "unique:a")]);
    check("unique = [[\"a\", \"b\"]]", &rows, &[]);
    // A row that one rule refuses is still there for the next.
    let both = [(2, "unique:a"), (3, "unique:b"), (5, "unique:b")];
    check("unique = [[\"a\"], [\"b\"]]", &rows, &both);
}

#[test]
fn a_column_that_another_decides_has_the_value_of_most_rows() {
    let terms = "[[depends]]\non = [\"zip\"]\ncolumn = \"city\"";
    let row = |zip: &str, city: &str| format!("{{\"zip\":\"{zip}\",\"city\":\"{city}\"}}");
    let rows =
        [row("1", "X"), row("1", "A"), row("1", "A"), row("2", "B"), row("3", "C"), row("3", "D")];
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    check(terms, &rows, &[(1, "depends:city"), (6, "depends:city")]);
}

#[test]
fn texts_that_are_nearly_the_same_are_found() {
    let terms = "[near_duplicates]\ncolumns = [\"t\"]\nsimilarity = 0.8";
    let text = "The parcel was sent on Monday and should arrive by Thursday at the latest, weather permitting.";
    let other = "Please find attached the invoice for the second quarter, which is payable within thirty days.";
    let row = |text: &str| format!("{{\"t\":\"{text}\"}}");
    let rows = [
        row(text),
        row(other),
        row(&text.to_uppercase()),
        row(&format!("{text} Bye!")),
        row("Hi"),
        row("Hi"),
    ];
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    check(terms, &rows, &[(3, "near_duplicate"), (4, "near_duplicate")]);
}

#[test]
fn rows_are_compared_with_those_that_are_published() {
    let desk = Desk::new();
    let terms = "unique = [[\"id\"]]\n[[depends]]\non = [\"k\"]\ncolumn = \"v\"\n[near_duplicates]\ncolumns = [\"t\"]";
    let text = "a text that is long enough to have many pieces and to be told from others";
    let first = format!("{{\"id\":1,\"k\":1,\"v\":1,\"t\":\"{text}\"}}\n");
    desk.ingest_with(&first, &options(&desk, terms, true)).unwrap();
    let second = format!(
        "{first}{{\"id\":1}}\n{{\"id\":2,\"k\":1,\"v\":2}}\n{{\"id\":3,\"k\":1,\"v\":2}}\n\
         {{\"id\":4,\"t\":\"{text}!\"}}\n{{\"id\":5}}\n"
    );
    let version = desk.ingest_with(second, &options(&desk, terms, true)).unwrap();
    let rules: Vec<_> = found(&desk).into_iter().map(|(_, rule)| rule).collect();
    assert_eq!(rules, ["unique:id", "depends:v", "depends:v", "near_duplicate"]);
    assert_eq!((version.manifest.rows_in, version.manifest.rows_published), (6, 2));
}
