"""What shadow copies cost the primary: time to first token with and without them, in turns, over HTTP.

    python3 benches/shadow/ttft.py HOME [--costs FILE] [--rounds N] [--output FILE]

HOME has the model smollm2-135m-instruct. With `--costs`, as `lastmile placeholder calibrate` writes them, the placeholder
takes its place: its steps take as long and use no core, so that the machine's own ups and downs stay out. Requests come at random times, whether or not the ones before are answered; the same
times and prompts in every round but for a word, so that none finds another's prefix. What is compared is each request's
median over the rounds of a side: single figures differ by what else the machine does.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "target" / "release" / "lastmile"
MODEL = "smollm2-135m-instruct"
N_REQUESTS, MEAN_GAP_S = 300, 0.16
WORDS = "river stone market winter letter garden window silver morning bridge".split()


def verb(home, *args, stdin=None):
    ran = subprocess.run(
        [PROGRAM, *args, "--json"],
        env=os.environ | {"LASTMILE_HOME": str(home)},
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


def ask(url, prompt, user, i, found):
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 8,
        "stream": True,
        "user": user,
    }
    request = urllib.request.Request(
        url + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as answer:
        for line in answer:
            if b'"content":"' in line and b'"content":""' not in line:
                found[i] = 1e3 * (time.perf_counter() - began)
                break
        answer.read()


def burst(url, words, seed, n_requests):
    """One round: what each request waited for, in milliseconds."""
    dice, found, threads = random.Random(seed), [None] * n_requests, []
    for i in range(n_requests):
        prompt = " ".join(dice.choices(WORDS, k=dice.randint(*words)))
        thread = threading.Thread(
            target=ask, args=(url, f"{time.time_ns()} {prompt}", f"user {i}", i, found)
        )
        thread.start()
        threads.append(thread)
        time.sleep(dice.expovariate(1 / MEAN_GAP_S))
    for thread in threads:
        thread.join()
    return found


def quantile(values, q):
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def main():
    args = arguments()
    shared = args.home
    model, words, more = MODEL, (20, 120), ["--offline"]
    if args.costs:
        # Its tokens are bytes, so that fewer words are as many tokens.
        model, words, more = "placeholder", (3, 20), ["--placeholder-costs", str(args.costs.resolve())]
    home = Path(tempfile.mkdtemp())
    (home / "models").symlink_to((shared / "models").resolve(), target_is_directory=True)
    server = subprocess.Popen(
        [PROGRAM, "serve", "--port", "0", "--model", model, *more],
        env=os.environ | {"LASTMILE_HOME": str(home), "LASTMILE_LOG": "warn"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = None
        for line in server.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                url = found.group(1)
                break
        threading.Thread(target=server.stderr.read, daemon=True).start()
        burst(url, words, 999, 60)
        sides = {"without": [], "with": []}
        for i in range(2 * args.rounds):
            # without, with, with, without: what drifts falls on both.
            side = "with" if (i + 1) // 2 % 2 else "without"
            if side == "with":
                spec = {
                    "name": f"round-{i}", "owner": "bench", "reason": "shadow", "model": model,
                    "candidate": {"params": {"top_k": 7}}, "goal": {"metric": "not_failure"},
                }
                verb(home, "exp", "start", "-", stdin=json.dumps(spec))
                time.sleep(0.3)
            sides[side].append(burst(url, words, 0, N_REQUESTS))
            if side == "with":
                verb(home, "exp", "stop", f"round-{i}", "--reason", "over")
                time.sleep(0.3)
        with urllib.request.urlopen(url + "/ops/v1/experiments", timeout=60) as answer:
            shadow = json.loads(answer.read())["shadow"]
    finally:
        server.terminate()
        server.wait(60)
    # An answer whose first word came to nothing has no time to it.
    medians = {
        side: [statistics.median(times) for times in zip(*rounds) if None not in times]
        for side, rounds in sides.items()
    }
    quantiles = {
        side: {q: quantile(values, q / 100) for q in (50, 90, 99)}
        for side, values in medians.items()
    }
    report = {
        "model": model if not args.costs else "placeholder with the costs of " + MODEL,
        "requests_per_round": N_REQUESTS,
        "rounds_per_side": args.rounds,
        "mean_gap_s": MEAN_GAP_S,
        "shadow": shadow,
        "compared": {side: len(values) for side, values in medians.items()},
        "ttft_ms": {
            side: {f"p{q}": round(ms, 2) for q, ms in values.items()}
            for side, values in quantiles.items()
        },
        "ratio": {
            f"p{q}": round(quantiles["with"][q] / quantiles["without"][q], 4) for q in (50, 90, 99)
        },
        "rounds": {
            side: [[ms and round(ms, 2) for ms in one] for one in rounds]
            for side, rounds in sides.items()
        },
    }
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")
    del report["rounds"]
    print(json.dumps(report))


main()
