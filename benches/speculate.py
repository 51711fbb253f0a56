"""What guessing tokens ahead gains and loses: one server with `--speculate auto` and one with `off`, by turns.

    python benches/speculate.py target/release/lastmile smollm2-135m-instruct --rounds 5 --out benches/results/speculate.json

Each round runs each workload on both servers, the first of them by turns. What is printed is the ratio of the times
(off / auto: above 1 guessing gains), the mean over rounds with a 95 % interval of Student's t on its logarithm. The
last line is one JSON object. Both must answer the same text, token for token; otherwise it ends with status 1.
"""

import argparse
import concurrent.futures
import json
import math
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

# Two-sided 95 % of Student's t, by degrees of freedom.
T95 = [0, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23]

PARAGRAPHS = [
    "The harbour lay quiet under a thin fog, and the fishing boats knocked softly against the old stone quay. "
    "Marta counted the crates of herring twice, wrote the number 417 in her notebook, and tied the last rope to an "
    "iron ring. A boy from the market asked whether the ferry would leave before noon; she pointed at the grey sky "
    "and said that only the wind could answer such a question.",
    "In the second year of the survey, the team measured the depth of eleven lakes in the northern valley. The "
    "deepest of them, Lake Orven, reached 143 metres near its eastern shore, while the shallow ponds around Hallby "
    "froze to the ground each winter. Samples of water were sealed in brown glass, labelled with date and place, and "
    "carried by sled to the station.",
]

CODE = """def parse_header(line):
    name, _, value = line.partition(":")
    name = name.strip().lower()
    value = value.strip()
    if not name:
        raise ValueError("a header has a name")
    return name, value

def read_headers(lines):
    headers = {}
    for line in lines:
        name, value = parse_header(line)
        if name in headers:
            headers[name] += ", " + value
        else:
            headers[name] = value
    return headers
"""

TOPICS = [
    "the history of tea", "how glaciers move", "a holiday in the mountains", "why the sky is blue", "learning the violin",
    "growing tomatoes", "the first railways", "life in the deep sea", "baking bread", "a day at the museum",
    "how bridges stand", "the moon and the tides", "keeping bees", "an old lighthouse", "the art of letters",
    "desert animals",
]


def copy_prompt(i):
    first, second = PARAGRAPHS[i % 2], PARAGRAPHS[(i + 1) % 2]
    return f"Text:\n{first}\n\nThe same text again:\n{first}\n\nText:\n{second}\n\nThe same text again:\n"


def code_prompt(_):
    return f"```python\n{CODE}```\n\nThe same code, where `headers` is called `fields`:\n\n```python\n{CODE.split('def read')[0]}"


def prose_prompt(i):
    return f"Write a short and lively essay about {TOPICS[i % len(TOPICS)]}.\n\n"


def person_prompt(i):
    return f"Text: {PARAGRAPHS[i % 2]}\n\nWho or what is described, as JSON:\n"


FORM = {
    "type": "object",
    "properties": {
        "name_of_the_place": {"type": "string", "maxLength": 20},
        "kind_of_the_place": {"enum": ["harbour", "valley", "village", "laboratory"]},
        "number_of_people": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_near_the_water": {"type": "boolean"},
        "persons": {
            "type": "array", "minItems": 2, "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {
                    "first_name": {"type": "string", "maxLength": 12},
                    "occupation": {"enum": ["fisher", "surveyor", "teacher", "unknown"]},
                },
                "required": ["first_name", "occupation"],
            },
        },
    },
    "required": ["name_of_the_place", "kind_of_the_place", "number_of_people", "is_near_the_water", "persons"],
}

# What else a body says.
FORMED = {"response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": FORM}}}

# name: (prompt, tokens, streams, temperature, requests)
WORKLOADS = {
    "copy": (copy_prompt, 90, 1, 0.0, 2),
    "code": (code_prompt, 90, 1, 0.0, 1),
    "prose": (prose_prompt, 128, 1, 0.0, 2),
    "prose-sampled": (prose_prompt, 128, 1, 0.9, 2),
    "prose-sampled-8": (prose_prompt, 96, 8, 0.9, 8),
    "prose-sampled-32": (prose_prompt, 64, 32, 0.9, 32),
    "copy-8": (copy_prompt, 90, 8, 0.0, 8),
    "form": (person_prompt, 200, 1, 0.7, 2),
    "form-8": (person_prompt, 200, 8, 0.7, 8),
}


class Server:
    def __init__(self, binary, model, speculate):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [binary, "serve", "--model", model, "--port", str(self.port), "--speculate", speculate]
        command += ["--kv-memory", "512", "--offline"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.get("/health/ready")
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
            return reply.read().decode()

    def complete(self, prompt, tokens, temperature, seed, more):
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": temperature, "seed": seed}
        body |= {"ignore_eos": True, "timings": True} | more
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as reply:
            answer = json.load(reply)
        took = answer["timings"]
        decode = took["e2e_ms"] - took["ttft_ms"]
        per_token = decode / max(1, answer["usage"]["completion_tokens"] - 1)
        return answer["choices"][0]["text"], per_token, took["draft_n"], took["draft_n_accepted"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def run(server, name, round_):
    """Mean decode time of a token, the texts, and how guesses fared."""
    prompt, tokens, streams, temperature, requests = WORKLOADS[name]
    more = FORMED if name.startswith("form") else {}
    ask = lambda i: server.complete(prompt(i), tokens, temperature, 1000 * round_ + i, more)
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        answers = list(pool.map(ask, range(requests)))
    times = [answer[1] for answer in answers]
    drafted, accepted = sum(a[2] for a in answers), sum(a[3] for a in answers)
    return statistics.mean(times), [a[0] for a in answers], drafted, accepted


def interval(ratios):
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.mean(logs)
    if len(logs) < 2:
        return [math.exp(mean)] * 3
    half = T95[min(len(logs) - 1, len(T95) - 1)] * statistics.stdev(logs) / math.sqrt(len(logs))
    return [round(math.exp(x), 3) for x in (mean, mean - half, mean + half)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--out")
    args = parser.parse_args()
    names = args.workloads.split(",")
    servers = {}
    rows, differ = [], []
    try:
        for mode in ("auto", "off"):
            servers[mode] = Server(args.binary, args.model, mode)
        for name in names:
            for mode in servers:
                run(servers[mode], name, 99)
        for round_ in range(args.rounds):
            for name in names:
                order = ["auto", "off"] if round_ % 2 == 0 else ["off", "auto"]
                found = {mode: run(servers[mode], name, round_) for mode in order}
                if found["auto"][1] != found["off"][1]:
                    differ.append((name, round_))
                rows.append({
                    "round": round_, "workload": name, "first": order[0],
                    "auto_ms_per_token": found["auto"][0], "off_ms_per_token": found["off"][0],
                    "drafted": found["auto"][2], "accepted": found["auto"][3],
                })
    finally:
        for server in servers.values():
            server.stop()
    summary = {}
    for name in names:
        own = [row for row in rows if row["workload"] == name]
        ratio = interval([row["off_ms_per_token"] / row["auto_ms_per_token"] for row in own])
        drafted, accepted = sum(r["drafted"] for r in own), sum(r["accepted"] for r in own)
        summary[name] = {
            "ratio": ratio[0], "ratio_95": ratio[1:], "drafted": drafted, "accepted": accepted,
            "auto_ms_per_token": round(statistics.median(r["auto_ms_per_token"] for r in own), 3),
            "off_ms_per_token": round(statistics.median(r["off_ms_per_token"] for r in own), 3),
        }
        s = summary[name]
        print(f"{name:<18} {s['ratio']:.2f}x  [{ratio[1]:.2f}, {ratio[2]:.2f}]  {accepted} of {drafted} guesses right, "
              f"{s['off_ms_per_token']} -> {s['auto_ms_per_token']} ms a token")
    report = {
        "model": args.model, "rounds": args.rounds, "cores": os.cpu_count(), "machine": platform.machine(),
        "identical": not differ, "differ": differ, "summary": summary, "rows": rows,
    }
    if args.out:
        with open(args.out, "w") as file:
            json.dump(report, file, indent=1)
    print(json.dumps({key: report[key] for key in ("model", "rounds", "identical", "summary")}))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
