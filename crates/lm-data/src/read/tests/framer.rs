#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use super::*;

type Expected<'a> = (u64, u64, &'a [u8], u64, bool);

/// Records as (offset, line, bytes, size, too long), with at most 4 bytes each.
#[track_caller]
fn check(format: Format, input: &[u8], expect: &[Expected<'_>]) {
    check_with(format, input, 4, expect);
}

#[track_caller]
fn check_with(format: Format, input: &[u8], max_row_bytes: usize, expect: &[Expected<'_>]) {
    // What is shown at once ends anywhere.
    for capacity in [3, 16, 8192] {
        check_shown(capacity, format, input, max_row_bytes, expect);
    }
}

#[track_caller]
fn check_shown(
    capacity: usize,
    format: Format,
    input: &[u8],
    max_row_bytes: usize,
    expect: &[Expected<'_>],
) {
    let source = std::io::Cursor::new(input.to_vec());
    let source = Input::new(Box::new(std::io::BufReader::with_capacity(capacity, source)));
    let mut framer = Framer::new(source, format, max_row_bytes);
    let mut record = Record::default();
    let mut found = Vec::new();
    while framer.next_record(&mut record).unwrap() {
        let Record { offset_bytes, line, bytes, size_bytes, too_long, .. } = record.clone();
        found.push((offset_bytes, line, bytes, size_bytes, too_long));
    }
    let expect: Vec<_> = expect.iter().map(|&(o, l, b, s, t)| (o, l, b.to_vec(), s, t)).collect();
    assert_eq!(found, expect);
    assert_eq!(framer.input.consumed(), input.len() as u64);
    assert_eq!(framer.input.hash(), blake3::hash(input));
}

#[test]
fn lines_are_found_with_their_offsets() {
    let check = |input: &[u8], expect: &[Expected<'_>]| check(Format::Jsonl, input, expect);
    check(b"", &[]);
    check(b"\n", &[(0, 1, b"", 0, false)]);
    check(b"ab", &[(0, 1, b"ab", 2, false)]);
    check(b"ab\r\ncd\n", &[(0, 1, b"ab", 2, false), (4, 2, b"cd", 2, false)]);
    check(b"a\rb\r", &[(0, 1, b"a\rb", 3, false)]);
    check(b"\xef\xbb\xbfabcd\r\ne", &[(3, 1, b"abcd", 4, false), (9, 2, b"e", 1, false)]);
    check(b"a\n\xef\xbb\xbf", &[(0, 1, b"a", 1, false), (2, 2, b"\xef\xbb\xbf", 3, false)]);
    check(b"abcde\nf", &[(0, 1, b"abcde", 5, true), (6, 2, b"f", 1, false)]);
    let long = [b'x'; 5000];
    let input = [&long, b"\nn".as_slice()].concat();
    check(&input, &[(0, 1, &long[..4096], 5000, true), (5001, 2, b"n", 1, false)]);
}

#[test]
fn elements_of_an_array_are_found_without_reading_it_whole() {
    let check = |input: &[u8], expect: &[Expected<'_>]| check_with(Format::Json, input, 99, expect);
    check(b"", &[]);
    check(b" [ ] ", &[]);
    check(
        b"[1, {\"a\":[2,3]} ,\n\"],\\\"\"]\n",
        &[
            (1, 1, b"1", 1, false),
            (4, 2, b"{\"a\":[2,3]}", 11, false),
            (18, 3, b"\"],\\\"\"", 6, false),
        ],
    );
    check(
        b"{\"a\": 1}\n{\"a\":\n2} 3",
        &[
            (0, 1, b"{\"a\": 1}", 8, false),
            (9, 2, b"{\"a\":\n2}", 8, false),
            (18, 3, b"3", 1, false),
        ],
    );
}

/// What is wrong with the syntax around the rows, in order; "" for nothing.
#[track_caller]
fn check_faults(input: &str, expect: &[&str]) {
    let source = Input::new(Box::new(std::io::Cursor::new(input.as_bytes().to_vec())));
    let mut framer = Framer::new(source, Format::Json, 99);
    let mut record = Record::default();
    let mut found = Vec::new();
    while framer.next_record(&mut record).unwrap() {
        found.push(record.fault.unwrap_or_default());
    }
    assert_eq!(found, expect, "{input}");
}

#[test]
fn a_broken_array_says_how() {
    let cut = "the file ends before the array does";
    let missing = "a value is missing between two commas or brackets";
    check_faults("[1,2]", &["", ""]);
    check_faults("[1,2", &["", "", cut]);
    check_faults("[", &[cut]);
    check_faults("[1,,2]", &["", missing, ""]);
    check_faults("[1,]", &["", missing]);
    check_faults("[1] 2", &["", "something comes after the end of the array"]);
}

#[test]
fn records_of_csv_end_outside_of_quotes() {
    let check = |input: &[u8], expect: &[Expected<'_>]| check_with(Format::Csv, input, 99, expect);
    check(
        b"a,b\r\n1,\"x\ny\"\n\"\"\"\",2",
        &[
            (0, 1, b"a,b", 3, false),
            (5, 2, b"1,\"x\ny\"", 7, false),
            (13, 3, b"\"\"\"\",2", 6, false),
        ],
    );
    // A quote within a bare cell is a character like any other.
    check(b"5\" disk,x\ny\n", &[(0, 1, b"5\" disk,x", 9, false), (10, 2, b"y", 1, false)]);
}

#[test]
fn mails_of_a_mailbox_begin_after_their_from_line() {
    let from = b"From a@b.c Mon Jan  1 00:00:00 2001\n";
    let first = b"Subject: x\n\nFrom here on\n\n";
    let second = b"Subject: y\n\nz";
    let input = [from.as_slice(), first, from, second].concat();
    let n = from.len() as u64;
    let (n_first, n_second) = (first.len() as u64, second.len() as u64);
    check_with(
        Format::Mbox,
        &input,
        99,
        &[
            (n, 1, first, n_first, false),
            (n + n_first + n, 2, b"Subject: y\n\nz\n", n_second, false),
        ],
    );
}

#[test]
fn a_line_of_one_character_is_no_end_of_a_mail() {
    let from = b"From a@b.c Mon Jan  1 00:00:00 2001\n";
    let mail = b"Subject: x\n\na\nFrom me Mon to Fri\n";
    let n = from.len() as u64;
    let input = [from.as_slice(), mail].concat();
    check_with(Format::Mbox, &input, 99, &[(n, 1, mail, mail.len() as u64, false)]);
}
