"""One key with a crowd of greedy clients beside a key with a single client."""

import asyncio
import json
import time

from bystander import completion, expected, message, metrics_with_key, port_of, statuses, until
from conftest import Server, run

# A step of 16 rows takes 10 ms and 16 times 0.5 ms.
STEP_S, ROW_S, N_SLOTS, N_GREEDY = 0.010, 0.0005, 16, 64
MODEL = f"placeholder:delay_us={STEP_S * 1e6:.0f},delay_per_token_us={ROW_S * 1e6:.0f}"
GAP_BOUND_S = 0.1
SINGLE = completion("the single one", 120)
PROBE = completion("a first token", 4)


def make_key(home, name):
    made = run(home, "keys", "create", name, "--scopes", "infer,metrics", "--json")
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)["key"]


async def streamed(port, key, body):
    """Text, and when each piece of it came, from the request on."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    more = f"Authorization: Bearer {key}\r\nConnection: close"
    writer.write(message(body | {"stream": True}, more))
    assert statuses(await reader.readuntil(b"\r\n\r\n")) == [200]
    text, times = "", []
    async for line in reader:
        assert not line.startswith(b"event: error"), await reader.readline()
        if line.startswith(b"data: {"):
            piece = json.loads(line[6:])["choices"][0]["text"]
            if piece:
                times.append(time.perf_counter() - began)
            text += piece
    writer.close()
    return text, times


async def greedy(port, key, number, n_tokens):
    asked = 0
    while True:
        body = completion(f"greedy {number} {asked}", 40)
        text, times = await streamed(port, key, body)
        n_tokens.extend([1] * len(times))
        asked += 1


async def first_tokens(port, key, n):
    """The times to the first token of requests one after another."""
    found = []
    for i in range(n):
        _, times = await streamed(port, key, PROBE | {"prompt": f"{PROBE['prompt']} {i}"})
        found.append(times[0])
    return sorted(found)


async def measure(server, crowd, single):
    port = port_of(server)
    alone = await first_tokens(port, single, 20)
    n_tokens = []
    tasks = [
        asyncio.create_task(greedy(port, crowd, i, n_tokens)) for i in range(N_GREEDY)
    ]
    while len(n_tokens) < 2 * N_GREEDY:
        await asyncio.sleep(0.02)
    beside = await first_tokens(port, single, 25)
    looked, steps = time.perf_counter(), metrics_with_key(server, single)["lastmile_steps_total"]
    began, n_before = time.perf_counter(), len(n_tokens)
    text, times = await streamed(port, single, SINGLE)
    elapsed, n_crowd = time.perf_counter() - began, len(n_tokens) - n_before
    steps = metrics_with_key(server, single)["lastmile_steps_total"] - steps
    # A stream that is never passed over gets a token each step.
    of_a_stream = steps / (time.perf_counter() - looked)
    # None has ended: whoever failed shows it here.
    assert not [task.result() for task in tasks if task.done()]
    [task.cancel() for task in tasks]
    await asyncio.gather(*tasks, return_exceptions=True)
    return alone, beside, text, times, elapsed, n_crowd, of_a_stream


def test_a_crowd_does_not_starve_a_single_client(tmp_path):
    crowd, single = make_key(tmp_path, "crowd"), make_key(tmp_path, "single")
    limits = ["--max-num-seqs", str(N_SLOTS), "--max-token-gap-ms", str(int(GAP_BOUND_S * 1000))]
    server = Server(tmp_path, "--model", MODEL, *limits)
    found = asyncio.run(measure(server, crowd, single))
    alone, beside, text, times, elapsed, n_crowd, of_a_stream = found
    assert text == expected(SINGLE)
    rate, share = len(times) / elapsed, (n_crowd + len(times)) / elapsed / 2
    print(f"single {rate:.1f} tokens/s, a stream {of_a_stream:.1f}, share {share:.1f}")
    print(f"first token: alone {alone[-1]:.3f} s, beside {beside[-3]:.3f} s, the longest {beside[-1]:.3f} s")
    assert n_crowd / elapsed >= 5 * rate, "the crowd was there"
    assert rate >= 0.8 * min(share, of_a_stream), (rate, share, of_a_stream)
    assert rate >= 0.2 / (STEP_S + N_SLOTS * ROW_S), "the steps themselves became slow"
    # Who is passed over waits for 3 s. Two of the 25 may meet a slow moment of the machine.
    assert beside[-3] <= alone[-1] + 10 * GAP_BOUND_S, (alone[-1], beside[-3:])

    def nothing_is_left():
        page = metrics_with_key(server, single)
        free = page["lastmile_kv_blocks_free"] == page["lastmile_kv_blocks"]
        return free and page["lastmile_requests_running"] == page["lastmile_requests_waiting"] == 0

    until(10, nothing_is_left)
    assert server.stop() == 0
