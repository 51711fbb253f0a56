//! Parquet of others: values and types that their reader panics on cost what they are in, and nothing else.

use std::sync::Arc;

use parquet::basic::{Compression, GzipLevel};
use parquet::data_type::{FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;
use crate::{CountTokens, Drained, Fate, drain, inbox, receipt};

/// A file of one column of timestamps in microseconds.
fn timestamps(values: &[i64]) -> Vec<u8> {
    timestamps_by(Compression::UNCOMPRESSED, values)
}

fn timestamps_by(compression: Compression, values: &[i64]) -> Vec<u8> {
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let schema = parse_message_type("message row { required int64 at (TIMESTAMP_MICROS); }");
    let schema = Arc::new(schema.unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// A file of one row of a type that the crate cannot read.
fn interval() -> Vec<u8> {
    let schema = "message row { required fixed_len_byte_array(12) every (INTERVAL); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values = [FixedLenByteArray::from(vec![1; 12])];
    column.typed::<FixedLenByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// Twice 30 rows, of which the second 30 cannot be read.
fn broken_midway(desk: &Desk) -> Vec<u8> {
    let schema = Arc::new(parse_message_type("message row { required int64 at; }").unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    for values in [[1_i64; 30], [2; 30]] {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    let mut bytes = writer.into_inner().unwrap();
    let file = fs::File::open(desk.file("whole.parquet", &bytes)).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let column = reader.metadata().row_group(1).column(0);
    let begin = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    // A page's header that ends at once.
    bytes[usize::try_from(begin).unwrap()..][..8].fill(0);
    bytes
}

fn any(desk: &Desk) -> IngestOptions {
    IngestOptions { contract: Some(desk.file("any.json", "{}")), ..desk.lenient() }
}

#[test]
fn a_timestamp_beyond_the_calendar_is_a_row_like_any_other() {
    let desk = Desk::new();
    let source = desk.file("a.parquet", timestamps(&[0, i64::MAX, -1]));
    ingest(&desk.home, "tickets", &[source], &any(&desk), &mut |_| {}).unwrap();
    let rows = String::from_utf8(newest_rows(&desk)).unwrap();
    assert_eq!(
        rows.lines().collect::<Vec<_>>(),
        [
            r#"{"at":"1970-01-01 00:00:00.000000 +00:00"}"#,
            r#"{"at":"+294247-01-10 04:00:54.775807 +00:00"}"#,
            r#"{"at":"1969-12-31 23:59:59.999999 +00:00"}"#,
        ]
    );
}

#[test]
fn a_type_that_nobody_reads_is_named_and_other_sources_are_read() {
    let desk = Desk::new();
    let sources = [
        desk.file("a.parquet", interval()),
        desk.file("b.parquet", timestamps(&[0])),
        desk.file("c.jsonl", "{\"at\":1}\n"),
    ];
    ingest(&desk.home, "tickets", &sources, &any(&desk), &mut |_| {}).unwrap();
    assert_eq!(newest_rows(&desk).split(|byte| *byte == b'\n').count(), 3);
    let [row] = desk.quarantined(Report::Newest).try_into().unwrap();
    assert_eq!((row.source.as_str(), row.rule.as_str()), ("a.parquet", "unreadable"));
    assert!(row.detail.contains("INTERVAL"), "{}", row.detail);
}

/// What is said at the door.
#[track_caller]
fn refused(body: &[u8]) -> String {
    let desk = Desk::new();
    let limits = InboxLimits::default();
    let format = Format::Parquet;
    let offering = Offering::begin(&desk.home, "tickets", None, None, format, &limits);
    let mut offering = offering.unwrap();
    offering.write(body).unwrap();
    let error = offering.finish().unwrap_err();
    assert!(matches!(error, DataError::NotOfFormat { format: Format::Parquet, .. }), "{error}");
    error.to_string()
}

#[test]
fn a_type_that_nobody_reads_is_refused_at_the_door() {
    let error = refused(&interval());
    assert!(error.contains("INTERVAL"), "{error}");
}

#[test]
fn a_body_that_cannot_be_read_to_its_end_is_kept_whole() {
    let desk = Desk::new();
    let contracts = desk.home.0.join("contracts");
    fs::create_dir_all(&contracts).unwrap();
    fs::write(contracts.join("tickets.json"), "{}").unwrap();
    let (body, limits) = (broken_midway(&desk), InboxLimits::default());
    let format = Format::Parquet;
    let offering = Offering::begin(&desk.home, "tickets", Some("k"), None, format, &limits);
    let mut offering = offering.unwrap();
    offering.write(&body).unwrap();
    offering.finish().unwrap();

    let add = || drain(&desk.home, "tickets", &IngestOptions::default(), &mut |_| ()).unwrap();
    let Drained::Added { rows, .. } = add() else { panic!("it is not added") };
    assert_eq!((rows.rows_published, rows.rows_quarantined), (30, 1));
    let fate = receipt(&desk.home, "tickets", "k").unwrap().unwrap().fate;
    let Fate::Refused { why, .. } = fate else { panic!("{fate:?}") };
    assert!(why.contains("30 of its rows are published and 1 in quarantine"), "{why}");
    let kept = desk.dataset().join("inbox").join(format!("{}.parquet", inbox::file_of("k")));
    assert_eq!(fs::read(&kept).unwrap(), body);
    assert_eq!(backlog(&desk.home, "tickets").unwrap().refused_bodies, 1);
    assert!(matches!(add(), Drained::Nothing));

    // Under another contract it is looked at once more, and no row comes twice.
    fs::write(contracts.join("tickets.json"), "{\"type\":\"object\"}").unwrap();
    let Drained::Added { rows, .. } = add() else { panic!("it is not looked at") };
    assert_eq!(rows.rows_in, 0);
    assert!(matches!(add(), Drained::Nothing) && kept.exists());
    assert_eq!(newest_rows(&desk).iter().filter(|byte| **byte == b'\n').count(), 30);
}

#[test]
fn gzip_is_read_and_a_compression_that_is_not_is_named() {
    let desk = Desk::new();
    let gzip = timestamps_by(Compression::GZIP(GzipLevel::default()), &[0; 9]);
    let source = desk.file("a.parquet", gzip);
    ingest(&desk.home, "tickets", &[source], &any(&desk), &mut |_| {}).unwrap();
    assert_eq!(newest_rows(&desk).iter().filter(|byte| **byte == b'\n').count(), 9);
    let mut zstd = timestamps(&[0]);
    // The footer names the column, and then as field 4 its compression, which is 0: 6 in zigzag is Zstandard.
    let codec = b"at\x15\x00";
    let at = zstd.windows(codec.len()).rposition(|bytes| bytes == codec).unwrap();
    zstd[at + 3] = 6 << 1;
    let error = refused(&zstd);
    assert!(error.contains("compressed by Zstandard, which is not read"), "{error}");
}

#[test]
fn a_row_whose_check_panics_is_kept_with_what_it_said() {
    let desk = Desk::new();
    let terms = "format = 1\ntokenizer = \"words\"\n[columns.t]\nmax_tokens = 9\n";
    let count = |text: &str| {
        assert!(text != "odd", "nobody can count this");
        1_u64
    };
    let options = IngestOptions {
        contract: Some(desk.file("contract.toml", terms)),
        count_tokens: Some(CountTokens::new(count)),
        ..desk.lenient()
    };
    desk.ingest_with("{\"t\":\"a\"}\n{\"t\":\"odd\"}\n{\"t\":\"b\"}\n", &options).unwrap();
    assert_eq!(newest_rows(&desk), b"{\"t\":\"a\"}\n{\"t\":\"b\"}\n");
    let [row] = desk.quarantined(Report::Newest).try_into().unwrap();
    assert_eq!((row.line, row.rule.as_str()), (2, "unreadable"));
    assert_eq!(row.detail, "checking the row panicked: nobody can count this");
}
