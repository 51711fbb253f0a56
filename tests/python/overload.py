"""Twice the load that a server can bear: who is told to come again, who then gets in, what is served.

One thread and one event loop, so that the clients take little from the server that they measure; `/health`
is asked from a process of its own. The tests use a short version. By hand, against a server that runs
already, started with `--max-queued-requests 64`:

    python3 tests/python/overload.py http://127.0.0.1:8080 --seconds 120 --pid SERVER
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import re
import time
import urllib.parse
from pathlib import Path

from pressure import percentile

ANSWER_PATIENCE_S = 300


async def exchange(port, data):
    """Status, headers in lower case, and body of one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        found = await asyncio.wait_for(reader.read(), ANSWER_PATIENCE_S)
    finally:
        writer.transport.abort()
    head, _, body = found.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


async def complete(port, body):
    data = json.dumps(body).encode()
    lines = [
        "POST /v1/completions HTTP/1.1", "Host: localhost", "Connection: close",
        "Content-Type: application/json", f"Content-Length: {len(data)}", "", "",
    ]  # fmt: skip
    status, headers, found = await exchange(port, "\r\n".join(lines).encode() + data)
    return status, headers, json.loads(found)


def ask_health(port, stop, times):
    """Asks every 50 ms until told to stop; milliseconds of each answer, and of the process's own lateness."""

    async def ask():
        data = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        found, late = [], []
        while not stop.is_set():
            begun = time.perf_counter()
            status, _, _ = await exchange(port, data)
            assert status == 200, status
            found.append(1000 * (time.perf_counter() - begun))
            begun = time.perf_counter()
            await asyncio.sleep(0.05)
            late.append(1000 * (time.perf_counter() - begun - 0.05))
        times.put((found, late))

    asyncio.run(ask())


class HealthWatch:
    """A process that asks `/health` for as long as this is open; `found` has its times afterwards."""

    def __init__(self, port):
        self.stop, self.times = multiprocessing.Event(), multiprocessing.Queue()
        args = (port, self.stop, self.times)
        self.process = multiprocessing.Process(target=ask_health, args=args)

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.found = self.times.get(timeout=60)
        self.process.join()


def rss_kb(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text).group(1))


class Overload:
    """Clients that come at a steady rate and come again once, when they are told to."""

    def __init__(self, url, body, rate, seconds, patience=240, pid=None):
        self.port = urllib.parse.urlsplit(url).port
        self.body, self.rate, self.seconds, self.patience = body, rate, seconds, patience
        self.n_sent = self.n_first = self.n_retried = self.n_retry_admitted = 0
        self.n_late = self.n_lost = self.n_tokens = self.n_other = self.n_tokens_in_time = 0
        self.pid, self.waits, self.rss = pid, [], []

    async def client(self, i):
        body = self.body | {"prompt": f"{self.body['prompt']} {i} {random.random()}"}
        try:
            status, headers, answer = await complete(self.port, body)
            self.note(status, answer, is_retry=False)
            if status != 429 or "retry-after-ms" not in headers:
                return
            wait = int(headers["retry-after-ms"]) / 1000
            self.waits.append(wait)
            if wait > self.patience:
                return
            await asyncio.sleep(wait)
            status, headers, answer = await complete(self.port, body)
            self.note(status, answer, is_retry=True)
        except (OSError, TimeoutError, ValueError, IndexError):
            self.n_lost += 1

    def note(self, status, answer, is_retry):
        self.n_sent += 1
        self.n_retried += is_retry
        if status == 200:
            self.n_tokens += answer["usage"]["completion_tokens"]
            if time.perf_counter() < self.begun + self.seconds:
                self.n_tokens_in_time += answer["usage"]["completion_tokens"]
            self.n_first += not is_retry
            self.n_retry_admitted += is_retry
        elif status == 408:
            self.n_late += 1
            self.n_retry_admitted += is_retry
        elif status != 429:
            self.n_other += 1

    async def watch_memory(self):
        while True:
            self.rss.append(rss_kb(self.pid))
            await asyncio.sleep(2)

    async def crowd(self):
        self.begun = time.perf_counter()
        clients = []
        watch = asyncio.create_task(self.watch_memory()) if self.pid else None
        for i in range(int(self.rate * self.seconds)):
            await asyncio.sleep(max(0, self.begun + i / self.rate - time.perf_counter()))
            clients.append(asyncio.create_task(self.client(i)))
        await asyncio.gather(*clients)
        if watch:
            watch.cancel()

    def run(self):
        with HealthWatch(self.port) as watch:
            asyncio.run(self.crowd())
            self.elapsed = time.perf_counter() - self.begun
        self.health, self.late = watch.found
        return self

    def report(self):
        return {
            "sent": self.n_sent,
            "admitted_at_once": self.n_first,
            "retried": self.n_retried,
            "retry_admitted": self.n_retry_admitted,
            "retry_admitted_share": self.n_retry_admitted / max(1, self.n_retried),
            "admitted_then_too_late": self.n_late,
            "connections_lost": self.n_lost,
            "other_errors": self.n_other,
            "longest_wait_s": max(self.waits, default=0),
            "tokens_per_s": self.n_tokens / self.elapsed,
            "tokens_per_s_while_they_come": self.n_tokens_in_time / self.seconds,
            "health_ms": {p: round(percentile(self.health, p), 1) for p in (50, 99, 100)},
            "health_process_late_ms": {p: round(percentile(self.late, p), 1) for p in (50, 99)},
            "rss_kb": self.rss[:: max(1, len(self.rss) // 8)],
        }


def capacity(url, body, n_clients, seconds):
    """Requests and tokens a second with so many clients that ask again at once."""
    port, done = urllib.parse.urlsplit(url).port, []

    async def client(i, end):
        rng = random.Random(i)
        while time.perf_counter() < end:
            status, _, answer = await complete(
                port, body | {"prompt": f"{body['prompt']} {i} {rng.random()}"}
            )
            assert status == 200, answer
            done.append(answer["usage"]["completion_tokens"])

    async def crowd():
        end = time.perf_counter() + seconds
        await asyncio.gather(*(client(i, end) for i in range(n_clients)))

    # What watches the overloaded server runs beside this, too: the two are compared.
    with HealthWatch(port):
        begun = time.perf_counter()
        asyncio.run(crowd())
        elapsed = time.perf_counter() - begun
    return len(done) / elapsed, sum(done) / elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64, help="for the capacity")
    parser.add_argument("--capacity-seconds", type=float, default=20)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--max-queue-ms", type=int)
    parser.add_argument("--pid", type=int, help="of the server, whose memory is watched")
    args = parser.parse_args()
    body = {"prompt": "hello", "max_tokens": args.max_tokens, "ignore_eos": True}
    rate, tokens = capacity(args.url, body, args.clients, args.capacity_seconds)
    print(json.dumps({"capacity_requests_per_s": rate, "capacity_tokens_per_s": tokens}))
    if args.max_queue_ms:
        body |= {"max_queue_ms": args.max_queue_ms}
    outcome = Overload(args.url, body, 2 * rate, args.seconds, pid=args.pid).run()
    report = outcome.report()
    print(json.dumps(report | {"goodput_share": report["tokens_per_s"] / tokens}))


if __name__ == "__main__":
    main()
