//! `lastmile tokenize`: a text as tokens, by a vocabulary that needs no weights.

use lm_models::gguf::write::GgufWriter;
use lm_models::gguf::{Array, Value};
use serde_json::json;

use crate::program::Home;

/// A GGUF file with a vocabulary and nothing else.
fn vocabulary(pre: &str) -> Vec<u8> {
    let text = |text: &str| Value::String(text.to_owned());
    let words = |words: &[&str]| {
        Value::Array(Array::String(words.iter().map(|&word| word.to_owned()).collect()))
    };
    let mut file = GgufWriter::new();
    file.set("general.architecture", text("a family that nobody knows"))
        .set("tokenizer.ggml.model", text("gpt2"))
        .set("tokenizer.ggml.pre", text(pre))
        .set("tokenizer.ggml.tokens", words(&["a", "b", "ab", "Ġ", "<", "|", ">", "<|x|>", "x"]))
        .set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1, 1, 1, 1, 1, 1, 1, 3, 1])))
        .set("tokenizer.ggml.merges", words(&["a b"]))
        .set("tokenizer.ggml.bos_token_id", Value::U32(7))
        .set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    file.to_bytes()
}

#[test]
fn a_vocabulary_without_weights_is_enough() {
    let home = Home::new();
    let path = home.write("vocab.gguf", vocabulary("qwen2"));
    let path = path.to_str().unwrap();
    let found = home.run(["tokenize", path, "ab <|x|>z", "--json"]).json();
    let expect = json!({
        "count": 8, "tokens": [7, 2, 3, 4, 5, 8, 5, 6], "unspelled_bytes": 1,
        "pieces": ["<|x|>", "ab", " ", "<", "|", "x", "|", ">"],
    });
    assert_eq!(found, expect);
    let asked = home.run(["tokenize", path, "<|x|>", "--json", "--parse-special", "--no-special"]);
    assert_eq!(asked.json()["tokens"], json!([7]));
    let lines = home.run(["tokenize", path, "ab a", "--no-special"]);
    assert_eq!(lines.stdout, "      2  \"ab\"\n      3  \" \"\n      0  \"a\"\n");
}

#[test]
fn what_cannot_be_tokenised_is_named() {
    let home = Home::new();
    let path = home.write("vocab.gguf", vocabulary("klingon"));
    home.run(["tokenize", path.to_str().unwrap(), "a"]).refused(3, &["klingon", "llama-bpe"]);
    home.run(["tokenize", "./absent.gguf", "a"]).refused(3, &["absent.gguf"]);
    let found = home.run(["tokenize", "placeholder", "hello world", "--json"]).json();
    assert_eq!(found["count"], json!(found["tokens"].as_array().unwrap().len()));
}
