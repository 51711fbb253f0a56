//! Model files that cannot be trusted.

use lm_models::gguf::Value;
use lm_models::gguf::write::GgufWriter;

use crate::program::Home;

/// A GGUF file that is whole, though no model.
fn whole() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", Value::String("llama".to_owned()));
    writer.tensor_f32("token_embd.weight", &[16, 8], &[0.5; 128]);
    writer.to_bytes()
}

#[track_caller]
fn check(name: &str, bytes: &[u8], parts: &[&str]) {
    let home = Home::new();
    let path = home.write("model.gguf", bytes);
    let ran = home.run(["inspect".as_ref(), path.as_os_str()]);
    assert!(ran.stdout.is_empty(), "{name}: {ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{name}: {ran:?}");
    let all: Vec<&str> = [&["model.gguf"], parts].concat();
    ran.refused(3, &all);
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn header(n_tensors: u64, n_metadata: u64) -> Vec<u8> {
    let version = 3_u32.to_le_bytes();
    [&b"GGUF"[..], &version, &n_tensors.to_le_bytes(), &n_metadata.to_le_bytes()].concat()
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let whole = whole();
    check("empty", &[], &[]);
    for len in [3, 4, 7, 8, 15, 23, 24, 30, 40, whole.len() / 2, whole.len() - 64] {
        check(&format!("{len} bytes"), &whole[..len], &[]);
    }
}

#[test]
fn lengths_beyond_the_file_are_refused_at_once() {
    let long_key = [header(0, 1), u64::MAX.to_le_bytes().to_vec()].concat();
    check("key", &long_key, &[]);
    check("tensors", &header(u64::MAX, 0), &[]);
    check("metadata", &header(0, 1 << 60), &[]);
    // An array (type 9) of 2^61 numbers of 8 bytes (type 10): the product overflows.
    let types = [9_u32.to_le_bytes(), 10_u32.to_le_bytes()].concat();
    let array = [header(0, 1), string("a"), types, (1_u64 << 61).to_le_bytes().to_vec()].concat();
    check("array", &array, &[]);
}

#[test]
fn tensors_that_do_not_fit_the_file_are_refused() {
    let tensor = |dims: &[u64], offset: u64| {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let n_dims = (dims.len() as u32).to_le_bytes();
        let info = [&string("t")[..], &n_dims, &dims_bytes, &[0; 4], &offset.to_le_bytes()];
        [header(1, 0), info.concat(), vec![0; 256]].concat()
    };
    check("overflow", &tensor(&[1 << 40, 1 << 40], 0), &[]);
    check("too large", &tensor(&[1 << 20], 0), &[]);
    check("offset", &tensor(&[4], u64::MAX - 31), &[]);
    check("many dimensions", &tensor(&[1; 9], 0), &[]);
}

#[test]
fn what_is_no_model_is_refused() {
    check("no decoder", &whole(), &[]);
    let noise: Vec<u8> =
        (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    check("noise", &noise, &[]);
    check("noise after the magic", &[b"GGUF", &noise[..]].concat(), &[]);
    check("text", b"Not Found\n", &[]);
}
