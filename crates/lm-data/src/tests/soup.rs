//! Whatever bytes come in, each line comes out once: published as it was, or in quarantine.

use proptest::prelude::*;

use super::*;

/// Lines that are good, nearly good, or anything; ended in any way.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let ends = prop_oneof![Just("\n"), Just("\r\n"), Just("\n\n"), Just("\r\r\n"), Just("")];
    let body = prop_oneof![
        "[a-z]{1,10}".prop_map(|text| format!("{{\"text\":\"{text}\"}}").into_bytes()),
        "[{}\\[\\]\",:0-9a-z \t]{0,30}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..40),
        (50usize..90).prop_map(|n| vec![b'x'; n]),
        Just(b"\xef\xbb\xbf".to_vec()),
    ];
    (body, ends).prop_map(|(body, end)| [body, end.as_bytes().to_vec()].concat())
}

/// The lines as the docs define them: (offset, bytes without the line's end).
fn lines_of(source: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut offset = 0;
    let mut lines = Vec::new();
    for line in source.split_inclusive(|&byte| byte == b'\n') {
        let mark = if offset == 0 && line.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let mut row = line[mark..].strip_suffix(b"\n").unwrap_or(&line[mark..]);
        while let Some(rest) = row.strip_suffix(b"\r") {
            row = rest;
        }
        lines.push(((offset + mark) as u64, row.to_vec()));
        offset += line.len();
    }
    lines.retain(|(_, row)| !row.iter().all(|byte| b" \t\r".contains(byte)));
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_published_or_quarantined(
        source in proptest::collection::vec(line(), 1..12).prop_map(|lines| lines.concat())
    ) {
        let desk = Desk::new();
        let options = IngestOptions { max_row_bytes: 64, ..desk.lenient() };
        let mut expect = lines_of(&source);
        let version = match desk.ingest_with(&source, &options) {
            Err(DataError::NoRows { .. }) => {
                prop_assert!(expect.is_empty());
                return Ok(());
            }
            other => other.unwrap(),
        };
        let manifest = &version.manifest;
        prop_assert_eq!(manifest.rows_in, expect.len() as u64);
        prop_assert_eq!(manifest.rows_in, manifest.rows_published + manifest.rows_quarantined);
        prop_assert_eq!(manifest.by_rule.values().sum::<u64>(), manifest.rows_quarantined);

        for bad in desk.quarantined(Report::Newest) {
            let at = expect.iter().position(|(offset, _)| *offset == bad.offset_bytes);
            let (_, row) = expect.remove(at.unwrap());
            prop_assert_eq!(bad.raw_bytes().unwrap(), row);
        }
        // What is left, in its order, is exactly what was published.
        let rest: Vec<u8> =
            expect.into_iter().flat_map(|(_, row)| [row, b"\n".to_vec()].concat()).collect();
        prop_assert_eq!(rows_of(&desk, &version), rest);
    }
}

#[test]
fn a_row_that_is_too_long_but_kept_whole_keeps_a_broken_end() {
    let desk = Desk::new();
    let options = IngestOptions { max_row_bytes: 64, ..desk.lenient() };
    let row = [vec![b'x'; 64], vec![0xc2]].concat();
    desk.ingest_with(&row, &options).unwrap();
    assert_eq!(desk.quarantined(Report::Newest)[0].raw_bytes().unwrap(), row);
}
