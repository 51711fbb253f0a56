#!/usr/bin/env python3
"""Sentences per second of all-MiniLM-L6-v2: lastmile over HTTP beside onnxruntime in this process, in turns, on the same sentences.

    python3 -m venv venv && venv/bin/pip install onnx onnxruntime tokenizers safetensors numpy
    venv/bin/python benches/peers/embeddings.py --model FOLDER --base-url http://127.0.0.1:8080

The graph is written here from the same weights, as onnxruntime's optimiser knows it: what it fuses, it fuses. Sentences are
batched in the order of their lengths, which is the best case for padding.
"""

import argparse
import json
import pathlib
import statistics
import time
import urllib.request

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

SENTENCES = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/encoders/sentences.txt"


def graph(weights, config):
    hidden, heads, eps = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    nodes, constants, count = [], [], iter(range(10_000))

    def constant(value, dtype=np.float32):
        name = f"c{next(count)}"
        constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(kind, *inputs, **attributes):
        out = f"x{next(count)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def weight(name):
        return constant(weights[name])

    def product(x, name):
        y = node("MatMul", x, constant(weights[name + ".weight"].T))
        return node("Add", y, weight(name + ".bias"))

    def norm(x, name):
        return node("LayerNormalization", x, weight(name + ".weight"), weight(name + ".bias"), axis=-1, epsilon=max(eps, 1e-12))

    def split(x, perm):
        return node("Transpose", node("Reshape", x, constant([0, 0, heads, hidden // heads], np.int64)), perm=perm)

    embeddings = "embeddings."
    words = node("Gather", weight(embeddings + "word_embeddings.weight"), "ids")
    length = node("Gather", node("Shape", "ids"), constant(1, np.int64))
    positions = node("Range", constant(0, np.int64), length, constant(1, np.int64))
    x = node("Add", words, node("Gather", weight(embeddings + "position_embeddings.weight"), positions))
    x = norm(node("Add", x, constant(weights[embeddings + "token_type_embeddings.weight"][0])), embeddings + "LayerNorm")
    mask = node("Unsqueeze", node("Mul", node("Sub", constant(1.0), "mask"), constant(-10000.0)), constant([1, 2], np.int64))
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        q = split(product(x, layer + "attention.self.query"), [0, 2, 1, 3])
        k = split(product(x, layer + "attention.self.key"), [0, 2, 3, 1])
        v = split(product(x, layer + "attention.self.value"), [0, 2, 1, 3])
        scores = node("Div", node("MatMul", q, k), constant(np.sqrt(hidden // heads)))
        attended = node("MatMul", node("Softmax", node("Add", scores, mask), axis=-1), v)
        attended = node("Reshape", node("Transpose", attended, perm=[0, 2, 1, 3]), constant([0, 0, hidden], np.int64))
        x = norm(node("Add", product(attended, layer + "attention.output.dense"), x), layer + "attention.output.LayerNorm")
        inner = product(x, layer + "intermediate.dense")
        erf = node("Add", node("Erf", node("Div", inner, constant(np.sqrt(2.0)))), constant(1.0))
        inner = node("Mul", node("Mul", inner, erf), constant(0.5))
        x = norm(node("Add", product(inner, layer + "output.dense"), x), layer + "output.LayerNorm")
    nodes.append(helper.make_node("Identity", [x], ["hidden"]))
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes, "bert",
        [info("ids", TensorProto.INT64, ["n", "len"]), info("mask", TensorProto.FLOAT, ["n", "len"])],
        [info("hidden", TensorProto.FLOAT, ["n", "len", hidden])], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def peer(folder, threads):
    config = json.loads((folder / "config.json").read_text())
    model = graph(load_file(folder / "model.safetensors"), config)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()

    def embed(texts):
        encodings = tokenizer.encode_batch(texts)
        mask = np.array([e.attention_mask for e in encodings], np.float32)
        ids = np.array([e.ids for e in encodings], np.int64)
        hidden = session.run(None, {"ids": ids, "mask": mask})[0]
        rows = (hidden * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return embed


def lastmile(url, name):
    def embed(texts):
        body = json.dumps({"model": name, "input": texts, "encoding_format": "base64"}).encode()
        request = urllib.request.Request(url + "/v1/embeddings", body, {"content-type": "application/json"})
        data = json.loads(urllib.request.urlopen(request, timeout=300).read())["data"]
        import base64
        return np.array([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data])

    return embed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--name", default="all-minilm-l6-v2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sentences = sorted(SENTENCES.read_text().splitlines(), key=len)[:96]
    sides = {"lastmile": lastmile(args.base_url, args.name), "onnxruntime": peer(args.model, args.threads)}
    a, b = (side(sentences) for side in sides.values())
    print(f"least cosine between the two: {(a * b).sum(1).min():.6f}")
    report = {}
    for batch in (1, 32):
        times = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, embed in sides.items():
                begin = time.perf_counter()
                for at in range(0, len(sentences), batch):
                    embed(sentences[at:at + batch])
                times[name].append(len(sentences) / (time.perf_counter() - begin))
        rates = {name: statistics.median(rates) for name, rates in times.items()}
        ratio = rates["lastmile"] / rates["onnxruntime"]
        print(f"batch {batch}: " + ", ".join(f"{n} {r:.0f} sentences/s" for n, r in rates.items()) + f", ratio {ratio:.2f}")
        report[batch] = rates | {"ratio": ratio, "rounds": times}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
