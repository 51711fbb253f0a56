"""What streams, prompts and crowds go through under load, as their clients see it.

The tests use short versions. By hand, against a server that runs already:

    python3 tests/python/pressure.py gaps http://127.0.0.1:8080 --rounds 5
    python3 tests/python/pressure.py overload http://127.0.0.1:8080 --seconds 120
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


def token_times(url, body, stop=None):
    """Sends a streamed completion; the times of its chunks with text, counted from its start.

    With `stop`, an event, it leaves once that is set.
    """
    connection = connect(url)
    start = time.perf_counter()
    body = json.dumps(body | {"stream": True})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
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


def gaps_while_a_prompt_arrives(url, rng, n_prompt=3000, vocab=(1000, 40000), n_stream_tokens=4000):
    """Gaps of one running stream around a long prompt, in seconds; the prompt's TTFT alone and then."""
    long = {"max_tokens": 1, "ignore_eos": True, "temperature": 0}
    alone = token_times(url, long | {"prompt": fresh_prompt(rng, n_prompt, vocab)})[0]
    body = long | {"prompt": fresh_prompt(rng, 20, vocab), "max_tokens": n_stream_tokens}
    times, stop, late = [], threading.Event(), []
    stream = threading.Thread(target=lambda: times.extend(token_times(url, body, stop)))
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
    pairs = [(b - a) for a, b in zip(times, times[1:], strict=False) if b >= sent and a <= got]
    return {"gaps": pairs, "ttft_alone": alone, "ttft_beside": beside, "jitter": max(late)}


class Overload:
    """Clients that come at a steady rate and come again once, when they are told to."""

    def __init__(self, url, body, rate, seconds, patience=60):
        self.url, self.body, self.rate, self.seconds = url, body, rate, seconds
        self.patience = patience
        self.lock = threading.Lock()
        self.n_sent = self.n_first = self.n_retried = self.n_retry_admitted = 0
        self.n_late = self.n_lost = self.n_tokens = self.n_other = 0
        self.waits = []

    def client(self, i):
        body = self.body | {"prompt": f"{self.body['prompt']} {i} {random.random()}"}
        try:
            status, headers, answer = post(self.url, body)
            self.note(status, answer, is_retry=False)
            if status != 429 or "retry-after-ms" not in headers:
                return
            wait = int(headers["retry-after-ms"]) / 1000
            with self.lock:
                self.waits.append(wait)
            if wait > self.patience:
                return
            time.sleep(wait)
            status, headers, answer = post(self.url, body)
            self.note(status, answer, is_retry=True)
        except OSError:
            with self.lock:
                self.n_lost += 1

    def note(self, status, answer, is_retry):
        with self.lock:
            self.n_sent += 1
            self.n_retried += is_retry
            if status == 200:
                self.n_tokens += answer["usage"]["completion_tokens"]
                self.n_first += not is_retry
                self.n_retry_admitted += is_retry
            elif status == 408:
                self.n_late += 1
                self.n_retry_admitted += is_retry
            elif status != 429:
                self.n_other += 1

    def run(self):
        begin, threads = time.perf_counter(), []
        for i in range(int(self.rate * self.seconds)):
            time.sleep(max(0, begin + i / self.rate - time.perf_counter()))
            thread = threading.Thread(target=self.client, args=(i,))
            thread.start()
            threads.append(thread)
        [thread.join() for thread in threads]
        self.elapsed = time.perf_counter() - begin
        return self

    def report(self):
        return {
            "sent": self.n_sent,
            "admitted_at_once": self.n_first,
            "retried": self.n_retried,
            "retry_admitted": self.n_retry_admitted,
            "admitted_then_too_late": self.n_late,
            "connections_lost": self.n_lost,
            "other_errors": self.n_other,
            "longest_wait_s": max(self.waits, default=0),
            "tokens_per_s": self.n_tokens / self.elapsed,
        }


def capacity(url, body, n_clients, seconds):
    """Requests and tokens a second with so many clients that ask again at once."""
    end, done = time.perf_counter() + seconds, []

    def client(i):
        rng = random.Random(i)
        while time.perf_counter() < end:
            status, _, answer = post(url, body | {"prompt": f"{body['prompt']} {rng.random()}"})
            assert status == 200, answer
            done.append(answer["usage"]["completion_tokens"])

    begin = time.perf_counter()
    threads = [threading.Thread(target=client, args=(i,)) for i in range(n_clients)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    elapsed = time.perf_counter() - begin
    return len(done) / elapsed, sum(done) / elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["gaps", "overload"])
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=3000)
    parser.add_argument("--vocab", type=int, nargs=2, default=(1000, 40000))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--max-queue-ms", type=int, default=4000)
    args = parser.parse_args()
    rng = random.Random()
    if args.what == "gaps":
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
                        "ttft_alone_ms": round(1000 * found["ttft_alone"]),
                        "ttft_ratio": round(found["ttft_beside"] / found["ttft_alone"], 2),
                        "jitter_ms": round(1000 * found["jitter"], 1),
                    }
                )
            )
        return
    body = {"prompt": "hello", "max_tokens": args.max_tokens, "ignore_eos": True}
    rate, tokens = capacity(args.url, body, args.clients, min(20, args.seconds))
    print(json.dumps({"capacity_requests_per_s": rate, "capacity_tokens_per_s": tokens}))
    body |= {"max_queue_ms": args.max_queue_ms}
    overload = Overload(args.url, body, 2 * rate, args.seconds, patience=2 * args.seconds)
    print(json.dumps(overload.run().report()))


if __name__ == "__main__":
    main()
