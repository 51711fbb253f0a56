//! `lastmile quantize`: what is written answers as its source does, and nothing is overwritten unasked.

use std::path::{Path, PathBuf};

use lastmile::{ModelSource, RuntimeConfig};
use serde_json::{Value, json};

use crate::program::Home;

const TEXT: &str = include_str!("../golden/gpl-3.0.txt");
const CTX: usize = 32;
const VOCAB: usize = 260;

/// GPT-2's letter for each byte: printable ones stand for themselves, the others follow from U+0100.
fn byte_letters() -> Vec<String> {
    let is_printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let letter = |byte| if is_printable(byte) { byte } else { others.next().unwrap() };
    (0..256).map(letter).map(|point| char::from_u32(point).unwrap().to_string()).collect()
}

/// Byte-level BPE as SmolLM2 has it: 256 bytes, two merges, an end token, and one row without a token.
fn tokenizer_json() -> Value {
    let mut vocab = serde_json::Map::new();
    let merged = ["th".to_owned(), "the".to_owned()];
    for (id, text) in byte_letters().into_iter().chain(merged).enumerate() {
        vocab.insert(text, json!(id));
    }
    let end = json!({"id": 258, "content": "<|im_end|>", "special": true, "single_word": false,
                     "lstrip": false, "rstrip": false, "normalized": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end],
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
        ]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "byte_fallback": false, "vocab": vocab, "merges": ["t h", "th e"]}
    })
}

/// Config and tensors of a small decoder as Hugging Face writes them.
fn decoder(gemma: bool) -> (Value, Vec<(String, Vec<usize>)>) {
    let config = json!({
        "model_type": if gemma { "gemma3_text" } else { "llama" },
        "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": VOCAB,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "eos_token_id": 258, "query_pre_attn_scalar": 16, "sliding_window": if gemma { json!(8) } else { Value::Null },
        "sliding_window_pattern": 2,
    });
    let mut tensors = vec![("embed_tokens".to_owned(), vec![VOCAB, 64]), ("norm".into(), vec![64])];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm", &[64]);
        add("post_attention_layernorm", &[64]);
        add("self_attn.q_proj", &[64, 64]);
        add("self_attn.k_proj", &[32, 64]);
        add("self_attn.v_proj", &[32, 64]);
        add("self_attn.o_proj", &[64, 64]);
        add("mlp.gate_proj", &[96, 64]);
        add("mlp.up_proj", &[96, 64]);
        add("mlp.down_proj", &[64, 96]);
        if gemma {
            add("self_attn.q_norm", &[16]);
            add("self_attn.k_norm", &[16]);
            add("pre_feedforward_layernorm", &[64]);
            add("post_feedforward_layernorm", &[64]);
        }
    }
    (config, tensors)
}

/// A folder of safetensors in BF16, with weights large enough that attention looks somewhere.
fn folder(home: &Home, gemma: bool) -> PathBuf {
    let (config, tensors) = decoder(gemma);
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut state = 1_u32;
    for (name, shape) in tensors {
        let begin = data.len();
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let unit = f64::from(state) / f64::from(u32::MAX) - 0.5;
            let centre = if shape.len() == 1 && !gemma { 1.0 } else { 0.0 };
            let value = (centre + unit) as f32;
            data.extend(&value.to_le_bytes()[2..]);
        }
        let offsets = [begin, data.len()];
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": offsets});
        header.insert(format!("model.{name}.weight"), entry);
    }
    let header = Value::Object(header).to_string().into_bytes();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    home.write("source/config.json", config.to_string());
    home.write("source/tokenizer.json", tokenizer_json().to_string());
    home.write("source/model.safetensors", bytes);
    home.path().join("source")
}

fn perplexity(path: &Path) -> f64 {
    let mut config = RuntimeConfig::new(ModelSource::path(path));
    config.device = "candle".to_owned();
    lastmile::perplexity(&config, TEXT, CTX, Some(3), |_, _, _| ()).unwrap().perplexity
}

fn quantize(home: &Home, source: &Path, to: &str, more: &[&str]) -> (PathBuf, crate::program::Ran) {
    let out = home.path().join(format!("{to}.gguf"));
    let mut args = vec!["quantize", source.to_str().unwrap(), "--type", to, "--json", "-o"];
    args.push(out.to_str().unwrap());
    args.extend(more);
    let ran = home.run(args);
    (out, ran)
}

#[track_caller]
fn check_same_answers(gemma: bool) {
    let home = Home::new();
    let source = folder(&home, gemma);
    let before = perplexity(&source);
    for (to, limit) in [("f32", 1e-5), ("bf16", 1e-5), ("q8_0", 0.02), ("q4_1", 0.5)] {
        let (out, ran) = quantize(&home, &source, to, &[]);
        ran.json();
        let off = perplexity(&out) / before - 1.0;
        assert!(off.abs() < limit, "{to}: perplexity {before} is off by {off}");
    }
}

#[test]
fn the_executor_is_measured_beside_the_rates_of_its_storage_types() {
    let home = Home::new();
    let (model, ran) = quantize(&home, &folder(&home, false), "q4_1", &["--output-type", "q8_0"]);
    ran.json();
    let args = ["bench", "engine", model.to_str().unwrap(), "--device", "cpu", "--json"];
    let sizes = ["--prompt-tokens", "20", "--context", "8", "--steps", "2", "--repeat", "1"];
    let found = home.run([&args[..], &sizes].concat()).json();
    let rates = found["machine"]["gmac_per_s"].as_object().unwrap();
    assert_eq!(rates.keys().collect::<Vec<_>>(), ["Q4_1", "Q8_0"]);
    for case in found["cases"].as_array().unwrap() {
        let fraction = case["roofline"]["fraction"].as_f64().unwrap();
        assert!(fraction > 0.0 && fraction.is_finite(), "{case}");
    }
}

#[test]
fn a_llama_of_safetensors_answers_the_same_as_gguf() {
    check_same_answers(false);
}

#[test]
fn a_gemma_of_safetensors_answers_the_same_as_gguf() {
    check_same_answers(true);
}

#[test]
fn the_report_counts_types_bits_and_fallbacks() {
    let home = Home::new();
    let source = folder(&home, false);
    let (out, ran) = quantize(&home, &source, "q4_k_m", &[]);
    let report = ran.json();
    // 64 and 96 are no multiples of 256: Q4_K becomes Q5_0, Q6_K becomes Q8_0.
    assert_eq!(report["tensors_by_type"], json!({"F32": 5, "Q5_0": 12, "Q8_0": 3}));
    assert_eq!(report["fallback_tensors"], 15);
    assert_eq!(report["requantized_tensors"], 0);
    assert_eq!(report["before"]["tensors_by_type"], json!({"BF16": 20}));
    assert_eq!(report["before"]["bits_per_weight"], 16.0);
    let bits = report["bits_per_weight"].as_f64().unwrap();
    assert!(bits > 5.5 && bits < 8.5, "{bits}");
    assert_eq!(report["size_bytes"], std::fs::metadata(&out).unwrap().len());
    let inspected = home.run(["inspect".as_ref(), out.as_os_str(), "--json".as_ref()]).json();
    assert_eq!(inspected["tensors_by_type"], report["tensors_by_type"]);
    let (_, again) = quantize(&home, &out, "q4_0", &["--output-type", "q5_1"]);
    let again = again.json();
    assert_eq!(again["requantized_tensors"], 15);
    assert_eq!(again["tensors_by_type"], json!({"F32": 5, "Q4_0": 14, "Q5_1": 1}));
}

#[test]
fn random_weights_take_a_shape_and_a_tokenizer() {
    let home = Home::new();
    let source = folder(&home, false);
    let (tokenizer, ran) = quantize(&home, &source, "q8_0", &[]);
    ran.json();
    let (shape, out) = (source.join("config.json"), home.path().join("random.gguf"));
    let args = ["quantize", "random:1", "--type", "q5_0", "--json", "--shape"].map(str::to_owned);
    let mut args = args.to_vec();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    args.extend([path(&shape), "--tokenizer-from".to_owned(), path(&tokenizer)]);
    args.extend(["-o".to_owned(), path(&out)]);
    let report = home.run(&args).json();
    assert_eq!(report["tensors_by_type"], json!({"F32": 5, "Q5_0": 14, "Q8_0": 1}));
    // Weights that know nothing are surprised by every token; only by repeated ones a little less.
    let found = perplexity(&out) / VOCAB as f64;
    assert!((0.5..1.5).contains(&found), "{found} of the vocabulary");
}

#[test]
fn wrong_use_is_refused_and_nothing_is_written() {
    let home = Home::new();
    let source = folder(&home, false);
    let source = source.to_str().unwrap();
    let out = home.path().join("out.gguf");
    let out = out.to_str().unwrap();
    let check = |args: &[&str], status: i32, parts: &[&str]| {
        home.run([&["quantize"], args].concat()).refused(status, parts);
        let left = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("out")).collect();
        assert!(left.is_empty(), "{left:?}");
    };
    check(&[source, "--type", "q3", "-o", out], 2, &["--type", "q3", "q4_k_m"]);
    let mixed = ["--output-type", "q4_k_m"];
    check(&[&[source, "--type", "q4_0", "-o", out], &mixed[..]].concat(), 2, &["--output-type"]);
    check(&["placeholder", "--type", "q4_0", "-o", out], 2, &["placeholder"]);
    check(&["random:one", "--type", "q4_0", "-o", out], 2, &["random:one"]);
    check(&["random:1", "--type", "q4_0", "-o", out], 2, &["--shape", "llama-1b"]);
    let shape = ["--shape", "llama-1b"];
    check(
        &[&["random:1", "--type", "f16", "-o", out], &shape[..]].concat(),
        2,
        &["--tokenizer-from"],
    );
    check(&[&[source, "--type", "f16", "-o", out], &shape[..]].concat(), 2, &["--shape"]);
    check(&["./absent.gguf", "--type", "f16", "-o", out], 3, &["absent.gguf"]);
    home.write("source/tokenizer.json", json!({"model": {"type": "BPE"}}).to_string());
    check(&[source, "--type", "f16", "-o", out], 3, &["tokenizer.json"]);
}

#[test]
fn a_tokenizer_that_gguf_cannot_say_is_refused_and_can_be_replaced() {
    let home = Home::new();
    let source = folder(&home, false);
    let (whole, ran) = quantize(&home, &source, "f32", &[]);
    ran.json();
    let mut file = tokenizer_json();
    file["normalizer"] = json!({"type": "Lowercase"});
    home.write("source/tokenizer.json", file.to_string());
    let (out, ran) = quantize(&home, &source, "f16", &[]);
    ran.refused(3, &["tokenizer.json", "normalizer", "Lowercase", "byte-level BPE"]);
    // Words are not cut at all, and a merge goes across what every rule cuts.
    let mut file = tokenizer_json();
    file["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = json!(false);
    file["model"]["vocab"]["e\u{120}"] = json!(259);
    file["model"]["merges"] = json!(["t h", "th e", "e \u{120}"]);
    home.write("source/tokenizer.json", file.to_string());
    let (_, ran) = quantize(&home, &source, "f16", &[]);
    ran.refused(3, &["tokenizer.json", "the rule that cuts words", "smollm"]);
    assert!(!out.exists());
    let (_, ran) = quantize(&home, &source, "f16", &["--tokenizer-from", whole.to_str().unwrap()]);
    ran.json();
    let off = perplexity(&out) / perplexity(&whole) - 1.0;
    assert!(off.abs() < 0.01, "{off}");
}

#[test]
fn files_that_exist_are_kept_unless_forced_and_the_source_always() {
    let home = Home::new();
    let source = folder(&home, false);
    let (out, ran) = quantize(&home, &source, "f16", &[]);
    ran.json();
    let written = std::fs::read(&out).unwrap();
    quantize(&home, &source, "f16", &[]).1.refused(2, &["f16.gguf exists", "--force"]);
    assert_eq!(std::fs::read(&out).unwrap(), written);
    quantize(&home, &out, "f16", &["--force"]).1.refused(2, &["f16.gguf is the model itself"]);
    assert_eq!(std::fs::read(&out).unwrap(), written);
    quantize(&home, &source, "f16", &["--force"]).1.json();
    assert_eq!(std::fs::read(&out).unwrap(), written);
    let other = home.path().join("other.gguf");
    let args = ["quantize".as_ref(), out.as_os_str(), "--type".as_ref(), "q8_0".as_ref()];
    let more = ["-o".as_ref(), other.as_os_str(), "--tokenizer-from".as_ref(), out.as_os_str()];
    home.run([args, more].concat()).refused(2, &["tokenizer", "safetensors"]);
}
