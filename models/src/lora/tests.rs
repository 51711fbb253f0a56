#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView as Stored;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{Activation, NormPlacement, NormSpec, QkNorm, RopeScaling, RopeSpec};

fn spec(family: &'static str, layout: RopeLayout) -> DecoderSpec {
    DecoderSpec {
        family,
        n_layers: 2,
        hidden_size: 8,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        intermediate_size: 12,
        vocab_size: 16,
        max_position_embeddings: 32,
        norm: NormSpec { eps: 1e-5, weight_offset: 0.0 },
        norm_placement: NormPlacement::Pre,
        qk_norm: QkNorm::None,
        rope: RopeSpec {
            layout,
            n_dims: 4,
            theta: 1e4,
            theta_sliding: None,
            scaling: RopeScaling::None,
        },
        attn_scale: 0.5,
        attn_softcap: None,
        logit_softcap: None,
        sliding_window: vec![None; 2],
        activation: Activation::Silu,
        qkv_bias: false,
        tied_head: false,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_divisor: 1.0,
    }
}

/// Values that count up, so that rows can be told apart.
fn write(folder: &Path, config: &Value, tensors: &[(&str, Vec<usize>)]) {
    std::fs::write(folder.join(CONFIG), config.to_string()).unwrap();
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| {
            let n: usize = shape.iter().product();
            (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (format!("base_model.model.{name}"), Stored::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join(WEIGHTS)).unwrap();
}

fn config() -> Value {
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": 2, "lora_alpha": 6,
        "lora_dropout": 0.05, "target_modules": ["q_proj"], "modules_to_save": null, "use_dora": false,
    })
}

fn q_proj() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("model.layers.1.self_attn.q_proj.lora_A.weight", vec![2, 8]),
        ("model.layers.1.self_attn.q_proj.lora_B.weight", vec![8, 2]),
    ]
}

fn open(
    config: &Value,
    tensors: &[(&str, Vec<usize>)],
    spec: &DecoderSpec,
) -> Result<LoraAdapter, ModelError> {
    let folder = TempDir::new().unwrap();
    write(folder.path(), config, tensors);
    open_lora(folder.path(), spec)
}

fn first_of_rows(view: &TensorView<'_>) -> Vec<f32> {
    let row_bytes = view.data.len() / view.shape[0];
    let number = |row: &[u8]| f32::from_le_bytes(row[..4].try_into().unwrap());
    view.data.chunks(row_bytes).map(number).collect()
}

#[test]
fn an_adapter_gives_its_parts() {
    let halves = open(&config(), &q_proj(), &spec("llama", RopeLayout::Halves)).unwrap();
    let [part] = halves.parts.as_slice() else { panic!("one part") };
    assert_eq!((part.layer, part.tensor, part.scale), (1, LayerTensor::AttnQ, 3.0));
    assert_eq!((part.a.shape.as_slice(), part.b.shape.as_slice()), (&[2, 8][..], &[8, 2][..]));
    assert_eq!(first_of_rows(&part.b), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]);
    // GGUF files of Llama hold the rows of each head in another order.
    let pairs = open(&config(), &q_proj(), &spec("llama", RopeLayout::Interleaved)).unwrap();
    assert_eq!(first_of_rows(&pairs.parts[0].b), [0.0, 4.0, 2.0, 6.0, 8.0, 12.0, 10.0, 14.0]);
    assert_ne!(halves.digest, pairs.digest);
    let mut stabilised = config();
    stabilised["use_rslora"] = json!(true);
    let adapter = open(&stabilised, &q_proj(), &spec("llama", RopeLayout::Halves)).unwrap();
    assert_eq!(adapter.parts[0].scale, (6.0 / 2f64.sqrt()) as f32);
    assert_ne!(adapter.digest, halves.digest);
}

#[test]
fn a_module_of_several_projections_is_one_part_for_each() {
    let tensors = [
        ("model.layers.0.self_attn.qkv_proj.lora_A.weight", vec![2, 8]),
        ("model.layers.0.self_attn.qkv_proj.lora_B.weight", vec![16, 2]),
    ];
    let mut config = config();
    config["target_modules"] = json!("all-linear");
    let adapter = open(&config, &tensors, &spec("phi3", RopeLayout::Halves)).unwrap();
    let rows: Vec<_> = adapter.parts.iter().map(|part| (part.tensor, part.b.shape[0])).collect();
    use LayerTensor::{AttnK, AttnQ, AttnV};
    assert_eq!(rows, [(AttnQ, 8), (AttnK, 4), (AttnV, 4)]);
    assert_eq!(first_of_rows(&adapter.parts[1].b), [16.0, 18.0, 20.0, 22.0]);
}

#[test]
fn patterns_give_modules_their_own_rank_and_alpha() {
    let mut config = config();
    config["rank_pattern"] = json!({"layers.1.self_attn.q_proj": 4});
    config["alpha_pattern"] = json!({"q_proj": 2});
    let mut tensors = q_proj();
    (tensors[0].1, tensors[1].1) = (vec![4, 8], vec![8, 4]);
    let adapter = open(&config, &tensors, &spec("llama", RopeLayout::Halves)).unwrap();
    assert_eq!((adapter.max_rank(), adapter.parts[0].scale), (4, 0.5));
    // PEFT reads a name as a regular expression.
    config["alpha_pattern"] =
        json!({"self.attn.q_proj": 8, "q.proj": 8, "attn.proj": 1, "proj": 1});
    let adapter = open(&config, &tensors, &spec("llama", RopeLayout::Halves)).unwrap();
    assert_eq!(adapter.parts[0].scale, 2.0);
}

/// What `all-linear` becomes when PEFT saves it: each module with its whole name, also inside of a larger model.
#[test]
fn modules_have_the_names_of_the_model_that_peft_wrapped() {
    let tensors = [
        ("model.language_model.layers.1.self_attn.q_proj.lora_A.weight", vec![2, 8]),
        ("model.language_model.layers.1.self_attn.q_proj.lora_B.weight", vec![8, 2]),
    ];
    let mut config = config();
    config["target_modules"] = json!(["model.language_model.layers.1.self_attn.q_proj"]);
    config["alpha_pattern"] = json!({"language_model.layers.1.self_attn.q_proj": 2});
    let adapter = open(&config, &tensors, &spec("llama", RopeLayout::Halves)).unwrap();
    assert_eq!((adapter.parts[0].layer, adapter.parts[0].scale), (1, 1.0));
}

#[test]
fn one_module_has_one_name() {
    let mut tensors = q_proj();
    tensors.push(("layers.1.self_attn.q_proj.lora_A.weight", vec![2, 8]));
    let error = open(&config(), &tensors, &spec("llama", RopeLayout::Halves)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("model.layers.1.self_attn.q_proj, but must be one name"), "{error}");
}

#[test]
fn what_a_pattern_or_a_list_of_layers_leaves_out_has_no_tensors() {
    let spec = spec("llama", RopeLayout::Halves);
    for (field, value) in [
        ("layers_to_transform", json!(1)),
        ("layers_to_transform", json!([0, 1])),
        ("layers_to_transform", json!([])),
        ("exclude_modules", json!(["layers.0.self_attn.q_proj", "proj"])),
        ("exclude_modules", json!("lm_.*")),
        ("target_modules", json!(".*\\.[a-z]_proj")),
    ] {
        let mut config = config();
        config[field] = value.clone();
        let adapter = open(&config, &q_proj(), &spec);
        assert!(adapter.is_ok(), "{field} {value}: {}", adapter.unwrap_err());
    }
    check(
        |config, _| config["layers_to_transform"] = json!([0, 2]),
        "the layer of adapted module model.layers.1.self_attn.q_proj is 1, but must be in \
         layers_to_transform: [0, 2]",
    );
    check(|config, _| config["layers_to_transform"] = json!(0), "layers_to_transform: [0]");
    check(
        |config, _| config["layers_to_transform"] = json!(-1),
        "layers_to_transform is -1, but must be a layer, or a list of layers",
    );
    check(
        |config, _| config["exclude_modules"] = json!(["self_attn.q_proj"]),
        "an adapted module is model.layers.1.self_attn.q_proj, but must be none of \
         exclude_modules: self_attn.q_proj",
    );
    check(
        |config, _| config["exclude_modules"] = json!([1]),
        "exclude_modules is [1], but must be a list of names, or a pattern",
    );
}

#[track_caller]
fn check(change: impl Fn(&mut Value, &mut Vec<(&'static str, Vec<usize>)>), expect: &str) {
    let (mut config, mut tensors) = (config(), q_proj());
    change(&mut config, &mut tensors);
    let error = open(&config, &tensors, &spec("llama", RopeLayout::Halves)).unwrap_err();
    assert!(error.to_string().contains(expect), "{error}\nis not: {expect}");
}

#[test]
fn what_is_wrong_is_named() {
    check(|config, _| config["peft_type"] = json!("IA3"), "peft_type IA3 is not supported");
    check(|config, _| config["r"] = json!(0), "r is 0, but must be 1 to 512");
    check(|config, _| config["r"] = json!(4096), "r is 4096, but at most 512");
    check(|config, _| config["bias"] = json!("all"), "bias all is not supported; supported: none");
    check(|config, _| config["use_dora"] = json!(true), "use_dora true is not supported");
    check(
        |config, _| config["modules_to_save"] = json!(["lm_head"]),
        "modules_to_save [\"lm_head\"] is not supported",
    );
    check(
        |config, _| config["init_lora_weights"] = json!("pissa"),
        "init_lora_weights \"pissa\" is not supported",
    );
    check(
        |config, _| drop(config.as_object_mut().unwrap().remove("lora_alpha")),
        "lora_alpha is missing",
    );
    check(
        |config, _| config["target_modules"] = json!(["v_proj"]),
        "model.layers.1.self_attn.q_proj, but must be in target_modules: v_proj",
    );
    check(
        |config, _| config["target_modules"] = json!(["q_proj", "k_proj"]),
        "for target_modules entry k_proj is 0",
    );
    check(
        |config, _| config["rank_pattern"] = json!({"layers\\.[01]": 4}),
        "rank_pattern: the name layers\\.[01] is not supported",
    );
    check(
        |_, tensors| tensors[0].1 = vec![3, 8],
        "lora_A.weight has shape [3, 8], but the metadata asks for [2, 8]",
    );
    check(
        |_, tensors| tensors[1].1 = vec![7, 2],
        "lora_B.weight has shape [7, 2], but the metadata asks for [8, 2]",
    );
    check(|_, tensors| drop(tensors.pop()), "q_proj.lora_B.weight is missing");
    check(
        |_, tensors| tensors[0].0 = "model.layers.1.self_attn.q_proj.lora_magnitude_vector",
        "lora_magnitude_vector is not supported",
    );
    check(
        |config, tensors| {
            config["target_modules"] = json!("all-linear");
            tensors[0].0 = "lm_head.lora_A.weight";
            tensors[1].0 = "lm_head.lora_B.weight";
        },
        "an adapter of module lm_head (of llama) is not supported",
    );
    check(
        |_, tensors| {
            tensors[0].0 = "model.layers.2.self_attn.q_proj.lora_A.weight";
            tensors[1].0 = "model.layers.2.self_attn.q_proj.lora_B.weight";
        },
        "module model.layers.2.self_attn.q_proj (of llama) is not supported",
    );
}

/// Every other field of PEFT's configuration by which an adapter says more than its two matrices do, as PEFT 0.21 writes
/// them, and one that is yet to come.
#[test]
fn what_else_peft_can_ask_for_is_refused_by_name() {
    for (field, value) in [
        ("bias", json!("lora_only")),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["embed_tokens"])),
        ("trainable_token_indices", json!([1, 2])),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        ("layer_replication", json!([[0, 2], [0, 2]])),
        ("target_parameters", json!(["lm_head.weight"])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("arrow_config", json!({"top_k": 3})),
        ("kasa_config", json!({"beta": 0.1})),
        ("velora_config", json!({"scale": 1.0})),
        ("monteclora_config", json!({"scale": 1.0})),
        ("ensure_weight_tying", json!(true)),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("mica")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("a_field_of_tomorrow", json!(0)),
    ] {
        check(|config, _| config[field] = value.clone(), field);
    }
}

/// What PEFT saves beside the two matrices, where the configuration says nothing of it.
#[test]
fn other_tensors_are_refused_by_name() {
    for name in [
        "lm_head.weight",
        "lm_head.base_layer.weight",
        "model.embed_tokens.weight",
        "model.embed_tokens.lora_embedding_A",
        "model.embed_tokens.token_adapter.trainable_tokens_delta",
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_proj.lora_B.bias",
        "model.layers.1.self_attn.q_proj.lora_magnitude_vector",
        "model.layers.1.self_attn.q_proj.lora_A.default.weight",
        "model.layers.1.input_layernorm.weight",
    ] {
        let expect = format!("tensor base_model.model.{name} is not supported");
        check(|_, tensors| tensors.push((name, vec![2, 8])), &expect);
    }
    for module in ["lm_head", "model.embed_tokens", "model.layers.1.mlp.experts.0.up_proj"] {
        let [a, b] = ["A", "B"].map(|which| format!("{module}.lora_{which}.weight"));
        let mut config = config();
        config["target_modules"] = json!(".*");
        let mut tensors: Vec<(&str, Vec<usize>)> = q_proj();
        tensors.extend([(a.as_str(), vec![2, 8]), (b.as_str(), vec![16, 2])]);
        let error = open(&config, &tensors, &spec("llama", RopeLayout::Halves)).unwrap_err();
        let expect = format!("an adapter of module {module} (of llama) is not supported");
        assert!(error.to_string().contains(&expect), "{error}");
    }
}

#[test]
fn missing_files_are_named() {
    let folder = TempDir::new().unwrap();
    let spec = spec("llama", RopeLayout::Halves);
    let error = open_lora(folder.path(), &spec).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
    std::fs::write(folder.path().join(CONFIG), config().to_string()).unwrap();
    let error = open_lora(folder.path(), &spec).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors"), "{error}");
}
