"""What 50 rules cost a request: times to the first token and to the end with and without them, in turns, over HTTP.

    python3 benches/overrides/latency.py [--requests 500] [--rounds 10] [--streams 1] [--output FILE]

One placeholder, one server; the rules are published before a round and removed after it. They ask for all that rules can ask for,
and none of them holds, so that both sides answer the same: every request is compared with every rule, and every token of an answer
with every banned phrase. With 1 stream, what is measured is the time of a request alone. The last line is one JSON document.
"""

import argparse
import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target" / "release" / "lastmile"
MODEL = "placeholder:mode=random,mean_tokens=1000"
WORDS = "river stone market winter letter garden window silver morning bridge".split()
N_RULES, LIMIT_MS = 50, 1.0


def rules():
    """Of ten rules: four ban phrases, three read the prompt, two the request's fields, and one is about a language."""
    for i in range(N_RULES):
        when, then = {}, {"action": "canned", "text": "Closed today."}
        if i % 10 < 4:
            # Each begins as answers may, so that text is held back for it.
            then = {"action": "ban", "phrases": [f"{word} qx{i}z" for word in WORDS[:8]], "ignore_case": i % 2 == 0}
        elif i % 10 < 7:
            when = {"prompt": rf"(?i)\b(forbidden|secret)\b.*number {i}$"}
        elif i % 10 < 9:
            when = {"json": [{"path": "$.messages[*].content", "matches": f"never {i}"}, {"path": "$.max_tokens", "equals": 16}]}
        else:
            when = {"language": "ja", "routes": ["/v1/chat/completions"]}
        yield {"id": f"rule-{i}", "owner": "bench", "reason": "what rules cost", "priority": i, "when": when, "then": then}


class Client:
    """One connection that is kept."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address, timeout=60)

    def post(self, path, body):
        self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status in (200, 201), text
        return text

    def ask(self, prompt):
        """Milliseconds to the first token and to the end."""
        body = json.dumps({
            "messages": [{"role": "user", "content": prompt}], "max_tokens": 16, "stream": True, "ignore_eos": True, "temperature": 0,
        })
        began = time.perf_counter()
        self.connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        answer, first = self.connection.getresponse(), None
        assert answer.status == 200 and answer.getheader("x-lastmile-override") is None
        for line in answer:
            if first is None and b'"content":"' in line and b'"content":""' not in line:
                first = time.perf_counter()
        ended = time.perf_counter()
        assert first is not None
        return 1e3 * (first - began), 1e3 * (ended - began)


def burst(address, seed, n_requests, n_streams):
    """One round. Both sides have the same prompts but for a word, so that neither finds the other's prefix."""
    found = []

    def run(stream):
        client, dice = Client(address), random.Random(seed * 1000 + stream)
        for _ in range(n_requests // n_streams):
            prompt = " ".join(dice.choices(WORDS, k=dice.randint(5, 60)))
            found.append(client.ask(f"{time.time_ns()} {prompt}"))

    threads = [threading.Thread(target=run, args=(stream,)) for stream in range(n_streams)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == n_requests // n_streams * n_streams, "a stream failed"
    return found


def quantile(values, q):
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


def measure(address, args):
    operator = Client(address)
    sides = {"without": [], "with": []}
    burst(address, 999, args.requests, args.streams)
    for i in range(2 * args.rounds):
        # without, with, with, without: what drifts falls on both.
        side = "with" if (i + 1) // 2 % 2 else "without"
        if side == "with":
            for rule in rules():
                operator.post("/ops/v1/overrides?publish=true", rule)
        sides[side].append(burst(address, i // 2, args.requests, args.streams))
        if side == "with":
            for rule in rules():
                operator.post(f"/ops/v1/overrides/{rule['id']}/remove", {})
    return sides


def summary(sides, which):
    """Quantiles of each side, and what the rules add: of all requests, and the median over pairs of rounds."""
    times = {side: [[one[which] for one in a_round] for a_round in rounds] for side, rounds in sides.items()}
    report = {}
    for q in (50, 90, 99):
        of_all = {side: quantile(sum(rounds, []), q / 100) for side, rounds in times.items()}
        pairs = [quantile(b, q / 100) - quantile(a, q / 100) for a, b in zip(times["without"], times["with"])]
        report[f"p{q}"] = {
            "without_ms": round(of_all["without"], 3),
            "with_ms": round(of_all["with"], 3),
            "added_ms": round(of_all["with"] - of_all["without"], 3),
            "added_ms_median_of_rounds": round(statistics.median(pairs), 3),
        }
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500, help="in a round")
    parser.add_argument("--rounds", type=int, default=10, help="of each side")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where raw times are kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen(
            [PROGRAM, "serve", "--port", "0", "--model", MODEL],
            env=os.environ | {"LASTMILE_HOME": home, "LASTMILE_LOG": "warn"},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            address = next(found.group(1) for line in server.stderr if (found := re.search(r"listening on http://(\S+)", line)))
            threading.Thread(target=server.stderr.read, daemon=True).start()
            sides = measure(address, args)
        finally:
            server.terminate()
            server.wait(60)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit,
        "rules": N_RULES,
        "streams": args.streams,
        "requests_per_side": sum(map(len, sides["with"])),
        "ttft": summary(sides, 0),
        "e2e": summary(sides, 1),
        "limit_ms": LIMIT_MS,
    }
    report["is_within"] = all(report[which]["p99"]["added_ms_median_of_rounds"] < LIMIT_MS for which in ("ttft", "e2e"))
    if args.output:
        raw = {side: [[[round(ms, 3) for ms in one] for one in a_round] for a_round in rounds] for side, rounds in sides.items()}
        args.output.write_text(json.dumps(report | {"rounds": raw}) + "\n")
    for which in ("ttft", "e2e"):
        for name, one in report[which].items():
            print(f"{which:<5} {name:<4} without {one['without_ms']:8.3f} ms  with {one['with_ms']:8.3f} ms  "
                  f"added {one['added_ms']:+7.3f} ms, median of rounds {one['added_ms_median_of_rounds']:+7.3f} ms")
    print(json.dumps(report))
    raise SystemExit(0 if report["is_within"] else 1)


if __name__ == "__main__":
    main()
