"""Requests of mixed length and sampling under load, each computed again: all must be identical.

    python tests/python/flight.py --requests 1000 --streams 32 --model smollm2-135m-instruct

Serves in a home of its own that shares the pulled models, so that blocks run out and prefixes are shared; then replays
all, and some with one thing changed. Prints one JSON document.
"""

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from conftest import PROGRAM, TEST_HOME, Server, environment  # noqa: E402

SYSTEMS = [
    "You are a helpful assistant who answers in few words and never apologises. " * n for n in (1, 3, 6)
]
WORDS = "the sky sea night light stone river paper cloud engine number letter city garden winter song".split()


def body(rng, i):
    """The body of the request number `i`: a chat or a completion, drawn in one of many ways."""
    words = " ".join(rng.choices(WORDS, k=rng.randint(2, 90)))
    fields = {"max_tokens": rng.randint(1, 64)}
    kind = i % 8
    if kind == 0:
        fields |= {"temperature": 0}
    elif kind == 1:
        fields |= {"temperature": 0.8, "top_p": 0.9}
    elif kind == 2:
        fields |= {"temperature": 1.2, "top_k": 40, "min_p": 0.05, "seed": rng.randrange(1 << 40)}
    elif kind == 3:
        fields |= {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.1}
    elif kind == 4:
        fields |= {"n": 2, "typical_p": 0.8, "logit_bias": {"300": 3.5, "301": -7.25}}
        fields |= {"temperature": 1.1, "presence_penalty": 0.3, "samplers": ["typ_p", "temperature", "penalties"]}
    elif kind == 5:
        fields |= {"stop": ["\n\n", "river"], "min_tokens": 1, "ignore_eos": True}
    elif kind == 6:
        fields |= {"response_format": {"type": "json_object"}, "max_tokens": 48}
    else:
        fields |= {"top_n_sigma": 1.0, "dry_multiplier": 0.8, "logprobs": True, "top_logprobs": 3}
    messages = [{"role": "user", "content": words}]
    if i % 3:
        messages.insert(0, {"role": "system", "content": SYSTEMS[i % len(SYSTEMS)]})
    if i % 5:
        # Who is in a hurry takes blocks from these.
        fields["priority"] = "batch"
    if kind == 5 and i % 2:
        return "/v1/completions", fields | {"prompt": words}
    return "/v1/chat/completions", fields | {"messages": messages}


def ask_all(server, n, streams, seed=1):
    """Asks `n` requests, `streams` at a time; all must be answered. Returns their ids."""
    rng = random.Random(seed)
    asked = [body(rng, i) for i in range(n)]

    def ask(one):
        path, fields = one
        answer = server.post(path, fields)
        assert answer.status == 200, (answer.body, fields)
        return answer.json["id"]

    with ThreadPoolExecutor(streams) as pool:
        return list(pool.map(ask, asked))


def replay(home, *args, variables=None, timeout=7200):
    """`lastmile replay --json`: its status, and its document."""
    done = subprocess.run(
        [PROGRAM, "replay", "--json", *args],
        env=environment(home) | (variables or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def corrupt(home, identity, at):
    """Changes one recorded token of the first answer, as a torn disk or a hand would."""
    with sqlite3.connect(Path(home) / "store" / "lastmile.db") as store:
        bare = identity.split("-", 1)[1]
        where = "request_id = ? AND choice = 0"
        (text,) = store.execute(f"SELECT output_tokens FROM attempt WHERE {where}", (bare,)).fetchone()
        tokens = json.loads(text)
        tokens[at] ^= 1
        store.execute(f"UPDATE attempt SET output_tokens = ? WHERE {where}", (json.dumps(tokens), bare))


def generated(home, identity):
    """How many tokens are recorded of a request's first answer."""
    with sqlite3.connect(Path(home) / "store" / "lastmile.db") as store:
        row = store.execute(
            "SELECT completion_tokens FROM attempt WHERE request_id = ? AND choice = 0",
            (identity.split("-", 1)[1],),
        ).fetchone()
    return row[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--kv-memory", default="26", help="MiB; small, so that blocks run out")
    parser.add_argument("--max-model-len", default="1024")
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="flight-"))
    (home / "models").symlink_to(TEST_HOME / "models", target_is_directory=True)
    server = Server(
        home, "--model", args.model, "--offline", "--kv-memory", args.kv_memory, "--max-model-len", args.max_model_len
    )
    begun = time.monotonic()
    ids = ask_all(server, args.requests, args.streams)
    served_s = time.monotonic() - begun
    metrics = server.metrics()
    count = lambda name: sum(value for _, value in metrics[name])  # noqa: E731
    assert server.stop() == 0
    found = {
        "requests": len(ids),
        "served_s": round(served_s, 1),
        "preemptions": count("vllm:num_preemptions_total"),
        "cached_tokens": count("vllm:prefix_cache_hits_total"),
    }
    begun = time.monotonic()
    status, document, said = replay(home, "--last", str(args.requests))
    assert document, said
    found |= {"replay_s": round(time.monotonic() - begun, 1), "status": status}
    found |= {key: document[key] for key in ("n", "n_identical", "n_diverged", "n_failed")}
    found["not_identical"] = [one for one in document["answers"] if one["verdict"] != "identical"][:10]
    some = max(ids[1::8], key=lambda one: generated(home, one))
    variants = {
        "seed": (["--seed", "1"], {}),
        "system": (["--system", "Answer as a pirate, in verse."], {}),
        "isa": ([], {"LASTMILE_ISA": "scalar"}),
        "kv_cache": (["--kv-cache", "int8"], {}),
    }
    for name, (flags, variables) in variants.items():
        _, document, said = replay(home, some, *flags, variables=variables)
        found[name] = document["answers"][0] if document else said
    corrupt(home, some, generated(home, some) // 2)
    _, document, said = replay(home, some)
    found["corrupted"] = document["answers"][0] if document else said
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
