"""What shadow copies cost the primary: time to first token with and without them, in turns, over HTTP.

    python3 benches/shadow/ttft.py HOME [--costs FILE] [--rounds N] [--output FILE]

HOME has the model smollm2-135m-instruct. With `--costs`, as `lastmile placeholder calibrate` writes them, the placeholder
takes its place: its steps take as long and use no core, so that the machine's own ups and downs stay out. Requests come at
random times, whether or not the ones before are answered, as many as leave the machine idle for a good half of its time; the
same times and prompts in every round but for a word, so that none finds another's prefix. What is compared is the mean of a
quantile over the rounds of a side. A shared machine has days and minutes of different speed: before and after each round, while
nothing is shadowed, a few requests come one after another, and the round's times are divided by how long these took. The
interval is that of rounds drawn again and again.

Beside that each round tells what a copy costs who comes while it runs: requests that meet no other one come some time after the
answer before them, when copies run, and what counts is how long they waited for their first step (`queue_wait_ms`).
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
# Mean time from one request to the next, by how long one takes alone.
GAP_BY_PROBE, N_PROBES, N_LONE = 2.5, 9, 40
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
        "timings": True,
    }
    request = urllib.request.Request(
        url + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    began, at_client, timings = time.perf_counter(), None, {}
    with urllib.request.urlopen(request, timeout=120) as answer:
        for line in answer:
            if at_client is None and b'"content":"' in line and b'"content":""' not in line:
                at_client = 1e3 * (time.perf_counter() - began)
            if b'"ttft_ms"' in line:
                timings = json.loads(line.removeprefix(b"data: "))["timings"]
    found[i] = at_client and (at_client, timings["ttft_ms"], timings["queue_wait_ms"])


def burst(url, words, seed, n_requests, gap_s):
    """One round: what each request waited for its first token, in milliseconds, as it saw it and as the server did."""
    dice, found, threads = random.Random(seed), [None] * n_requests, []
    for i in range(n_requests):
        prompt = " ".join(dice.choices(WORDS, k=dice.randint(*words)))
        thread = threading.Thread(
            target=ask, args=(url, f"{time.time_ns()} {prompt}", f"user {i}", i, found)
        )
        thread.start()
        threads.append(thread)
        time.sleep(dice.expovariate(1 / gap_s))
    for thread in threads:
        thread.join()
    return found


def probe(url, words, i):
    """How long a prompt takes when nothing else is to be done, in milliseconds."""
    n_words, found = sum(words) // 2, [None] * N_PROBES
    for k in range(N_PROBES):
        text = " ".join(random.Random(k).choices(WORDS, k=n_words))
        ask(url, f"{time.time_ns()} {text}", f"probe {i} {k}", k, found)
    return statistics.median(one[0] for one in found if one is not None)


def lone(url, words, i):
    """What requests waited for their first step that came when no other one was there, in milliseconds."""
    dice, found = random.Random(i), [None] * N_LONE
    for k in range(N_LONE):
        # Copies run after 100 ms without a request.
        time.sleep(dice.uniform(0.11, 0.16))
        text = " ".join(dice.choices(WORDS, k=sum(words) // 2))
        ask(url, f"{time.time_ns()} {text}", f"lone {i} {k}", k, found)
    return [one[2] for one in found if one is not None]


def mean_of(rounds, q):
    """The mean of a quantile over some rounds. An answer whose first word came to nothing has no time to it."""
    return statistics.mean(quantile([ms for ms in one if ms is not None], q) for one in rounds)


def ratio_interval(rounds, q, n=2000):
    """95 % of the ratios with/without of a quantile, the rounds of each side drawn with replacement."""
    dice, ratios = random.Random(1), []
    for _ in range(n):
        drawn = {side: dice.choices(of_side, k=len(of_side)) for side, of_side in rounds.items()}
        at = {side: mean_of(of_side, q) for side, of_side in drawn.items()}
        ratios.append(at["with"] / at["without"])
    return [round(quantile(ratios, tail), 4) for tail in (0.025, 0.975)]


def compare(rounds):
    """Quantiles of both sides, their ratios, and the intervals of these."""
    qs = (50, 90, 99)
    found = {
        side: {f"p{q}": round(mean_of(of_side, q / 100), 2) for q in qs}
        for side, of_side in rounds.items()
    }
    ratio = {f"p{q}": round(found["with"][f"p{q}"] / found["without"][f"p{q}"], 4) for q in qs}
    return found | {
        "ratio": ratio,
        "ratio_95": {f"p{q}": ratio_interval(rounds, q / 100) for q in qs},
    }


def quantile(values, q):
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
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
        gap_s = GAP_BY_PROBE * probe(url, words, "first") / 1e3
        burst(url, words, 999, 60, gap_s)
        sides, probes, waits = ({"without": [], "with": []} for _ in range(3))
        for i in range(2 * args.rounds):
            # without, with, with, without: what drifts falls on both.
            side = "with" if (i + 1) // 2 % 2 else "without"
            before = probe(url, words, i)
            if side == "with":
                spec = {
                    "name": f"round-{i}", "owner": "bench", "reason": "shadow", "model": model,
                    "candidate": {"params": {"top_k": 7}}, "goal": {"metric": "not_failure"},
                }
                verb(home, "exp", "start", "-", stdin=json.dumps(spec))
                time.sleep(0.3)
            sides[side].append(burst(url, words, 0, args.requests, gap_s))
            waits[side] += lone(url, words, i)
            if side == "with":
                verb(home, "exp", "stop", f"round-{i}", "--reason", "over")
                time.sleep(0.3)
            probes[side].append((before + probe(url, words, i)) / 2)
        with urllib.request.urlopen(url + "/ops/v1/experiments", timeout=60) as answer:
            shadow = json.loads(answer.read())["shadow"]
    finally:
        server.terminate()
        server.wait(60)
    usual = statistics.median(probes["without"] + probes["with"])
    compared = {}
    for place, name in enumerate(("at_client", "at_server")):
        timed = {
            side: [[ms and ms[place] for ms in one] for one in rounds]
            for side, rounds in sides.items()
        }
        even = {
            side: [
                [ms and ms * usual / took for ms in one]
                for one, took in zip(rounds, probes[side])
            ]
            for side, rounds in timed.items()
        }
        compared[name] = compare(even) | {"as_timed": compare(timed)}
    report = {
        "model": model if not args.costs else "placeholder with the costs of " + MODEL,
        "requests_per_round": args.requests,
        "rounds_per_side": args.rounds,
        "mean_gap_s": round(gap_s, 3),
        "shadow": shadow,
        "queue_wait_ms_of_lone": {
            side: {"n": len(of_side)}
            | {f"p{q}": round(quantile(of_side, q / 100), 3) for q in (50, 90, 99, 100)}
            for side, of_side in waits.items()
        },
        "probe_ms": {side: [round(ms, 2) for ms in took] for side, took in probes.items()},
        **compared,
        "rounds": {
            side: [[ms and [round(part, 2) for part in ms] for ms in one] for one in rounds]
            for side, rounds in sides.items()
        },
    }
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")
    del report["rounds"]
    print(json.dumps(report))


main()
