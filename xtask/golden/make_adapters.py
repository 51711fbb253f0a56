"""Low-rank adapters as PEFT saves them, and what PEFT makes of them on a checkpoint of `make_families.py`.

    python3 -m venv target/gold
    target/gold/bin/pip install torch transformers safetensors gguf peft
    target/gold/bin/python xtask/golden/make_adapters.py [NAME ...]

Writes tests/golden/adapters/NAME: the two files of `save_pretrained`, and golden.safetensors: a prompt, its logits with
the adapter, without it, and with it where K and V are f16, and the 16 tokens that follow greedily with the adapter. All
computed in f32 with eager attention, with the adapter beside the weights and not merged into them.

As in `make_families.py`, seeds are fixed and moved on until the tokens lead by more than rounding, and a cache of f16
moves the logits by less than others may be off.
"""

import shutil
import sys
from pathlib import Path

import torch
from make_families import MAX_CACHE_EFFECT, MIN_MARGIN, VOCAB, answer, cache_effect, cached
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
BASE = "llama3"
PROMPT = 20
GREEDY = 16
MIN_DISTINCT = 6
# By how much of the largest logit an adapter changes the logits, at least, at every position.
MIN_CHANGE = 0.05

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]

CONFIGS = {
    "rank4": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION + MLP},
    "rank8": {
        "r": 8,
        "lora_alpha": 5,
        "use_rslora": True,
        "target_modules": r".*\.layers\.\d+\.(self_attn|mlp)\.[a-z]+_proj",
    },
    # The dots of a pattern are those of a regular expression.
    "patterns": {
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "target_modules": ATTENTION + MLP,
        "rank_pattern": {"down_proj": 8, "layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"self.attn.v_proj": 6, "model.layers.0.mlp.up_proj": 2},
    },
    # Saved as BF16.
    "one-layer": {"r": 8, "lora_alpha": 20, "target_modules": ["q_proj", "v_proj", "up_proj"], "layers_to_transform": [1]},
}
HALF = ("one-layer",)


def low_rank(model):
    return {name: weights for name, weights in model.named_parameters() if ".lora_" in name}


def random_weights(model, generator):
    for name, weights in sorted(low_rank(model).items()):
        noise = torch.randn(weights.shape, generator=generator) * (0.12 if "lora_A" in name else 0.08)
        weights.data = noise.bfloat16().float()


def make(name):
    path = GOLDEN / "families" / BASE
    base = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    base.name_or_path = BASE
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1, **CONFIGS[name])
    model = get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(sum(name.encode()))
    for tries in range(1, 1000):
        random_weights(model, generator)
        prompt = torch.randint(0, VOCAB, (PROMPT,), generator=generator).tolist()
        logits, greedy, margin = answer(model, prompt, GREEDY)
        if margin < MIN_MARGIN or len(set(greedy)) < MIN_DISTINCT:
            continue
        in_cache = cached(model, prompt)
        with model.disable_adapter():
            without, _, _ = answer(model, prompt, 1)
        change = float(((logits - without).abs().amax(-1) / without.abs().amax(-1)).min())
        effect = cache_effect(logits, in_cache)
        if effect <= MAX_CACHE_EFFECT and change >= MIN_CHANGE:
            break
    else:
        raise SystemExit(f"{name}: no weights give tokens that lead by {MIN_MARGIN}")
    folder = GOLDEN / "adapters" / name
    shutil.rmtree(folder, ignore_errors=True)
    if name in HALF:
        for weights in low_rank(model).values():
            weights.data = weights.data.bfloat16()
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    tokens = {"prompt": torch.tensor(prompt, dtype=torch.int32), "greedy": torch.tensor(greedy, dtype=torch.int32)}
    golden = {"logits": logits, "base_logits": without, "cached_logits": in_cache}
    save_file(tokens | {key: rows.detach().contiguous() for key, rows in golden.items()}, folder / "golden.safetensors")
    check_saved(path, folder, prompt, logits)
    sizes = [file.stat().st_size for file in folder.iterdir()]
    found = f"changes {change:.2f}, margin {margin:.3f}, f16 cache {effect:.1e}, {len(set(greedy))} tokens"
    print(f"{name}: try {tries}, {found}, {sizes} bytes")
    assert max(sizes) < 300_000, "larger than what may be committed"


@torch.no_grad()
def check_saved(path, folder, prompt, logits):
    """What was saved is what was computed: PEFT reads it again and says the same."""
    base = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32)
    again = PeftModel.from_pretrained(base, folder).eval()
    found = again(torch.tensor([prompt]), use_cache=False).logits[0]
    assert cache_effect(logits, found) < 1e-5, "the saved adapter gives other logits"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for wanted in sys.argv[1:] or CONFIGS:
        make(wanted)
