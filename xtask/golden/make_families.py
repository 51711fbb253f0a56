"""Tiny random checkpoints of every decoder family, and what the reference library answers on them.

    python3 -m venv target/gold
    target/gold/bin/pip install torch transformers safetensors gguf
    target/gold/bin/python xtask/golden/make_families.py [NAME ...]

Writes tests/golden/families/NAME: a folder of safetensors with the config.json that such models are published with,
the same weights as model.gguf with the names and row orders of llama.cpp's converter (from gguf-py's own tables), and
golden.safetensors: a prompt, the logits at each of its positions, the 32 tokens that follow it greedily, and the logits
at its last positions once more with K and V rounded to f16, as caches hold them. The numbers are those of transformers
in f32 with eager attention. Weights are F16 in both files, so both hold the same.

Seeds are fixed; a seed is moved on until the greedy tokens are many and each leads by a margin that rounding cannot
close, so that "the same 32 tokens" is a fair thing to ask of another implementation. Then the prompt is moved on until
a cache of f16 moves the reference's own logits by less than the 1e-3 that others are held to.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

ROOT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "families"
VOCAB = 128
PROMPT = 48
GREEDY = 32
MIN_MARGIN = 0.008
MIN_DISTINCT = 8
# Of the largest logit of the row. What is left to 1e-3 is for values that another order of additions rounds otherwise.
MAX_CACHE_EFFECT = 8e-4
# Positions whose logits with K and V in f16 are kept: as many as there is room for.
N_CACHED = 3

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": 127,
    "pad_token_id": None,
}

# What each family's published config.json says, in the words of its time.
CONFIGS = {
    "llama3": SIZES
    | {
        "model_type": "llama",
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "mistral": SIZES
    | {
        "model_type": "mistral",
        "hidden_act": "silu",
        "head_dim": 8,
        "rope_theta": 10000.0,
        "sliding_window": 20,
        "tie_word_embeddings": False,
    },
    "qwen2": SIZES
    | {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
        "sliding_window": 16,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": SIZES
    | {
        "model_type": "qwen3",
        "hidden_act": "silu",
        "head_dim": 24,
        "intermediate_size": 48,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 2,
        "tie_word_embeddings": True,
    },
    "phi3": SIZES
    | {
        "model_type": "phi3",
        "hidden_act": "silu",
        "intermediate_size": 48,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 32,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.02, 1.1, 1.25, 1.5, 1.9],
            "long_factor": [1.0, 1.3, 2.1, 3.7, 6.4, 8.0],
        },
        "sliding_window": 24,
        "attention_bias": False,
        "tie_word_embeddings": False,
    },
    "gemma2": SIZES
    | {
        "model_type": "gemma2",
        "num_hidden_layers": 3,
        "hidden_size": 48,
        "head_dim": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 6.0,
        "final_logit_softcapping": 1.5,
        "rope_theta": 10000.0,
        "sliding_window": 20,
        "attention_bias": False,
    },
    "granite": SIZES
    | {
        "model_type": "granite",
        "hidden_act": "silu",
        "intermediate_size": 48,
        "rope_theta": 10000.0,
        "attention_multiplier": 0.35,
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.7,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    "olmo2": SIZES
    | {
        "model_type": "olmo2",
        "hidden_act": "silu",
        "intermediate_size": 48,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "attention_bias": False,
        "tie_word_embeddings": False,
    },
}
ARCHITECTURES = {"llama3": "llama", "mistral": "llama"}


def letters():
    """GPT-2's letters of the first 125 bytes, a merge, and an end token: a byte-level BPE as small as the embedding."""
    printable = [byte for byte in range(256) if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [names[byte] for byte in printable + others][: VOCAB - 3]


TOKENS = [*letters(), "th", "the", "<|end|>"]


def random_weights(model, seed):
    """Attention and MLP that matter, norms that differ from 1, biases that are not 0; all exact in F16."""
    generator = torch.Generator().manual_seed(seed)
    offset = 0.0 if "gemma" in model.config.model_type else 1.0
    embedding_scale = {"gemma2": 0.03, "granite": 0.35}.get(model.config.model_type, 0.4)
    for name, tensor in sorted(model.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() == 1:
            noise = 0.3 * noise + (0.0 if name.endswith("bias") else offset)
        elif "embed_tokens" in name or "lm_head" in name:
            noise = embedding_scale * noise
        else:
            # Sharp attention would make much of how K is rounded in a cache of f16.
            is_score = any(part in name for part in ("q_proj", "k_proj", "qkv_proj"))
            noise = (0.7 if is_score else 1.4) / math.sqrt(tensor.shape[1]) * noise
        tensor.copy_(noise.half().float())


@torch.no_grad()
def answer(model, prompt, n_greedy=GREEDY):
    """Logits of the prompt, the greedy tokens behind it, and by how much of the largest logit the closest led."""
    tokens, greedy, margins = list(prompt), [], []
    first = model(torch.tensor([tokens]), use_cache=False).logits[0]
    for _ in range(n_greedy):
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        margins.append(float(best.values[0] - best.values[1]) / float(logits.abs().max()))
        if margins[-1] < MIN_MARGIN:
            break
        greedy.append(int(best.indices[0]))
        tokens.append(greedy[-1])
    return first, greedy, min(margins)


class HalfCache(DynamicCache):
    """K and V rounded to f16, in f32."""

    def update(self, key_states, value_states, *args, **kwargs):
        return super().update(key_states.half().float(), value_states.half().float(), *args, **kwargs)


@torch.no_grad()
def cached(model, prompt):
    """Logits of the prompt with K and V in f16."""
    return model(torch.tensor([prompt]), past_key_values=HalfCache(), use_cache=True).logits[0]


def cache_effect(logits, cached_logits):
    """The greatest difference of a row, as a part of its largest logit."""
    return float(((logits - cached_logits).abs().amax(-1) / logits.abs().amax(-1)).max())


def permuted(weights, n_heads):
    """Rows of q or k as llama.cpp's converter lays them for architectures that rotate neighbours."""
    shape = weights.shape
    return weights.reshape(n_heads, 2, shape[0] // n_heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(path, name, config, model):
    config_of = model.config
    architecture = ARCHITECTURES.get(name, name)
    n_heads, n_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // n_heads
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"{name}-random")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(theta)
    n_dims = int(head_dim * config.get("partial_rotary_factor", 1.0))
    writer.add_rope_dimension_count(n_dims)
    if config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if name in ("mistral", "phi3", "gemma2"):
        writer.add_sliding_window(config["sliding_window"])
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if name == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if name == "phi3":
        original = config["original_max_position_embeddings"]
        stretched = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(stretched) / math.log(original)))
        for length in ("long", "short"):
            factors = np.array(config["rope_scaling"][f"{length}_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)
    if name == "llama3":
        plain = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        factors = plain / model.model.rotary_emb.inv_freq.double()
        writer.add_tensor("rope_freqs.weight", factors.float().numpy())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.NORMAL] * (VOCAB - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["t h", "th e"])
    writer.add_eos_token_id(VOCAB - 1)
    writer.add_add_bos_token(False)
    kind = next(kind for kind, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for hf_name, tensor in model.state_dict().items():
        if hf_name == "lm_head.weight" and config_of.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if architecture in ("llama", "granite") and "q_proj" in hf_name:
            values = permuted(values, n_heads)
        if architecture in ("llama", "granite") and "k_proj" in hf_name:
            values = permuted(values, n_kv_heads)
        if "gemma" in architecture and hf_name.endswith("norm.weight"):
            values = values + 1.0
        is_matrix = values.ndim == 2
        values = np.ascontiguousarray(values, dtype=np.float16 if is_matrix else np.float32)
        writer.add_tensor(names.get_name(hf_name, try_suffixes=(".weight", ".bias")), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokenizer_json():
    end = {"id": VOCAB - 1, "content": TOKENS[-1], "special": True, "single_word": False}
    end |= {"lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: i for i, text in enumerate(TOKENS[:-1])},
            "merges": ["t h", "th e"],
        },
    }


def make(name):
    config = CONFIGS[name]
    fields = json.loads(json.dumps({key: value for key, value in config.items() if key != "model_type"}))
    reference = AutoConfig.for_model(config["model_type"], **fields)
    model = AutoModelForCausalLM.from_config(reference, attn_implementation="eager", dtype=torch.float32).eval()
    prompt_rng = np.random.default_rng(len(name))
    # Up to here phi3's other set of factors holds.
    n_short = config.get("original_max_position_embeddings", 0)

    def next_golden():
        prompt = prompt_rng.integers(0, VOCAB, PROMPT).tolist()
        logits, greedy, margin = answer(model, prompt)
        is_fair = margin >= MIN_MARGIN and len(set(greedy)) >= MIN_DISTINCT
        return is_fair, margin, prompt, greedy, logits

    for seed in range(1000):
        random_weights(model, seed)
        is_fair, margin, prompt, greedy, logits = next_golden()
        if is_fair:
            break
    else:
        raise SystemExit(f"{name}: no seed gives {MIN_DISTINCT} tokens that lead by {MIN_MARGIN}")
    for _ in range(1000):
        in_cache = cached(model, prompt)
        effect = cache_effect(logits, in_cache)
        golden = {"logits": logits, "cached_logits": in_cache[-N_CACHED:]}
        if n_short:
            with torch.no_grad():
                golden["short_logits"] = model(torch.tensor([prompt[:n_short]]), use_cache=False).logits[0]
            effect = max(effect, cache_effect(golden["short_logits"], cached(model, prompt[:n_short])))
        if is_fair and effect <= MAX_CACHE_EFFECT:
            break
        is_fair, margin, prompt, greedy, logits = next_golden()
    else:
        raise SystemExit(f"{name}: no prompt's logits move by less than {MAX_CACHE_EFFECT} with K and V in f16")
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    golden = {key: rows.detach().contiguous() for key, rows in golden.items()}
    golden["prompt"] = torch.tensor(prompt, dtype=torch.int32)
    golden["greedy"] = torch.tensor(greedy, dtype=torch.int32)
    save_file(golden, folder / "golden.safetensors")
    tied = reference.tie_word_embeddings
    weights = {key: value.half() for key, value in model.state_dict().items() if not (tied and key.startswith("lm_head"))}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(), ensure_ascii=False) + "\n")
    write_gguf(folder / "model.gguf", name, config, model)
    n_bytes = sum(file.stat().st_size for file in folder.iterdir())
    top = float(logits.abs().max())
    print(f"{name}: seed {seed}, largest logit {top:.2f}, margin {margin:.3f}, f16 cache {effect:.1e}, {len(set(greedy))} tokens, {n_bytes} bytes")
    assert n_bytes < 300_000, "larger than what may be committed"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for wanted in sys.argv[1:] or CONFIGS:
        make(wanted)
