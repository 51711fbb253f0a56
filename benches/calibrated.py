"""How well a calibrated placeholder predicts its model: both served, by turns, at several numbers of streams.

    python benches/calibrated.py target/release/lastmile smollm2-135m-instruct --rounds 3 --out benches/results/calibrated.json

Each round calibrates, as what a machine can do changes by the minute, and then sends the same number of fresh random
prompts through `bench serve` to the model and to the placeholder, the first of them by turns. Answers are drawn at
temperature 1: greedy ones to random prompts repeat themselves, so that most of their tokens are guessed ahead, which
no calibration knows of. What is printed is the placeholder's error beside the model, of medians over rounds; the last
line is one JSON object. It ends with status 1 when an error of throughput or of the median first token is above
--limit percent.
"""

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile


class Server:
    def __init__(self, binary, *args):
        command = [binary, "serve", "--port", "0", "--offline", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self.process.stdout:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                self.url = found.group()
                # What it logs is read so that it never waits.
                self.reader = subprocess.Popen(["cat"], stdin=self.process.stdout, stdout=subprocess.DEVNULL)
                return
        raise SystemExit(f"{command} did not start: {self.process.wait()}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def bench(binary, server, streams, n_prompts, seed, args):
    command = [
        binary, "bench", "serve", "--base-url", server.url, "--max-concurrency", str(streams), "--num-prompts", str(n_prompts),
        "--random-input-len", str(args.input_len), "--random-output-len", str(args.output_len), "--ignore-eos", "--seed", str(seed),
        "--num-warmups", "1", "--json", "--extra-body", json.dumps({"temperature": args.temperature}),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    kept = ("completed", "duration", "output_throughput", "median_ttft_ms", "median_tpot_ms", "median_itl_ms", "p99_itl_ms")
    return {"streams": streams} | {name: result[name] for name in kept}


def calibrate(binary, costs, args):
    command = [binary, "placeholder", "calibrate", args.model, "-o", costs, "--json", "--offline"]
    command += ["--prompt-tokens", str(args.input_len), "--output-tokens", str(args.output_len)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--input-len", type=int, default=118)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--limit", type=float, default=15.0, help="percent")
    parser.add_argument("--out", help="also write the result here")
    args = parser.parse_args()
    binary = os.path.abspath(args.binary)
    runs, calibrations = [], []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            costs = os.path.join(folder, "costs.toml")
            calibrations.append(calibrate(binary, costs, args))
            servers = {"model": Server(binary, "--model", args.model)}
            servers["placeholder"] = Server(binary, "--model", "placeholder", "--placeholder-costs", costs)
            names = list(servers) if number % 2 == 0 else list(servers)[::-1]
            try:
                for streams in args.streams:
                    for name in names:
                        seed = 1000 * number + streams + (name == "model") * 500
                        run = bench(binary, servers[name], streams, max(8, min(6 * streams, 64)), seed, args)
                        runs.append({"round": number, "server": name} | run)
                        print(json.dumps(runs[-1]), file=sys.stderr)
            finally:
                for server in servers.values():
                    server.stop()
    summary, worst = [], 0.0
    for streams in args.streams:
        line = {"streams": streams}
        for metric in ("output_throughput", "median_ttft_ms"):
            of = {
                name: statistics.median(r[metric] for r in runs if (r["server"], r["streams"]) == (name, streams))
                for name in ("model", "placeholder")
            }
            error = 100 * (of["placeholder"] / of["model"] - 1)
            worst = max(worst, abs(error))
            line[metric] = of | {"error_percent": round(error, 1)}
        print(
            f"{streams:3} streams: throughput {line['output_throughput']['error_percent']:+.1f} %, "
            f"median first token {line['median_ttft_ms']['error_percent']:+.1f} %"
        )
        summary.append(line)
    result = {
        "what": "a calibrated placeholder beside its model, through HTTP, by turns",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "model": args.model,
        "calibrations": calibrations,
        "summary": summary,
        "runs": runs,
    }
    if args.out:
        with open(args.out, "w") as file:
            file.write(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"]))
    return 1 if worst > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
