"""What a form costs: decode throughput at 8 streams with and without one, on the same prompts, by turns.

    python benches/masks.py target/release/lastmile smollm2-135m-instruct --rounds 7 --out benches/results/masks.json

Each answer has the same number of tokens, with a form or without. What is printed is form / plain in tokens per second
of decoding: below 1 the form costs. The mean over rounds with a 95 % interval of Student's t on its logarithm, for a
server that guesses and for one that does not. The last line is one JSON object.
"""

import argparse
import concurrent.futures
import json
import os
import platform
import statistics
import sys

from speculate import PARAGRAPHS, Server, interval

TEXT = {"type": "string", "maxLength": 60}
# Long enough that every answer is cut at its number of tokens.
LIST = {"minItems": 60, "maxItems": 60, "type": "array"}
FORMS = {
    "texts": LIST | {"items": TEXT},
    "records": LIST | {
        "items": {
            "type": "object",
            "properties": {
                "name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "is_member": {"type": "boolean"},
                "tags": {"type": "array", "items": TEXT, "maxItems": 3}, "role": {"enum": ["fisher", "teacher", "unknown"]},
            },
            "required": ["name", "age", "is_member", "tags", "role"],
            "additionalProperties": False,
        },
    },
    "anything": None,
}
N_TOKENS, N_STREAMS = 120, 8


def more(form):
    if form == "plain":
        return {}
    if FORMS[form] is None:
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": form, "schema": FORMS[form]}}}


def throughput(server, form, round_):
    """Tokens per second of decoding, of all streams together."""
    def ask(i):
        prompt = f"{PARAGRAPHS[i % 2]}\n\nAll of this as JSON, number {round_ * N_STREAMS + i}:\n"
        return server.complete(prompt, N_TOKENS, 1.0, 1000 * round_ + i, more(form))

    with concurrent.futures.ThreadPoolExecutor(N_STREAMS) as pool:
        answers = list(pool.map(ask, range(N_STREAMS)))
    return N_STREAMS * 1e3 / statistics.mean(answer[1] for answer in answers)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out")
    args = parser.parse_args()
    rows, summary = [], {}
    for mode in ("auto", "off"):
        server = Server(args.binary, args.model, mode)
        try:
            for form in ("plain", *FORMS):
                throughput(server, form, 999)
            for round_ in range(args.rounds):
                order = ["plain", *FORMS] if round_ % 2 == 0 else [*FORMS, "plain"]
                found = {form: throughput(server, form, round_) for form in order}
                rows.append({"speculate": mode, "round": round_, "first": order[0], "tokens_per_s": found})
        finally:
            server.stop()
        own = [row["tokens_per_s"] for row in rows if row["speculate"] == mode]
        for form in FORMS:
            ratio = interval([row[form] / row["plain"] for row in own])
            summary[f"{form}, speculate {mode}"] = {
                "ratio": ratio[0], "ratio_95": ratio[1:],
                "plain_tokens_per_s": round(statistics.median(row["plain"] for row in own), 1),
                "form_tokens_per_s": round(statistics.median(row[form] for row in own), 1),
            }
            s = summary[f"{form}, speculate {mode}"]
            print(f"{form:<10} speculate {mode:<5} {s['ratio']:.3f}  [{ratio[1]:.3f}, {ratio[2]:.3f}]  "
                  f"{s['plain_tokens_per_s']} -> {s['form_tokens_per_s']} tokens/s")
    report = {"model": args.model, "streams": N_STREAMS, "cores": os.cpu_count(), "machine": platform.machine(),
              "summary": summary, "rows": rows}
    if args.out:
        with open(args.out, "w") as file:
            json.dump(report, file, indent=1)
    print(json.dumps({"model": args.model, "summary": summary}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
