//! The reader against files that the writer made, and against the same files damaged in every way.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::write::GgufWriter;
use super::{Array, GgufFiles, Header, Value};
use crate::mapped::MappedFile;
use crate::{ModelError, TensorType, TensorView};

const N_VALUES: usize = 6;

fn small() -> Vec<u8> {
    let mut file = GgufWriter::new();
    file.set("general.architecture", Value::String("llama".to_owned()))
        .set("a.count", Value::U32(7))
        .set("a.scale", Value::F32(0.5))
        .set("a.on", Value::Bool(true))
        .set("a.words", Value::Array(Array::String(vec!["x".to_owned(), "né".to_owned()])))
        .set("a.ids", Value::Array(Array::I32(vec![1, 2, 3])))
        .tensor_f32("norm", &[3], &[1.0, 2.0, 3.0])
        .tensor("q", quantised(2))
        .tensor("e", quantised(1));
    file.to_bytes()
}

fn quantised(n_rows: usize) -> TensorView<'static> {
    let data = vec![5_u8; n_rows * 20].into();
    TensorView { shape: vec![n_rows, 32], dtype: TensorType::Q4_1, data }
}

/// `small` with the bytes after the first place of `find` replaced.
fn patched(find: &[u8], skip: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    let at = bytes.windows(find.len()).position(|window| window == find).unwrap();
    let at = at + find.len() + skip;
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

#[track_caller]
fn check(bytes: &[u8], expect: &str) {
    let message = Header::parse(bytes).unwrap_err().to_string();
    assert!(message.contains(expect), "got: {message}\nwanted: {expect}");
}

#[test]
fn reader_reads_what_the_writer_wrote() {
    let bytes = small();
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.version, 3);
    assert_eq!(header.metadata.iter().count(), N_VALUES);
    assert_eq!(header.metadata.u64("a.count").unwrap(), Some(7));
    assert_eq!(header.metadata.f32("a.scale").unwrap(), Some(0.5));
    assert_eq!(header.metadata.bool("a.on").unwrap(), Some(true));
    assert_eq!(header.metadata.strings("a.words").unwrap().unwrap(), ["x", "né"]);
    assert_eq!(header.metadata.u32s("a.ids").unwrap(), Some(vec![1, 2, 3]));
    assert_eq!(header.metadata.u64("a.none").unwrap(), None);
    let names: Vec<_> = header.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["norm", "q", "e"]);
    assert_eq!(header.tensors[1].shape, [2, 32]);
    assert_eq!(header.tensors[1].dtype, TensorType::Q4_1);
    assert_eq!(bytes[header.tensors[1].bytes.clone()], [5; 40]);
}

#[test]
fn version_2_is_read_too() {
    assert_eq!(Header::parse(&patched(b"GGUF", 0, &[2])).unwrap().version, 2);
}

#[test]
fn values_of_another_type_are_named() {
    let metadata = Header::parse(&small()).unwrap().metadata;
    let message = |result: Result<(), ModelError>| result.unwrap_err().to_string();
    let count = message(metadata.str("a.count").map(drop));
    assert_eq!(count, "a.count is U32(7), but must be a string");
    let words = message(metadata.u64("a.words").map(drop));
    assert_eq!(words, "a.words is of type array, but must be a whole number from 0");
}

#[test]
fn lying_headers_name_the_field_the_value_and_the_limit() {
    let huge = u64::MAX.to_le_bytes();
    check(b"", "the magic ends at byte 4, but the file has 0");
    check(b"GGML\x03\0\0\0", "the magic is \"GGML\", but must be \"GGUF\"");
    check(&patched(b"GGUF", 0, &[1]), "GGUF version 1 is not supported; supported: 2 and 3");
    check(&patched(b"GGUF", 0, &[0, 0, 0, 3]), "big-endian is not supported");
    check(&patched(b"GGUF", 4, &huge), "the number of tensors is 18446744073709551615, but at");
    check(&patched(b"GGUF", 12, &huge), "the number of metadata values is 18446744073709551615");
    // The first key's length, 8 bytes before the key.
    check(&patched(b"GGUF", 20, &huge), "a metadata key is 18446744073709551615, but at most");
    check(&patched(b"a.count", 0, &[77]), "a.count: the value type 77 is not supported");
    check(&patched(b"a.on", 4, &[2]), "a.on is the byte 2, but must be 0 or 1");
    check(&patched(b"a.words", 4, &[9]), "a.words an array of arrays is not supported");
    check(&patched(b"a.words", 8, &huge), "a.words is 18446744073709551615, but at most");
    check(&patched(b"a.words", 16, &huge), "a.words is 18446744073709551615, but at most");
    check(&patched(b"a.words", 24, &[0xff]), "a.words is 1 other bytes, but must be UTF-8");
    check(&patched(b"a.ids", 8, &huge), "a.ids is 18446744073709551615, but at most");
}

#[test]
fn lying_tensors_name_the_tensor_the_value_and_the_limit() {
    let huge = u64::MAX.to_le_bytes();
    check(&patched(b"norm", 0, &[0]), "tensor norm: the number of dims is 0, but must be between");
    check(&patched(b"norm", 0, &[5]), "tensor norm: the number of dims is 5, but must be between");
    check(&patched(b"norm", 4, &[0]), "tensor norm: a dim is 0, but must be at least 1");
    check(&patched(b"norm", 4, &huge), "tensor norm ends at byte 18446744073709551615, but the");
    check(&patched(b"norm", 4, &[0xff]), "tensor norm ends at byte 1");
    check(&patched(b"norm", 12, &[99]), "tensor norm: the type number 99 is not supported");
    check(
        &patched(b"norm", 16, &[1]),
        "tensor norm: the offset is 1, but must be a multiple of 32",
    );
    check(&patched(b"norm", 16, &[32]), "tensor q begins at byte");
    check(&patched(b"norm", 16, &[0, 0, 0, 0, 0, 0, 0, 0x80]), "tensor norm ends at byte");
    let q = [1, 0, 0, 0, 0, 0, 0, 0, b'q'];
    check(&patched(&q, 4, &[33]), "tensor q: the row length is 33, but must be a multiple of 32");
    let mut twice = GgufWriter::new();
    twice.tensor("e", quantised(1)).tensor("e", quantised(1));
    check(&twice.to_bytes(), "tensor \"e\" is given twice");
}

#[test]
fn alignment_is_checked() {
    for alignment in [0, 1, 12, 1 << 20] {
        let mut file = GgufWriter::new();
        file.set("general.alignment", Value::U32(alignment));
        check(&file.to_bytes(), &format!("general.alignment is {alignment}, but must be a power"));
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = small();
    let end = Header::parse(&bytes).unwrap().tensors[2].bytes.end;
    for len in 0..end {
        assert!(Header::parse(&bytes[..len]).is_err(), "{len} of {end} bytes were taken");
    }
    assert!(Header::parse(&bytes[..end]).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Header::parse(&tail);
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tail);
        let _ = Header::parse(&bytes);
    }

    #[test]
    fn no_mutation_panics_or_points_outside(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let mut bytes = small();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(header) = Header::parse(&bytes) {
            for tensor in header.tensors {
                prop_assert!(bytes.get(tensor.bytes).is_some());
            }
        }
    }
}

fn shard(number: u16, count: u16, tensor: &str) -> Vec<u8> {
    let mut file = GgufWriter::new();
    file.set("split.no", Value::U16(number))
        .set("split.count", Value::U16(count))
        .set("split.tensors.count", Value::I32(2))
        .tensor_f32(tensor, &[1], &[f32::from(number)]);
    file.to_bytes()
}

#[test]
fn shards_are_opened_together_from_any_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [1, 2].map(|n| folder.path().join(format!("m-0000{n}-of-00002.gguf")));
    std::fs::write(&paths[0], shard(0, 2, "a")).unwrap();
    std::fs::write(&paths[1], shard(1, 2, "b")).unwrap();
    for path in &paths {
        let files = GgufFiles::open(path).unwrap();
        assert_eq!(files.files().map(MappedFile::path).collect::<Vec<_>>(), paths.each_ref());
        assert_eq!(*files.tensor("b").unwrap().data, 1.0_f32.to_le_bytes());
        assert_eq!(files.tensors().count(), 2);
    }
}

#[track_caller]
fn check_shards(first_name: &str, second: Option<Vec<u8>>, expect: &str) {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join(first_name);
    std::fs::write(&first, shard(0, 2, "a")).unwrap();
    if let Some(second) = second {
        std::fs::write(folder.path().join("m-00002-of-00002.gguf"), second).unwrap();
    }
    let message = GgufFiles::open(&first).unwrap_err().to_string();
    assert!(message.contains(expect), "got: {message}\nwanted: {expect}");
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let first = "m-00001-of-00002.gguf";
    check_shards(first, None, "m-00002-of-00002.gguf: cannot open the file");
    check_shards("m.gguf", None, "the file name is \"m.gguf\", but must be NAME-00001-of-00002");
    check_shards(first, Some(shard(1, 3, "b")), "split.count is 3, but must be 2");
    check_shards(first, Some(shard(0, 2, "b")), "split.no is 0, but must be 1");
    check_shards(first, Some(shard(1, 2, "a")), "tensor \"a\" is given twice");
}
