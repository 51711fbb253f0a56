#!/usr/bin/env python3
"""What the reference library gives for encoders: vectors of all-MiniLM-L6-v2, and tiny random checkpoints of each family with their outputs.

    python3 -m venv venv && venv/bin/pip install 'transformers<5' flax 'jax[cpu]' safetensors
    venv/bin/python xtask/golden/make_encoders.py MINILM_FOLDER

writes tests/golden/encoders. The reference is transformers' own models in JAX: they read the same weights, laid out as
JAX wants them. Pooling and norm are those of sentence-transformers: the mean of the tokens, divided by its length.
"""

import json
import pathlib
import sys

import jax
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers import decoders
import transformers
from transformers import FlaxAutoModel, FlaxAutoModelForSequenceClassification

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/encoders"
jax.config.update("jax_default_matmul_precision", "highest")


def flax_tree(tensors, prefix=""):
    """PyTorch's names and layouts as JAX's."""
    tree = {}
    for name, value in tensors.items():
        if not name.startswith(prefix) or name.endswith("position_ids"):
            continue
        *path, last = name[len(prefix):].split(".")
        is_table = "embeddings" in path[-1]
        is_norm = "norm" in path[-1].lower()
        if last == "weight":
            last = "embedding" if is_table else "scale" if is_norm else "kernel"
            value = value.T if last == "kernel" else value
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node[last] = np.asarray(value, np.float32)
    return tree


def torch_tensors(tree, path=()):
    """The other way round."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from torch_tensors(value, (*path, name))
            continue
        name = {"embedding": "weight", "scale": "weight", "kernel": "weight"}.get(name, name)
        value = np.asarray(value, np.float32)
        is_product = name == "weight" and value.ndim == 2 and "embeddings" not in path[-1]
        yield ".".join((*path, name)), np.ascontiguousarray(value.T if is_product else value)


def hidden(model, encodings):
    """The last layer of each text, one text at a time: nothing is padded."""
    for one in encodings:
        ids = np.array([one.ids])
        kinds = {"token_type_ids": np.array([one.type_ids])} if model.config.model_type == "bert" else {}
        yield model(ids, attention_mask=np.ones_like(ids), **kinds)


def minilm(folder):
    sentences = (OUT / "sentences.txt").read_text().splitlines()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = transformers.AutoConfig.from_pretrained(folder)
    model = FlaxAutoModel.from_config(config)
    model.params = flax_tree(load_file(folder / "model.safetensors"))
    rows = []
    for out in hidden(model, [tokenizer.encode(s) for s in sentences]):
        mean = np.asarray(out.last_hidden_state[0]).mean(0)
        rows.append(mean / np.linalg.norm(mean))
    np.array(rows, "<f2").tofile(OUT / "minilm.f16")
    print(f"minilm: {len(rows)} vectors of {rows[0].size}")


WORDS = "[PAD] [UNK] [CLS] [SEP] the a cat dog sat on mat tree ##s ##ing run eat big small red blue and is was of in".split()


def tiny_tokenizer(folder, separators):
    vocab = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    types = (0, 1) if separators == 1 else (0, 0)
    middle = " ".join(["[SEP]"] * separators)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A {middle} $B:{types[1]} [SEP]:{types[1]}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    return tokenizer


def tiny(name, config_class, n_labels, separators=1, **more):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(folder, separators)
    config = config_class(vocab_size=len(WORDS), max_position_embeddings=40, pad_token_id=0, num_labels=n_labels or 2, **more)
    kind = FlaxAutoModelForSequenceClassification if n_labels else FlaxAutoModel
    model = kind.from_config(config, seed=7)
    # Initial weights are so small that every text looks the same.
    keys = iter(range(10_000))
    rng = np.random.default_rng(11)
    grow = lambda leaf: np.asarray(leaf + rng.normal(0, 0.3, leaf.shape), np.float16).astype(np.float32)
    model.params = jax.tree_util.tree_map(grow, dict(model.params))
    tensors = {key: value.astype(np.float16) for key, value in torch_tensors(model.params)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    kept = json.loads(config.to_json_string(use_diff=False))
    suffix = "ForSequenceClassification" if n_labels else "Model"
    kept["architectures"] = [type(model).__name__.removeprefix("Flax").removesuffix("Module")]
    assert kept["architectures"][0].endswith(suffix)
    wanted = ("architectures model_type vocab_size hidden_size dim num_hidden_layers n_layers num_attention_heads n_heads"
              " intermediate_size hidden_dim max_position_embeddings type_vocab_size layer_norm_eps hidden_act activation"
              " pad_token_id id2label problem_type").split()
    (folder / "config.json").write_text(json.dumps({key: kept[key] for key in wanted if kept.get(key) is not None}, indent=1))
    texts = ["the cat sat on the mat", "dogs", "", "a big red tree and a small blue cat was running in the tree",
             ["the cat", "a dog sat"], ["is the cat on the mat", "the cat sat on the mat"]]
    encodings = [tokenizer.encode(*(text if isinstance(text, list) else [text])) for text in texts]
    rows = []
    for out in hidden(model, encodings):
        row = out.logits[0] if n_labels else np.asarray(out.last_hidden_state[0]).mean(0)
        rows.append([float(x) for x in np.asarray(row)])
    (folder / "expect.json").write_text(json.dumps({"texts": texts, "rows": rows}))
    print(f"{name}: {len(rows)} rows of {len(rows[0])}")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    minilm(pathlib.Path(sys.argv[1]))
    bert = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    tiny("bert", transformers.BertConfig, None, **bert)
    tiny("bert-labels", transformers.BertConfig, 3, **bert)
    tiny("bert-rank", transformers.BertConfig, 1, **bert)
    tiny("roberta", transformers.RobertaConfig, None, separators=2, type_vocab_size=1, **bert)
    tiny("roberta-labels", transformers.RobertaConfig, 2, separators=2, type_vocab_size=1, **bert)
    distil = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=48)
    tiny("distilbert", transformers.DistilBertConfig, None, **distil)
    tiny("distilbert-labels", transformers.DistilBertConfig, 2, **distil)


if __name__ == "__main__":
    main()
