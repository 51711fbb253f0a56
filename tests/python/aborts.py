"""Clients that leave at every stage, thousands of times, and what is left of them in the server.

The suite runs a short version. By hand, against a server of its own on a real model:

    python3 tests/python/aborts.py --model smollm2-135m-instruct --requests 10000
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "faults")]

STAGES = ["queued", "prefill", "decode"]


def body_for(stage, rng, vocab, n_prompt):
    # Fresh tokens, so that the prefix cache shortens no prefill.
    prompt = [rng.randrange(*vocab) for _ in range(n_prompt if stage == "prefill" else 24)]
    fields = {"max_tokens": 200, "temperature": 0, "ignore_eos": True, "stream": True}
    return {"prompt": prompt} | fields


async def abort_one(port, stage, rng, vocab, n_prompt):
    """Leaves where the stage says; a server that is full counts as left in the queue."""
    from bystander import message

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message(body_for(stage, rng, vocab, n_prompt)))
    await writer.drain()
    seen = stage
    if stage == "decode":
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 120)
        if b" 200 " in head.split(b"\r\n", 1)[0]:
            for _ in range(rng.randrange(1, 4)):
                await asyncio.wait_for(reader.readuntil(b"data: "), 120)
        else:
            seen = "refused"
    elif stage == "prefill":
        # Long enough to be admitted, too short for the whole prompt.
        await asyncio.sleep(rng.uniform(0.01, 0.2))
    # Without RST each would hold a port of this machine for a minute.
    writer.transport.abort()
    return seen


async def abort_all(port, n, n_clients=64, vocab=(1000, 40000), n_prompt=600, seed=1):
    """Aborts `n` requests, as many at every stage; how many left where."""
    rng, left = random.Random(seed), iter(range(n))
    counts = dict.fromkeys([*STAGES, "refused"], 0)

    async def client():
        for i in left:
            counts[await abort_one(port, STAGES[i % 3], rng, vocab, n_prompt)] += 1

    await asyncio.gather(*(client() for _ in range(n_clients)))
    return counts


def measure(server, n, **options):
    """Free blocks, files and resident memory before and after `n` aborted requests."""
    from bystander import at_rest, port_of, status_kb, total, until

    port = port_of(server)

    def all_are_stored():
        return total(server, "lastmile_store_queue_len") == 0

    def state():
        files = at_rest(server)
        until(60, all_are_stored)
        free = total(server, "lastmile_kv_blocks_free")
        return {"free_blocks": free, "files": files, "rss_kb": status_kb(server, "VmRSS")}

    # Buffers, every block of the KV pool and the store's caches are touched first: blocks are taken in turn. A slow
    # machine computes less until its clients leave, and touches fewer of them each time.
    level = 0
    for seed in range(100, 110):
        asyncio.run(abort_all(port, max(300, n // 10), seed=seed, **options))
        before = state()
        if before["rss_kb"] <= level + (4 << 10):
            break
        level = before["rss_kb"]
    begun = time.monotonic()
    counts = asyncio.run(abort_all(port, n, **options))
    took = time.monotonic() - begun
    after = state()
    n_aborted = total(server, "lastmile_requests_finished_total", finished_reason="abort")
    return {"left_at": counts, "before": before, "after": after, "seconds": round(took, 1),
            "aborted_by_the_engine": n_aborted}  # fmt: skip


def main():
    from conftest import TEST_HOME, Server

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "models").symlink_to(TEST_HOME / "models", target_is_directory=True)
        server = Server(home, "--model", args.model, "--offline", "--kv-memory", "256")
        print(json.dumps(measure(server, args.requests, n_clients=args.clients)))
        server.stop()


if __name__ == "__main__":
    main()
