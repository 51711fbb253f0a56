"""What streams, prompts and crowds go through under load, as their clients see it.

The tests use short versions. By hand, against a server that runs already:

    python3 tests/python/pressure.py http://127.0.0.1:8080 --rounds 5

What comes of too many clients is in overload.py.
"""

import argparse
import http.client
import json
import random
import threading
import time
import urllib.parse


def connect(url, timeout=300):
    return http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=timeout)


def post(url, body, headers=None):
    """Status, headers and JSON of a completion, whatever came of it."""
    connection = connect(url)
    headers = {"content-type": "application/json"} | (headers or {})
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    answer = response.status, dict(response.getheaders()), json.loads(response.read())
    connection.close()
    return answer


def token_times(url, body, stop=None, ids=None):
    """Sends a streamed completion; the times of its chunks with text, counted from its start.

    With `stop`, an event, it leaves once that is set. The request's id is put into `ids`.
    """
    connection = connect(url)
    start = time.perf_counter()
    body = json.dumps(body | {"stream": True})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    if ids is not None:
        ids.append(response.getheader("x-request-id"))
    times = []
    for line in response:
        if line.startswith(b"data: {") and b'"finish_reason":null' in line:
            times.append(time.perf_counter() - start)
        assert not line.startswith(b"event: error"), next(iter(response))
        if stop and stop.is_set():
            break
    connection.close()
    return times


def percentile(values, percent):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


def fresh_prompt(rng, n_tokens, vocab):
    """Token ids that no prefix cache knows."""
    return [rng.randrange(*vocab) for _ in range(n_tokens)]


def jitter(stop, gaps):
    """How long this process is kept from running, in seconds: what no server can be blamed for."""
    last = time.perf_counter()
    while not stop.is_set():
        time.sleep(0.005)
        now = time.perf_counter()
        gaps.append(now - last - 0.005)
        last = now


def largest_engine_gaps(url, request_id):
    """The largest gaps of one answer as the engine saw them, in seconds, the largest first."""
    for _ in range(100):
        connection = connect(url)
        connection.request("GET", f"/v1/requests/{request_id}/timeline")
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        # It is there once the answer is over and written.
        if response.status == 200 and answer["answers"][0].get("is_recorded"):
            return [gap["ms"] / 1000 for gap in answer["answers"][0]["largest_gaps"]]
        time.sleep(0.1)
    raise AssertionError(f"no timeline of {request_id}: {answer}")


def gaps_while_a_prompt_arrives(url, rng, n_prompt=3000, vocab=(1000, 40000), n_stream_tokens=4000):
    """Gaps of one running stream around a long prompt, in seconds; the prompt's TTFT alone and then.

    `engine` has the largest gaps of the whole stream as the engine saw them, `client` as many as the client saw.
    """
    long = {"max_tokens": 1, "ignore_eos": True, "temperature": 0}
    alone = token_times(url, long | {"prompt": fresh_prompt(rng, n_prompt, vocab)})[0]
    body = long | {"prompt": fresh_prompt(rng, 20, vocab), "max_tokens": n_stream_tokens}
    times, stop, late, ids = [], threading.Event(), [], []
    stream = threading.Thread(target=lambda: times.extend(token_times(url, body, stop, ids)))
    watch = threading.Thread(target=jitter, args=(stop, late))
    begin = time.perf_counter()
    stream.start()
    watch.start()
    time.sleep(0.5)
    sent = time.perf_counter() - begin
    beside = token_times(url, long | {"prompt": fresh_prompt(rng, n_prompt, vocab)})[0]
    got = time.perf_counter() - begin
    time.sleep(0.3)
    stop.set()
    stream.join()
    watch.join()
    pairs = list(zip(times, times[1:], strict=False))
    engine = largest_engine_gaps(url, ids[0])
    return {
        "gaps": [b - a for a, b in pairs if b >= sent and a <= got],
        "client": sorted((b - a for a, b in pairs), reverse=True)[: len(engine)],
        "engine": engine,
        "ttft_alone": alone,
        "ttft_beside": beside,
        "jitter": max(late),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=3000)
    parser.add_argument("--vocab", type=int, nargs=2, default=(1000, 40000))
    args = parser.parse_args()
    rng = random.Random()
    for _ in range(args.rounds):
        found = gaps_while_a_prompt_arrives(args.url, rng, args.prompt_tokens, args.vocab)
        gaps = [1000 * gap for gap in found["gaps"]]
        print(
            json.dumps(
                {
                    "n_gaps": len(gaps),
                    "p50_ms": round(percentile(gaps, 50), 1),
                    "p99_ms": round(percentile(gaps, 99), 1),
                    "worst_ms": round(max(gaps), 1),
                    "largest_ms": {who: [round(1000 * gap, 1) for gap in found[who]] for who in ("client", "engine")},
                    "ttft_alone_ms": round(1000 * found["ttft_alone"]),
                    "ttft_ratio": round(found["ttft_beside"] / found["ttft_alone"], 2),
                    "jitter_ms": round(1000 * found["jitter"], 1),
                }
            )
        )


if __name__ == "__main__":
    main()
