//! Recipes against llama.cpp's choices, and written files against what was meant.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use super::*;
use crate::gguf::Array;
use crate::gguf::write::{GgufStream, GgufWriter, TensorEntry};
use crate::open;

fn small() -> DecoderSpec {
    let spec = shape("llama-1b").unwrap();
    DecoderSpec {
        n_layers: 1,
        sliding_window: vec![None],
        hidden_size: 8,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        intermediate_size: 16,
        rope: RopeSpec {
            n_dims: 4,
            scaling: RopeScaling::PerDimension(vec![1.0, 32.0]),
            ..spec.rope
        },
        attn_scale: 0.5,
        ..spec
    }
}

fn tokenizer(folder: &Path) -> PathBuf {
    let path = folder.join("tokenizer.gguf");
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let mut file = GgufWriter::new();
    file.set("general.name", Value::String("other".to_owned()))
        .set("tokenizer.ggml.model", Value::String("gpt2".to_owned()))
        .set("tokenizer.ggml.pre", Value::String("smollm".to_owned()))
        .set("tokenizer.ggml.tokens", Value::Array(Array::String(words(&["a", "b", "ab"]))))
        .set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1, 1, 1])))
        .set("tokenizer.ggml.merges", Value::Array(Array::String(words(&["a b"]))))
        .set("tokenizer.ggml.eos_token_id", Value::U32(1))
        .set("tokenizer.chat_template", Value::String("{{ bos_token }}".to_owned()));
    std::fs::write(&path, file.to_bytes()).unwrap();
    path
}

/// Writes an export of f32 tensors without offsets as it stands.
fn write(export: &Export, path: &Path) {
    let entry = |t: &ExportTensor| TensorEntry {
        name: t.name.clone(),
        shape: t.shape.clone(),
        dtype: t.dtype,
    };
    let entries: Vec<TensorEntry> = export.tensors().iter().map(entry).collect();
    let metadata = export.metadata(Recipe::named("F32").unwrap());
    let mut stream = GgufStream::begin(Vec::new(), &metadata, &entries).unwrap();
    for tensor in export.tensors() {
        for piece in export.tensor(tensor).unwrap().pieces(5) {
            stream.write(&piece.data).unwrap();
        }
    }
    std::fs::write(path, stream.finish().unwrap()).unwrap();
}

#[track_caller]
fn check(recipe: &str, spec: &DecoderSpec, role: TensorRole, expect: TensorType) {
    let shape = crate::roles::tensor_shape(spec, role).unwrap();
    let found = Recipe::named(recipe).unwrap().assign(spec, role, &shape, None);
    assert_eq!(found.dtype, expect, "{recipe}: {role:?}");
}

#[test]
fn q4_k_m_mixes_as_llama_cpp_does() {
    let spec = shape("llama-1b").unwrap();
    for layer in 0..16 {
        let more = [0, 1, 4, 7, 10, 13, 14, 15].contains(&layer);
        let mixed = if more { TensorType::Q6_K } else { TensorType::Q4_K };
        check("q4_k_m", &spec, TensorRole::Layer(layer, LayerTensor::AttnV), mixed);
        check("q4_k_m", &spec, TensorRole::Layer(layer, LayerTensor::FfnDown), mixed);
        for tensor in [LayerTensor::AttnQ, LayerTensor::AttnOutput, LayerTensor::FfnUp] {
            check("q4_k_m", &spec, TensorRole::Layer(layer, tensor), TensorType::Q4_K);
        }
        check("q4_k_m", &spec, TensorRole::Layer(layer, LayerTensor::FfnNorm), TensorType::F32);
    }
    check("q4_k_m", &spec, TensorRole::TokenEmbedding, TensorType::Q6_K);
    let apart = DecoderSpec { tied_head: false, ..spec };
    check("q4_k_m", &apart, TensorRole::TokenEmbedding, TensorType::Q4_K);
    check("q4_k_m", &apart, TensorRole::OutputHead, TensorType::Q6_K);
    let large = DecoderSpec { n_layers: 80, sliding_window: vec![None; 80], ..apart };
    check("q4_k_m", &large, TensorRole::Layer(10, LayerTensor::AttnV), TensorType::Q5_K);
    check("q4_k_m", &large, TensorRole::Layer(10, LayerTensor::FfnDown), TensorType::Q4_K);
}

#[test]
fn rows_that_are_no_whole_blocks_fall_back_as_in_llama_cpp() {
    let spec = DecoderSpec { hidden_size: 576, ..shape("llama-1b").unwrap() };
    let q = TensorRole::Layer(3, LayerTensor::AttnQ);
    check("q4_k", &spec, q, TensorType::Q5_0);
    check("q5_k", &spec, q, TensorType::Q5_1);
    check("q6_k", &spec, q, TensorType::Q8_0);
    check("q4_0", &spec, q, TensorType::Q4_0);
    check("q4_0", &spec, TensorRole::TokenEmbedding, TensorType::Q8_0);
    check("f16", &spec, TensorRole::TokenEmbedding, TensorType::F16);
    check("q4_k", &small(), q_of_small(), TensorType::F16);
    let shape = [100, 2048];
    let recipe = Recipe::named("q4_0").unwrap();
    let output = Some(TensorType::Q8_0);
    let found = recipe.assign(&spec, TensorRole::TokenEmbedding, &shape, output);
    assert_eq!(found, Assigned { dtype: TensorType::Q8_0, is_fallback: false });
}

fn q_of_small() -> TensorRole {
    TensorRole::Layer(0, LayerTensor::AttnQ)
}

#[test]
fn random_weights_become_a_file_that_opens_as_the_same_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let export = Export::random("tiny", small(), 7, &tokenizer(folder.path())).unwrap();
    let path = folder.path().join("tiny.gguf");
    write(&export, &path);
    export.check_written(&path).unwrap();
    let model = open(&path, WeightsFrom::File).unwrap();
    assert_eq!(model.name, "tiny");
    assert_eq!(model.spec.vocab_size, 3);
    assert_eq!(model.spec.rope.layout, RopeLayout::Interleaved);
    assert_eq!(model.spec.rope.scaling, RopeScaling::PerDimension(vec![1.0, 32.0]));
    assert_eq!(model.chat_template.as_deref(), Some("{{ bos_token }}"));
    assert_eq!(model.eos, [1]);
    for tensor in export.tensors() {
        let [role] = *tensor.roles else { continue };
        assert_eq!(model.tensor(role).unwrap(), export.tensor(tensor).unwrap(), "{}", tensor.name);
    }
    let drawn = random_tensor(q_of_small(), vec![8, 8], 7, 0.0);
    let stored = model.tensor(q_of_small()).unwrap();
    // Row 1 of a head is the first of its second half, which was row 2 of 4.
    assert_eq!(stored.data[32..64], drawn.data[64..96]);
    assert_eq!(stored.data[..32], drawn.data[..32]);
}

#[test]
fn a_gguf_source_keeps_its_metadata_and_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    write(&Export::random("a", small(), 7, &tokenizer(folder.path())).unwrap(), &path);
    let export = Export::of(open(&path, WeightsFrom::File).unwrap(), None).unwrap();
    let files = gguf_files(&path).unwrap();
    let (before, infos) = files.reread().unwrap();
    let after = export.metadata(Recipe::named("q8_0").unwrap());
    assert_eq!(after.u32("general.file_type").unwrap(), Some(7));
    assert_eq!(after.u32("general.quantization_version").unwrap(), Some(2));
    for (key, value) in before.iter().filter(|(key, _)| *key != "general.file_type") {
        assert_eq!(after.get(key), Some(value), "{key}");
    }
    assert_eq!(after.iter().count(), before.iter().count());
    let names = |t: &ExportTensor| t.name.clone();
    let names: Vec<_> = export.tensors().iter().map(names).collect();
    assert_eq!(names, infos.iter().map(|info| info.name.clone()).collect::<Vec<_>>());
    let again = folder.path().join("b.gguf");
    write(&export, &again);
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
}

#[test]
fn a_file_that_says_another_decoder_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(folder.path());
    let path = folder.path().join("a.gguf");
    write(&Export::random("a", small(), 7, &tokenizer).unwrap(), &path);
    let other = DecoderSpec { attn_scale: 0.25, ..small() };
    let export = Export::random("b", other, 7, &tokenizer).unwrap();
    let message = export.check_written(&path).unwrap_err().to_string();
    assert!(message.contains("attn_scale: 0.25"), "{message}");
}

#[test]
fn a_tokenizer_file_without_tokens_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.gguf");
    std::fs::write(&path, GgufWriter::new().to_bytes()).unwrap();
    let message = Export::random("a", small(), 7, &path).unwrap_err().to_string();
    assert!(message.contains("none.gguf: tokenizer.ggml.tokens is missing"), "{message}");
}
