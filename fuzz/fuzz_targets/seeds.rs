//! Writes the first inputs of both targets into a folder: small models with random weights, and rows.

use std::path::{Path, PathBuf};

use lm_kernels::{StoredType, WeightType};
use lm_models::gguf::write::{GgufStream, GgufWriter, TensorEntry};
use lm_models::gguf::{Array, Value};
use lm_models::{Export, Recipe};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: seeds FOLDER")?;
    let (models, rows) = (folder.join("gguf"), folder.join("quant_rows"));
    std::fs::create_dir_all(&models)?;
    std::fs::create_dir_all(&rows)?;
    for (family, tokenizer) in [("llama", "gpt2"), ("gemma3_text", "llama")] {
        std::fs::write(models.join(family), model(family, tokenizer, &models)?)?;
    }
    std::fs::write(models.join("values"), values().to_bytes())?;
    let kept = WeightType::ALL.map(StoredType::Same);
    for (i, stored) in [&kept[..], &StoredType::REPACKED].concat().into_iter().enumerate() {
        let n_blocks = if stored.block_len() > 1 { 1 } else { 16 };
        let n_bytes = 2 * 3 * stored.block_bytes() * n_blocks;
        let bytes = (0..n_bytes).map(|i| (i * 37 % 251) as u8 & 0xbb);
        let head = [i as u8, 1];
        std::fs::write(
            rows.join(format!("{stored:?}")),
            head.into_iter().chain(bytes).collect::<Vec<u8>>(),
        )?;
    }
    Ok(())
}

fn strings(words: &[&str]) -> Value {
    Value::Array(Array::String(words.iter().map(|&word| word.to_owned()).collect()))
}

/// A file of one small model.
fn model(
    family: &str,
    tokenizer: &str,
    folder: &Path,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let config = json!({
        "model_type": family, "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2,
        "head_dim": 4, "num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 12,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "query_pre_attn_scalar": 4, "sliding_window": 8, "sliding_window_pattern": 2,
    });
    let mut source = GgufWriter::new();
    let tokens = [
        "a",
        "b",
        "ab",
        "T",
        "h",
        "e",
        "\u{120}",
        "\u{2581}",
        "<0x0A>",
        "<|im_end|>",
        "Th",
        "<unk>",
    ];
    source
        .set("tokenizer.ggml.model", Value::String(tokenizer.to_owned()))
        .set("tokenizer.ggml.tokens", strings(&tokens))
        .set(
            "tokenizer.ggml.token_type",
            Value::Array(Array::I32(vec![1, 1, 1, 1, 1, 1, 1, 1, 6, 3, 1, 2])),
        )
        .set("tokenizer.ggml.unknown_token_id", Value::U32(11))
        .set("tokenizer.ggml.eos_token_id", Value::U32(9))
        .set("tokenizer.chat_template", Value::String("{{ bos_token }}".to_owned()));
    if tokenizer == "gpt2" {
        source
            .set("tokenizer.ggml.pre", Value::String("smollm".to_owned()))
            .set("tokenizer.ggml.merges", strings(&["a b", "T h"]));
    } else {
        let scores = (0..tokens.len()).map(|i| -(i as f32)).collect();
        source.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    }
    let [config_path, tokenizer_path] = ["config", "tokenizer"].map(|name| folder.join(name));
    std::fs::write(&config_path, config.to_string())?;
    std::fs::write(&tokenizer_path, source.to_bytes())?;
    let spec = lm_models::shape(config_path.to_str().ok_or("the folder's name is not text")?)?;
    let export = Export::random(family, spec, 1, &tokenizer_path)?;
    std::fs::remove_file(config_path)?;
    std::fs::remove_file(tokenizer_path)?;
    let entries: Vec<TensorEntry> = export
        .tensors()
        .iter()
        .map(|t| TensorEntry { name: t.name.clone(), shape: t.shape.clone(), dtype: t.dtype })
        .collect();
    let metadata = export.metadata(Recipe::named("f32").ok_or("there is f32")?);
    let mut stream = GgufStream::begin(Vec::new(), &metadata, &entries)?;
    for tensor in export.tensors() {
        stream.write(&export.tensor(tensor)?.data)?;
    }
    Ok(stream.finish()?)
}

/// A file with a value of each kind, and no model.
fn values() -> GgufWriter<'static> {
    let mut file = GgufWriter::new();
    file.set("a", Value::U8(1))
        .set("b", Value::I64(-2))
        .set("c", Value::F64(0.5))
        .set("d", Value::Bool(true))
        .set("e", Value::Array(Array::U16(vec![3, 4])))
        .set("f", Value::Array(Array::Bool(vec![true, false])))
        .set("general.alignment", Value::U32(64))
        .tensor_f32("t", &[2, 3], &[1.0; 6]);
    file
}
