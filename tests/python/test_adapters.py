"""Low-rank adapters over HTTP: loaded and unloaded while answers run, several at once, and computed again."""

import json
import random
import struct
import threading
from pathlib import Path

import openai
import pytest
from conftest import Server, run
from test_experiments import until

BASE = Path(__file__).resolve().parents[1] / "golden" / "families" / "llama3"
HIDDEN, KV, FFN, LAYERS, RANK = 64, 32, 64, 2, 4
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "mlp.up_proj": (FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
}


def write_adapter(folder, seed, rank=RANK, **config):
    """An adapter as PEFT writes it, with random weights."""
    folder.mkdir()
    numbers, header, data = random.Random(seed), {}, bytearray()
    for layer in range(LAYERS):
        for module, (n_out, n_in) in SHAPES.items():
            for which, shape in (("A", [rank, n_in]), ("B", [n_out, rank])):
                values = [numbers.uniform(-0.3, 0.3) for _ in range(shape[0] * shape[1])]
                begin = len(data)
                data += struct.pack(f"<{len(values)}f", *values)
                name = f"base_model.model.model.layers.{layer}.{module}.lora_{which}.weight"
                header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": "all-linear"} | config
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(folder / name, seed) for seed, name in enumerate(("one", "two"), 1)}


@pytest.fixture(scope="module")
def server(home, adapters):
    server = Server(home, "--model", f"tiny={BASE}", "--lora", f"one={adapters['one']}", "--max-loras", "2")
    yield server
    server.process.kill()


def ask(client, model, n=24, **options):
    options = {"temperature": 0, "extra_body": {"ignore_eos": True}} | options
    return client.completions.create(model=model, prompt="the sea the sky", max_tokens=n, **options)


def load(server, name, path, **more):
    return server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)} | more)


def test_an_adapter_is_a_model_with_a_parent(server, adapters):
    client = server.client()
    assert load(server, "two", adapters["two"]).status == 200
    listed = {model.id: model for model in client.models.list()}
    assert listed.keys() == {"tiny", "one", "two"}
    assert listed["one"].parent == "tiny" and listed["one"].root == str(adapters["one"])
    assert client.models.retrieve("two").parent == "tiny"
    answers = {name: ask(client, name) for name in listed}
    assert {answer.model for answer in answers.values()} == listed.keys()
    assert len({answer.choices[0].text for answer in answers.values()}) == 3
    assert len({answer.system_fingerprint for answer in answers.values()}) == 3
    assert answers["one"].system_fingerprint == listed["one"].release

    # All at once, beside the cache of the others, they say the same.
    results = {}

    def again(name, i):
        results[name, i] = ask(server.client(), name).choices[0].text

    threads = [threading.Thread(target=again, args=(name, i)) for i in range(4) for name in listed]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(results) == 12
    for (name, _), text in results.items():
        assert text == answers[name].choices[0].text, name
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "two"}).status == 200


def test_an_answer_outlives_its_adapter(server, adapters):
    client = server.client()
    assert load(server, "two", adapters["two"]).status == 200
    whole = ask(client, "two", n=150).choices[0].text
    stream = ask(client, "two", n=150, stream=True)
    text = next(stream).choices[0].text
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "two"}).status == 200
    with pytest.raises(openai.NotFoundError):
        ask(client, "two")
    text += "".join(chunk.choices[0].text for chunk in stream)
    assert text == whole
    gone = server.post("/v1/unload_lora_adapter", {"lora_name": "two"})
    assert gone.status == 404 and gone.json["error"]["code"] == "adapter_not_found"


def test_what_is_wrong_is_named(server, adapters, tmp_path):
    def check(answer, status, *texts):
        message = answer.json["error"]["message"]
        assert answer.status == status, answer.body
        for text in texts:
            assert text in message, message

    check(load(server, "one", adapters["two"]), 409, "lora_name is 'one'")
    check(load(server, "tiny", adapters["two"]), 409, "lora_name is 'tiny'")
    check(load(server, "x", tmp_path / "nowhere"), 400, "adapter_config.json")
    check(load(server, "x", adapters["two"], load_inplace=True), 400, "load_inplace")
    check(server.post("/v1/load_lora_adapter", {"lora_name": "x"}), 400, "lora_path is missing")
    check(load(server, "x", adapters["two"], base_model_name="y"), 404, "y")
    wide = write_adapter(tmp_path / "wide", 3, rank=8)
    check(load(server, "x", wide), 400, "lora_A.weight", "[8, 64]", "[4, 64]")
    dora = write_adapter(tmp_path / "dora", 3, use_dora=True)
    check(load(server, "x", dora), 400, "use_dora")
    assert load(server, "two", adapters["two"]).status == 200
    three = write_adapter(tmp_path / "three", 3)
    check(load(server, "three", three), 409, "max_loras is 2")
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "two"}).status == 200


def test_a_reload_keeps_the_adapters(server):
    before = ask(server.client(), "one").choices[0].text
    assert server.post("/ops/v1/models/tiny/reload", {}).status == 200
    assert ask(server.client(), "one").choices[0].text == before


def test_a_recorded_answer_is_computed_again_with_its_adapter(server, home, adapters):
    answer = ask(server.client(), "one", temperature=1, seed=7)
    until(lambda: run(home, "why", answer.id).returncode, lambda status: status == 0, 20)
    replayed = run(home, "replay", answer.id, "--json")
    assert replayed.returncode == 0, replayed.stderr + replayed.stdout
    weights = adapters["one"] / "adapter_model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.unlink()
        missing = run(home, "replay", answer.id)
        assert missing.returncode == 3
        assert "one" in missing.stdout + missing.stderr and "adapter" in missing.stdout + missing.stderr
        other = write_adapter(adapters["one"].parent / "other", 9)
        weights.write_bytes((other / weights.name).read_bytes())
        changed = run(home, "replay", answer.id)
        assert changed.returncode == 1, changed.stdout
        assert "adapter" in changed.stdout
    finally:
        weights.write_bytes(whole)
