//! Encoders beside the reference library's numbers, which `xtask/golden/make_encoders.py` made.

use std::path::{Path, PathBuf};

use lastmile::{
    EncodeRequest, EncoderText, GenerateRequest, ModelSource, Prompt, RequestId, Runtime,
    RuntimeConfig, Task,
};
use lm_models::{Home, ModelRef, NoProgress, PullOptions, pull};
use serde_json::Value;

const FAMILIES: [&str; 7] = [
    "bert",
    "bert-labels",
    "bert-rank",
    "roberta",
    "roberta-labels",
    "distilbert",
    "distilbert-labels",
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/encoders")
}

fn start(path: &Path) -> Runtime {
    Runtime::start(RuntimeConfig::new(ModelSource::path(path))).unwrap()
}

fn rows(runtime: &Runtime, texts: Vec<EncoderText>) -> Vec<Vec<f32>> {
    let request = EncodeRequest::new(RequestId(1), Task::Embed, texts);
    runtime.encode(&request).unwrap().wait().unwrap().rows
}

fn minilm() -> Runtime {
    let home = match std::env::var_os("LASTMILE_TEST_HOME") {
        Some(path) => Home::new(PathBuf::from(path)),
        None => Home::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-home")),
    };
    let model = ModelRef::Card("all-minilm-l6-v2".to_owned());
    start(&pull(&model, &home, &PullOptions::default(), &NoProgress).unwrap().path)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn tiny_checkpoints_of_every_family_give_the_references_rows() {
    for family in FAMILIES {
        let folder = golden().join(family);
        let expect = std::fs::read_to_string(folder.join("expect.json")).unwrap();
        let expect: Value = serde_json::from_str(&expect).unwrap();
        let text = |text: &Value| match text.as_array() {
            Some(pair) => EncoderText::Pair(
                pair[0].as_str().unwrap().to_owned(),
                pair[1].as_str().unwrap().to_owned(),
            ),
            None => EncoderText::Text(text.as_str().unwrap().to_owned()),
        };
        let texts: Vec<_> = expect["texts"].as_array().unwrap().iter().map(text).collect();
        let runtime = start(&folder);
        let alone: Vec<_> =
            texts.iter().map(|text| rows(&runtime, vec![text.clone()]).remove(0)).collect();
        for (how, found) in [("together", rows(&runtime, texts)), ("alone", alone)] {
            for (i, (found, expect)) in
                found.iter().zip(expect["rows"].as_array().unwrap()).enumerate()
            {
                let expect = expect.as_array().unwrap().iter().map(|x| x.as_f64().unwrap());
                assert_eq!(found.len(), expect.len(), "{family}, text {i}");
                for (x, y) in found.iter().zip(expect) {
                    let (x, size) = (f64::from(*x), y.abs().max(1.0));
                    assert!((x - y).abs() <= 1e-3 * size, "{family} {how}, text {i}: {x}, not {y}");
                }
            }
        }
    }
}

#[test]
fn minilm_gives_the_references_vectors_and_ranks_pairs_the_same() {
    let sentences = std::fs::read_to_string(golden().join("sentences.txt")).unwrap();
    let sentences: Vec<&str> = sentences.lines().collect();
    let bytes = std::fs::read(golden().join("minilm.f16")).unwrap();
    let expect: Vec<f32> = bytes.as_chunks::<2>().0.iter().map(|b| half(*b)).collect();
    let expect: Vec<&[f32]> = expect.chunks(384).collect();
    assert_eq!((sentences.len(), expect.len()), (100, 100));
    let runtime = minilm();
    let found = runtime.embed(&sentences).unwrap();
    for (i, (found, expect)) in found.iter().zip(&expect).enumerate() {
        let cosine = dot(found, expect) / (dot(found, found) * dot(expect, expect)).sqrt();
        assert!(cosine > 1.0 - 1e-4, "sentence {i}: cosine {cosine}");
    }
    // The first 80 sentences are 40 pairs.
    let order = |vectors: &[&[f32]]| {
        let scores: Vec<f64> = (0..40).map(|i| dot(vectors[2 * i], vectors[2 * i + 1])).collect();
        let mut order: Vec<usize> = (0..40).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order
    };
    let found: Vec<&[f32]> = found.iter().map(Vec::as_slice).collect();
    assert_eq!(order(&found), order(&expect));
}

#[test]
fn a_text_that_is_too_long_is_named_or_cut_and_says_so() {
    let runtime = minilm();
    let mut request = EncodeRequest::new(
        RequestId(1),
        Task::Embed,
        vec![EncoderText::Text("word ".repeat(300)), EncoderText::Text("word ".repeat(254))],
    );
    let error = runtime.encode(&request).unwrap_err().to_string();
    assert_eq!(error, "input[0] has 302 tokens, but the model reads 256: with truncate it is cut");
    request.truncate = true;
    let encoding = runtime.encode(&request).unwrap();
    assert_eq!(
        encoding.warnings(),
        ["input[0] has 302 tokens, but the model reads 256: it was cut"]
    );
    let encoded = encoding.wait().unwrap();
    assert_eq!(encoded.n_tokens, 512);
    // What is left is the same text.
    assert!(encoded.rows[0].iter().zip(&encoded.rows[1]).all(|(a, b)| (a - b).abs() < 1e-5));
    let asked = GenerateRequest::new(RequestId(2), Prompt::Text("hello".to_owned()));
    let error = runtime.generate(asked).unwrap_err().to_string();
    assert!(error.contains("an encoder"), "{error}");
}

/// An IEEE half as f32; there are no infinities here.
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u16::from_le_bytes(bytes);
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}
