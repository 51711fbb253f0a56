//! Opening models as an executor would: tiny files of every family, right and wrong.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lm_models::gguf::write::GgufWriter;
use lm_models::gguf::{Array, Value};
use lm_models::{
    Activation, LayerTensor, Model, NormPlacement, RopeLayout, RopeScaling, Summary, TensorRole,
    TensorType, TokenizerSource, WeightsFrom, open, tensor_shapes,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const VOCAB: usize = 4;

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// Metadata of a decoder with 2 heads of 4, 1 KV head, width 8, and a vocabulary of 4.
fn metadata(architecture: &str, n_layers: u32) -> BTreeMap<String, Value> {
    let tokens = ["<unk>", "a", "<|im_end|>", "<s>"].map(str::to_owned).to_vec();
    let general = [
        ("general.architecture", text(architecture)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![2, 1, 3, 3]))),
        ("tokenizer.ggml.bos_token_id", Value::U32(3)),
        ("tokenizer.ggml.eos_token_id", Value::U32(0)),
        ("tokenizer.chat_template", text("{{ messages }}")),
        ("general.sampling.temp", Value::F32(0.5)),
    ];
    let own = [
        ("block_count", Value::U32(n_layers)),
        ("context_length", Value::U32(64)),
        ("embedding_length", Value::U32(8)),
        ("feed_forward_length", Value::U32(6)),
        ("attention.head_count", Value::U32(2)),
        ("attention.head_count_kv", Value::U32(1)),
        ("attention.key_length", Value::U32(4)),
        ("attention.sliding_window", Value::U32(if architecture == "gemma3" { 3 } else { 0 })),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let general = general.into_iter().map(|(key, value)| (key.to_owned(), value));
    let own = own.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value));
    general.chain(own).collect()
}

fn tensors(n_layers: u32, gemma: bool) -> BTreeMap<String, Vec<usize>> {
    let mut layer = vec![
        ("attn_norm.weight", vec![8]),
        ("attn_q.weight", vec![8, 8]),
        ("attn_k.weight", vec![4, 8]),
        ("attn_v.weight", vec![4, 8]),
        ("attn_output.weight", vec![8, 8]),
        ("ffn_norm.weight", vec![8]),
        ("ffn_gate.weight", vec![6, 8]),
        ("ffn_up.weight", vec![6, 8]),
        ("ffn_down.weight", vec![8, 6]),
    ];
    if gemma {
        layer.push(("attn_q_norm.weight", vec![4]));
        layer.push(("attn_k_norm.weight", vec![4]));
        layer.push(("post_attention_norm.weight", vec![8]));
        layer.push(("post_ffw_norm.weight", vec![8]));
    }
    let mut all = BTreeMap::from([
        ("token_embd.weight".to_owned(), vec![VOCAB, 8]),
        ("output_norm.weight".to_owned(), vec![8]),
    ]);
    for layer_idx in 0..n_layers {
        let named = layer.iter().map(|(name, shape)| (format!("blk.{layer_idx}.{name}"), shape));
        all.extend(named.map(|(name, shape)| (name, shape.clone())));
    }
    all
}

struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Vec<usize>>,
}

impl Gguf {
    fn llama() -> Gguf {
        Gguf { metadata: metadata("llama", 2), tensors: tensors(2, false) }
    }

    fn gemma() -> Gguf {
        Gguf { metadata: metadata("gemma3", 7), tensors: tensors(7, true) }
    }

    fn set(mut self, key: &str, value: Value) -> Gguf {
        self.metadata.insert(key.to_owned(), value);
        self
    }

    fn tensor(mut self, name: &str, shape: &[usize]) -> Gguf {
        self.tensors.insert(name.to_owned(), shape.to_vec());
        self
    }

    fn without(mut self, name: &str) -> Gguf {
        let gone = self.metadata.remove(name).is_some() || self.tensors.remove(name).is_some();
        assert!(gone, "there is no {name}");
        self
    }

    fn write(&self, path: &Path) {
        let mut file = GgufWriter::new();
        for (key, value) in &self.metadata {
            file.set(key, value.clone());
        }
        for (name, shape) in &self.tensors {
            let n_elements: usize = shape.iter().product();
            file.tensor_f32(name, shape, &vec![2.0; n_elements]);
        }
        std::fs::write(path, file.to_bytes()).unwrap();
    }

    fn open(&self) -> Result<Model, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        self.write(&path);
        open(&path, WeightsFrom::File).map_err(|error| error.to_string())
    }
}

#[track_caller]
fn check_error(result: Result<Model, String>, expect: &str) {
    let message = result.map(|model| model.spec).unwrap_err();
    assert!(message.contains(expect), "got: {message}\nwanted: {expect}");
}

#[test]
fn llama_gguf_gives_its_facts_and_its_tensors() {
    let model = Gguf::llama().open().unwrap();
    let spec = &model.spec;
    assert_eq!((spec.family, spec.n_layers, spec.hidden_size), ("llama", 2, 8));
    assert_eq!((spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.vocab_size), (2, 1, 4, VOCAB));
    assert_eq!(spec.rope.layout, RopeLayout::Interleaved);
    assert_eq!(spec.rope.theta, 10_000.0);
    assert_eq!(spec.attn_scale, 0.5);
    assert_eq!(spec.sliding_window, [None, None]);
    assert!(spec.tied_head && !spec.qkv_bias);
    assert_eq!((model.bos, model.eos.as_slice()), (Some(3), [0, 2].as_slice()));
    assert_eq!(model.eos_token, Some(0));
    assert_eq!(model.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(model.default_sampling.unwrap().temperature, Some(0.5));
    let TokenizerSource::Gguf(vocab) = &model.tokenizer else { panic!("{:?}", model.tokenizer) };
    assert_eq!((vocab.tokens.len(), vocab.token_types.as_slice()), (4, [2, 1, 3, 3].as_slice()));
    for (role, shape) in tensor_shapes(spec) {
        let tensor = model.tensor(role).unwrap();
        assert_eq!((tensor.shape, tensor.dtype), (shape, TensorType::F32));
        assert_eq!(tensor.data[..4], 2.0_f32.to_le_bytes());
    }
    let message = model.tensor(TensorRole::OutputHead).unwrap_err().to_string();
    assert_eq!(message, "a llama model has no tensor output.weight");
    assert!(model.tensor(TensorRole::Layer(2, LayerTensor::AttnQ)).is_err());
    assert!(model.tensor(TensorRole::Layer(0, LayerTensor::AttnQNorm)).is_err());
}

#[test]
fn llama_gguf_variants_are_read() {
    let open = |gguf: Gguf| gguf.open().unwrap().spec;
    assert!(!open(Gguf::llama().tensor("output.weight", &[VOCAB, 8])).tied_head);
    let mut biased = Gguf::llama();
    for layer_idx in 0..2 {
        for (name, n) in [("q", 8), ("k", 4), ("v", 4)] {
            biased = biased.tensor(&format!("blk.{layer_idx}.attn_{name}.bias"), &[n]);
        }
    }
    assert!(open(biased).qkv_bias);
    let scaled = open(Gguf::llama().tensor("rope_freqs.weight", &[2]));
    assert_eq!(scaled.rope.scaling, RopeScaling::PerDimension(vec![2.0, 2.0]));
    let linear = Gguf::llama()
        .set("llama.rope.scaling.type", text("linear"))
        .set("llama.rope.scaling.factor", Value::F32(8.0));
    assert_eq!(open(linear).rope.scaling, RopeScaling::Linear(8.0));
    let window = open(Gguf::llama().set("llama.attention.sliding_window", Value::U32(5)));
    assert_eq!(window.sliding_window, [Some(5), Some(5)]);
}

#[test]
fn tokens_around_a_gap_are_read_by_both_of_their_names() {
    let named = Gguf::llama()
        .set("tokenizer.ggml.fim_pre_token_id", Value::U32(1))
        .set("tokenizer.ggml.prefix_token_id", Value::U32(0))
        .set("tokenizer.ggml.suffix_token_id", Value::U32(2))
        .set("tokenizer.ggml.middle_token_id", Value::U32(3))
        .set("tokenizer.ggml.fim_pad_token_id", Value::U32(0));
    let model = named.open().unwrap();
    let TokenizerSource::Gguf(vocab) = &model.tokenizer else { panic!("{:?}", model.tokenizer) };
    assert_eq!((vocab.fim_pre, vocab.fim_suf, vocab.fim_mid), (Some(1), Some(2), Some(3)));
    assert_eq!(vocab.fim_ends, [0]);
    let outside = Gguf::llama().set("tokenizer.ggml.fim_mid_token_id", Value::U32(4));
    check_error(outside.open(), "fim_mid_token_id is 4, but must be below 4");
}

#[test]
fn gemma3_gguf_gives_its_facts() {
    let spec = Gguf::gemma().open().unwrap().spec;
    assert_eq!(spec.norm_placement, NormPlacement::PreAndPost);
    assert_eq!(spec.activation, Activation::GeluTanh);
    assert!(spec.qk_norm == lm_models::QkNorm::PerHead && spec.tied_head);
    let local = Some(3);
    assert_eq!(spec.sliding_window, [local, local, local, local, local, None, local]);
    assert_eq!((spec.rope.theta, spec.rope.theta_sliding), (1e6, Some(1e4)));
    assert_eq!(spec.rope.layout, RopeLayout::Halves);
    assert_eq!(spec.embedding_scale, 8.0_f32.sqrt());
    assert_eq!(spec.norm.weight_offset, 0.0);
}

#[test]
fn what_is_wrong_or_unsupported_is_named() {
    let check = |gguf: Gguf, expect| check_error(gguf.open(), expect);
    let llama = Gguf::llama;
    check(llama().without("general.architecture"), "general.architecture is missing");
    check(
        llama().set("general.architecture", text("rwkv")),
        "rwkv is not supported; supported: ll",
    );
    check(llama().without("llama.block_count"), "llama.block_count is missing");
    check(llama().set("llama.block_count", Value::U32(1 << 30)), "llama.block_count is 1073741824");
    check(llama().set("llama.block_count", Value::U32(0)), "the number of layers is 0");
    check(llama().set("llama.block_count", text("2")), "llama.block_count is of type string");
    check(
        llama().set("llama.expert_count", Value::U32(8)),
        "llama.expert_count U32(8) is not supp",
    );
    check(llama().set("llama.rope.scaling.type", text("yarn")), "yarn is not supported");
    check(
        llama().set("llama.attention.head_count_kv", Value::U32(3)),
        "KV heads is 3, but must be",
    );
    check(
        llama().set("llama.attention.key_length", Value::U32(5)),
        "head dimension is 5, but must",
    );
    check(llama().set("llama.attention.head_count", Value::U32(0)), "the number of heads is 0");
    check(llama().set("llama.rope.freq_base", Value::F32(f32::NAN)), "the base of RoPE is NaN");
    check(llama().set("tokenizer.ggml.eos_token_id", Value::U32(4)), "eos_token_id is 4, but must");
    let hot = llama().set("general.sampling.temp", Value::F32(2.5));
    check(hot, "general.sampling.temp is 2.5, but must be between 0 and 2");
    let penalty = llama().set("general.sampling.penalty_repeat", Value::F32(f32::NAN));
    check(penalty, "general.sampling.penalty_repeat is NaN, but must be above 0 and at most 2");
    check(llama().without("blk.1.ffn_up.weight"), "tensor blk.1.ffn_up.weight is missing");
    check(llama().without("token_embd.weight"), "tensor token_embd.weight is missing");
    let wide = llama().tensor("blk.0.attn_k.weight", &[8, 8]);
    check(wide, "blk.0.attn_k.weight has shape [8, 8], but the metadata asks for [4, 8]");
    let more = llama().tensor("blk.0.attn_output.bias", &[8]);
    check(more, "tensor blk.0.attn_output.bias has no place in a llama model");
    check(llama().tensor("rope_freqs.weight", &[3]), "the number of RoPE factors is 3");
    check(Gguf::gemma().without("gemma3.attention.sliding_window"), "sliding_window is missing");
}

#[test]
fn random_weights_are_the_same_for_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    Gguf::llama().write(&path);
    let weights = |seed| open(&path, WeightsFrom::Random { seed }).unwrap();
    let q = TensorRole::Layer(1, LayerTensor::AttnQ);
    let (first, again, other) = (weights(1), weights(1), weights(2));
    assert_eq!(first.tensor(q).unwrap(), again.tensor(q).unwrap());
    assert_ne!(first.tensor(q).unwrap(), other.tensor(q).unwrap());
    assert_eq!(first.weights_digest(), again.weights_digest());
    assert_ne!(first.weights_digest(), other.weights_digest());
    let norm = first.tensor(TensorRole::OutputNorm).unwrap();
    assert_eq!(*norm.data, *1.0_f32.to_le_bytes().repeat(8));
    let file = open(&path, WeightsFrom::File).unwrap();
    assert_ne!(file.weights_digest(), first.weights_digest());
    assert_eq!(first.size_bytes(), first.n_params() * 4);
}

#[test]
fn a_folder_with_one_gguf_is_that_model_and_with_two_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let open_folder = || open(folder.path(), WeightsFrom::File).map_err(|e| e.to_string());
    check_error(open_folder(), "neither one .gguf file nor a config.json");
    Gguf::llama().write(&folder.path().join("a.gguf"));
    assert_eq!(open_folder().unwrap().name, "a");
    Gguf::llama().write(&folder.path().join("b.gguf"));
    check_error(open_folder(), "several models, name one of them: a.gguf, b.gguf");
    let gone = open(&folder.path().join("c.gguf"), WeightsFrom::File);
    check_error(gone.map_err(|e| e.to_string()), "c.gguf: cannot open the model");
}

#[test]
fn a_summary_counts_tensors_by_type() {
    let model = Gguf::llama().open().unwrap();
    let summary = Summary::of(&model).unwrap();
    assert_eq!(summary.tensor_types.len(), 1);
    assert_eq!(summary.tensor_types[0].n_tensors, 20);
    assert_eq!(summary.n_params, model.n_params());
    assert_eq!(summary.tokenizer, "gguf gpt2");
}

/// A folder of safetensors with two shards; the config's fields can be changed.
struct Folder {
    dir: TempDir,
    config: Json,
    prefix: &'static str,
    gemma: bool,
}

impl Folder {
    fn llama() -> Folder {
        let config = json!({
            "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6,
            "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "tie_word_embeddings": true, "hidden_act": "silu",
            "bos_token_id": 1, "eos_token_id": 2, "rope_scaling": null, "torch_dtype": "bfloat16",
        });
        Folder { dir: tempfile::tempdir().unwrap(), config, prefix: "model.", gemma: false }
    }

    fn gemma() -> Folder {
        let text = json!({
            "num_hidden_layers": 7, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4,
            "num_key_value_heads": 1, "intermediate_size": 6, "vocab_size": VOCAB,
            "query_pre_attn_scalar": 16, "sliding_window": 3, "rope_theta": 1e6,
            "hidden_activation": "gelu_pytorch_tanh",
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        });
        let config = json!({"model_type": "gemma3", "text_config": text, "eos_token_id": [1, 2]});
        let prefix = "language_model.model.";
        Folder { dir: tempfile::tempdir().unwrap(), config, prefix, gemma: true }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn hf_name(&self, gguf: &str) -> String {
        let renamed = gguf
            .replace("token_embd", "embed_tokens")
            .replace("output_norm", "norm")
            .replace("blk.", "layers.")
            .replace(".attn_norm.", ".input_layernorm.")
            .replace(".attn_q_norm.", ".self_attn.q_norm.")
            .replace(".attn_k_norm.", ".self_attn.k_norm.")
            .replace(".attn_output.", ".self_attn.o_proj.")
            .replace(".attn_q.", ".self_attn.q_proj.")
            .replace(".attn_k.", ".self_attn.k_proj.")
            .replace(".attn_v.", ".self_attn.v_proj.")
            .replace(".post_attention_norm.", ".post_attention_layernorm.")
            .replace(".post_ffw_norm.", ".post_feedforward_layernorm.")
            .replace(
                ".ffn_norm.",
                if self.gemma {
                    ".pre_feedforward_layernorm."
                } else {
                    ".post_attention_layernorm."
                },
            )
            .replace(".ffn_gate.", ".mlp.gate_proj.")
            .replace(".ffn_up.", ".mlp.up_proj.")
            .replace(".ffn_down.", ".mlp.down_proj.");
        format!("{}{renamed}", self.prefix)
    }

    fn write(&self) -> &Folder {
        let n_layers = if self.gemma { 7 } else { 2 };
        let mut weight_map = serde_json::Map::new();
        let mut shards = [Vec::new(), Vec::new()];
        for (i, (name, shape)) in tensors(n_layers, self.gemma).into_iter().enumerate() {
            weight_map.insert(self.hf_name(&name), json!(format!("model-{}.safetensors", i % 2)));
            shards[i % 2].push((self.hf_name(&name), shape));
        }
        for (i, shard) in shards.iter().enumerate() {
            std::fs::write(self.path(&format!("model-{i}.safetensors")), shard_bytes(shard))
                .unwrap();
        }
        self.json("model.safetensors.index.json", &json!({"weight_map": weight_map}));
        self.json("tokenizer.json", &json!({}));
        self.json("config.json", &self.config);
        self
    }

    fn json(&self, name: &str, value: &Json) {
        std::fs::write(self.path(name), value.to_string()).unwrap();
    }

    fn open(&self) -> Result<Model, String> {
        open(self.dir.path(), WeightsFrom::File).map_err(|error| error.to_string())
    }

    fn with(mut self, field: &str, value: Json) -> Result<Model, String> {
        self.config[field] = value;
        self.write().open()
    }
}

/// BF16 ones, by hand: eight bytes of length, a JSON header, the data.
fn shard_bytes(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let begin = data.len();
        for _ in 0..shape.iter().product() {
            data.extend([0x80, 0x3f]);
        }
        let offsets = [begin, data.len()];
        header.insert(
            name.clone(),
            json!({"dtype": "BF16", "shape": shape, "data_offsets": offsets}),
        );
    }
    let header = Json::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn llama_safetensors_in_shards_open() {
    let folder = Folder::llama();
    folder.write();
    let template = json!([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]);
    let listed = json!({"1": {"content": "<s>"}, "3": {"content": "<|end|>"}});
    let tokenizer = json!({
        "chat_template": template, "eos_token": "<|end|>", "added_tokens_decoder": listed,
    });
    folder.json("tokenizer_config.json", &tokenizer);
    let generation = json!({"eos_token_id": [2, 3], "do_sample": true, "top_k": 64});
    folder.json("generation_config.json", &generation);
    let model = folder.open().unwrap();
    assert_eq!(model.spec.rope.layout, RopeLayout::Halves);
    assert_eq!(model.spec.rope.theta, 500_000.0);
    assert_eq!((model.bos, model.eos.as_slice()), (Some(1), [2, 3].as_slice()));
    assert_eq!(model.eos_token, Some(3));
    assert_eq!(model.default_sampling.unwrap().top_k, Some(64));
    assert_eq!(model.chat_template.as_deref(), Some("d"));
    for (role, shape) in tensor_shapes(&model.spec) {
        let tensor = model.tensor(role).unwrap();
        assert_eq!((tensor.shape, tensor.dtype), (shape, TensorType::BF16));
        assert_eq!(tensor.data[..2], [0x80, 0x3f]);
    }
}

#[test]
fn a_generation_config_recommends_or_says_nothing() {
    let folder = Folder::llama();
    folder.write();
    let sampling = |generation: Json| {
        folder.json("generation_config.json", &generation);
        folder.open().map(|model| model.default_sampling)
    };
    assert_eq!(sampling(json!({"temperature": 0.5})), Ok(None));
    let greedy = sampling(json!({"do_sample": false, "temperature": 0.5})).unwrap().unwrap();
    assert_eq!((greedy.temperature, greedy.top_p), (Some(0.0), None));
    let message = sampling(json!({"do_sample": true, "top_p": 1.5})).unwrap_err();
    let wanted = "generation_config.json: top_p is 1.5, but must be above 0 and at most 1";
    assert!(message.ends_with(wanted), "{message}");
}

#[test]
fn a_stored_copy_of_a_tied_head_is_ignored() {
    let folder = Folder::llama();
    let copy = vec![("lm_head.weight".to_owned(), vec![VOCAB, 8])];
    folder.write();
    std::fs::write(folder.path("head.safetensors"), shard_bytes(&copy)).unwrap();
    let index = std::fs::read_to_string(folder.path("model.safetensors.index.json")).unwrap();
    let mut index: Json = serde_json::from_str(&index).unwrap();
    index["weight_map"]["lm_head.weight"] = json!("head.safetensors");
    folder.json("model.safetensors.index.json", &index);
    assert!(folder.open().unwrap().spec.tied_head);
}

#[test]
fn nested_gemma3_safetensors_open() {
    let model = Folder::gemma().write().open().unwrap();
    assert_eq!(model.eos_token, Some(1));
    let spec = model.spec;
    assert_eq!(spec.norm.weight_offset, 1.0);
    assert_eq!(spec.attn_scale, 0.25);
    assert_eq!(spec.rope.scaling, RopeScaling::Linear(8.0));
    assert_eq!(spec.sliding_window[5..], [None, Some(3)]);
}

#[test]
fn rope_rules_of_a_config_are_read_or_refused() {
    let rule = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let scaling = Folder::llama().with("rope_scaling", rule).unwrap().spec.rope.scaling;
    // The slower pair turns 8192 / (2 pi sqrt(500000)) = 1.8438 times: 1 / ((1 - s) / 32 + s), s =
    // 0.8438 / 3.
    let RopeScaling::PerDimension(divisors) = scaling else { panic!("{scaling:?}") };
    assert!(divisors[0] == 1.0 && (divisors[1] - 3.2923).abs() < 1e-3, "{divisors:?}");
    let newer = json!({"rope_type": "default", "rope_theta": 7.0});
    let mut folder = Folder::llama();
    folder.config["rope_theta"] = Json::Null;
    assert_eq!(folder.with("rope_parameters", newer).unwrap().spec.rope.theta, 7.0);
    let yarn = Folder::llama().with("rope_scaling", json!({"type": "yarn"}));
    check_error(yarn, "config.json: rope_scaling.rope_type yarn is not supported");
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let check = |result, expect| check_error(result, expect);
    let with = |field, value| Folder::llama().with(field, value);
    check(with("model_type", json!("mamba")), "model_type mamba is not supported");
    check(with("attention_bias", json!(true)), "attention_bias true is not supported");
    check(with("hidden_act", json!("relu")), "hidden_act relu is not supported; supported: silu");
    check(with("hidden_size", json!(-8)), "hidden_size is -8, but must be a whole number");
    check(with("quantization_config", json!({"quant_method": "gptq"})), "gptq");
    check(
        with("num_hidden_layers", json!(3)),
        "tensor model.layers.2.self_attn.q_proj.weight is mi",
    );
    check(with("num_hidden_layers", json!(1)), "has no place in a llama model, nor have 8 more");
    check(with("eos_token_id", json!([1, 9])), "a special token id is 9, but must be below");
    check(with("rope_theta", json!("x")), "rope_theta is \"x\", but must be a number");
    let folder = Folder::llama();
    folder.write();
    std::fs::remove_file(folder.path("tokenizer.json")).unwrap();
    check(folder.open(), "the file tokenizer.json is missing");
    let folder = Folder::llama();
    folder.write().json("model.safetensors.index.json", &json!({"weight_map": {"a": "../x"}}));
    check(folder.open(), "weight_map.a is \"../x\", but must be the name of a file in the folder");
    let folder = Folder::llama();
    folder.write();
    std::fs::write(folder.path("model-1.safetensors"), u64::MAX.to_le_bytes()).unwrap();
    check(folder.open(), "model-1.safetensors: not a safetensors file");
    std::fs::write(folder.path("config.json"), "{").unwrap();
    check(folder.open(), "config.json: not valid JSON");
}
