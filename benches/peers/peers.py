"""Measures lastmile and llama.cpp beside each other, on the same prompts, round by round.

python3 benches/peers/peers.py --model model.gguf

Needs a lastmile that is built (cargo build --release) and nothing but Python's standard library;
llama.cpp is installed from its wheel into a virtual environment the first time. Results are written
to benches/results/NAME.json, with every round, and NAME.svg.
"""

import argparse
import contextlib
import datetime
import json
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import chart
import load
import servers
from servers import Server

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches" / "results"
REQUESTS_PER_STREAM = 2
VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
# Tokens of context beside the prompt and the answer.
SPARE_TOKENS = 64
# What each kind of measurement is about.
VALUES = {
    "closed_loop": "output_tokens_per_s",
    "prefill": "prompt_tokens_per_s",
    "long_context": "decode_tokens_per_s",
}

Round = dict[str, object]


def main() -> int:
    args = arguments()
    # Whoever ends this with SIGTERM must not leave the servers behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        result = measure(args)
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return 130
    except (servers.ServerFailed, load.RequestFailed) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 3
    print_table(result)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{result['name']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".svg").write_text(chart.svg(result))
    print(f"\nwrote {path.relative_to(ROOT)} and {path.with_suffix('.svg').name}")
    return 0


def arguments() -> argparse.Namespace:
    first, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="the GGUF file that lastmile runs")
    add("--peer-model", type=Path, help="the GGUF file that llama.cpp runs; the same by default")
    add("--peer", choices=["llama.cpp", "none"], default="llama.cpp")
    add("--streams", type=counts, default=[1, 8, 32], help="requests in flight at once: 1,8,32")
    add("--rounds", type=count, default=3, help="how often each measurement is made (3)")
    add("--max-tokens", type=count, default=64, help="tokens of each answer (64)")
    add("--prompt-words", type=count, default=100, help="words of each prompt; 100 are 118 tokens")
    add("--busy", type=count, metavar="N", help="again beside N processes that keep cores busy")
    add("--prefill", type=count, metavar="N", help="also one prompt of N tokens with 1 new token")
    add("--long-context", type=count, metavar="N", help="also decode one stream after N tokens")
    add("--lastmile", type=Path, default=ROOT / "target" / "release" / "lastmile", metavar="BIN")
    add("--venv", type=Path, default=ROOT / "target" / "peer-venv", help="where llama.cpp is")
    isas = ["scalar", "avx2", "avx512vnni", "amx"]
    add("--isa", choices=isas, help="caps lastmile's instruction set, as LASTMILE_ISA does")
    add("--name", help="of the result; the model's file name by default")
    args = parser.parse_args()
    args.peer_model = args.peer_model or args.model
    args.name = args.name or args.model.stem
    for file in (args.model, args.peer_model, args.lastmile):
        if not file.is_file():
            parser.error(f"there is no file {file}")
    return args


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, but must be at least 1")
    return number


def counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Runs everything that was asked for."""
    versions = {"lastmile": said_by([args.lastmile, "--version"]).removeprefix("lastmile ")}
    versions["repository_commit"] = commit()
    if args.peer != "none":
        versions[servers.WHEEL] = servers.install_llamacpp(args.venv)
    started = datetime.datetime.now(datetime.timezone.utc)
    rounds = list(closed_loop_rounds(args))
    if args.prefill:
        rounds += one_stream_rounds(args, "prefill", args.prefill, 1)
    if args.long_context:
        rounds += one_stream_rounds(args, "long_context", args.long_context, args.max_tokens)
    files = {"lastmile": args.model}
    if args.peer != "none":
        files["llama.cpp"] = args.peer_model
    return {
        "name": args.name,
        "date": started.isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions,
        "models": {
            server: {"file": file.name, "size_bytes": file.stat().st_size}
            for server, file in files.items()
        },
        "settings": {
            "streams": args.streams,
            "rounds": args.rounds,
            "max_tokens": args.max_tokens,
            "prompt_words": args.prompt_words,
            "requests_per_stream": REQUESTS_PER_STREAM,
            "busy": args.busy,
            "prefill": args.prefill,
            "long_context": args.long_context,
            "isa": args.isa,
        },
        "summary": summary(rounds),
        "rounds": rounds,
    }


def closed_loop_rounds(args: argparse.Namespace) -> Iterator[Round]:
    """Every number of streams in every round; with --busy, each once more on a busy machine."""
    prompt_tokens = args.prompt_words + load.NUMBER_TOKENS
    with running(args, max(args.streams), prompt_tokens, args.max_tokens) as both:
        for number in range(1, args.rounds + 1):
            for streams in args.streams:
                n_requests = streams * REQUESTS_PER_STREAM
                for server in both:
                    # In the same minute, so that both figures are of the same machine.
                    for n_busy in [0, args.busy] if args.busy else [0]:
                        seed = f"loop {number} {streams} {n_busy}"
                        texts = load.prompts(seed, n_requests, args.prompt_words)
                        with servers.busy(n_busy):
                            found = load.closed_loop(
                                server.url, server.model, texts, streams, args.max_tokens
                            )
                        facts = {"streams": streams, "busy": n_busy}
                        yield told("closed_loop", number, server, facts, found)


def one_stream_rounds(
    args: argparse.Namespace, kind: str, prompt_tokens: int, max_tokens: int
) -> Iterator[Round]:
    """One request after the other, with prompts of about `prompt_tokens`."""
    n_words = max(1, prompt_tokens - load.NUMBER_TOKENS)
    with running(args, 1, prompt_tokens, max_tokens) as both:
        for number in range(1, args.rounds + 1):
            texts = load.prompts(f"{kind} {number}", 1, n_words)
            for server in both:
                found = load.closed_loop(server.url, server.model, texts, 1, max_tokens)
                yield told(kind, number, server, {"streams": 1, "busy": 0}, found)


@contextlib.contextmanager
def running(
    args: argparse.Namespace, parallel: int, prompt_tokens: int, max_tokens: int
) -> Iterator[list[Server]]:
    """The servers, each of which has answered once."""
    # A word takes one token in most models; in others a few take two.
    context = prompt_tokens + prompt_tokens // 4 + max_tokens + SPARE_TOKENS
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        both = [enter(servers.lastmile(args.lastmile, args.model, args.isa))]
        if args.peer != "none":
            peer = servers.llamacpp(args.venv, args.peer_model, parallel, context)
            both.append(enter(peer))
        for server in both:
            texts = load.prompts("warm-up", 1, 8)
            load.closed_loop(server.url, server.model, texts, 1, 8)
        yield both


def told(
    kind: str, number: int, server: Server, facts: dict[str, int], found: dict[str, float]
) -> Round:
    """Prints a measurement as it comes, and gives it its names."""
    beside = f" beside {facts['busy']} busy processes" if facts["busy"] else ""
    streams = facts["streams"]
    line = f"round {number}, {kind}, {streams} streams{beside}: "
    line += f"{server.name} {found[VALUES[kind]]:.1f} tokens/s"
    if found["cached_tokens"]:
        line += f"; {found['cached_tokens']} prompt tokens came from its cache"
    print(line, flush=True)
    return {"kind": kind, "round": number, "server": server.name, **facts, **found}


def summary(rounds: list[Round]) -> list[dict[str, object]]:
    """The medians of every measurement, and of the ratios within each round."""
    names = list(dict.fromkeys(r["server"] for r in rounds))
    lines = []
    keys = dict.fromkeys((r["kind"], r["streams"], r["busy"]) for r in rounds)
    for kind, streams, n_busy in keys:
        value = VALUES[kind]
        of = {name: column(rounds, kind, streams, n_busy, name) for name in names}
        line = {"kind": kind, "streams": streams, "busy": n_busy, "servers": {}}
        for name in names:
            line["servers"][name] = {
                "tokens_per_s": statistics.median(of[name](value)),
                "ttft_ms_p50": statistics.median(of[name]("ttft_ms_p50")),
                "prompt_tokens": statistics.median(of[name]("prompt_tokens")),
                "cached_tokens": sum(of[name]("cached_tokens")),
            }
            if n_busy:
                quiet = column(rounds, kind, streams, 0, name)
                line["servers"][name]["of_quiet"] = ratio(of[name](value), quiet(value))
        if len(names) == 2:
            ours, theirs = (of[name] for name in names)
            line["tokens_per_s_ratio"] = ratio(ours(value), theirs(value))
            line["ttft_ratio"] = ratio(ours("ttft_ms_p50"), theirs("ttft_ms_p50"))
        lines.append(line)
    return lines


def column(
    rounds: list[Round], kind: str, streams: int, n_busy: int, server: str
) -> Callable[[str], list[float]]:
    """The values of one measurement, round by round, by name."""
    wanted = (kind, streams, n_busy, server)
    of_it = [r for r in rounds if (r["kind"], r["streams"], r["busy"], r["server"]) == wanted]
    return lambda name: [r[name] for r in of_it]


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios round by round: the machine is not the same in all of them."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def print_table(result: dict[str, object]) -> None:
    """The medians for people."""
    names = list(result["models"])
    title = f"{'':<26}" + "".join(f"{name + ' tok/s':>18}" for name in names)
    title += "".join(f"{name + ' TTFT':>18}" for name in names)
    print(f"\n{title}" + (f"{'ratio':>10}{'TTFT ratio':>12}" if len(names) == 2 else ""))
    for line in result["summary"]:
        found = [line["servers"][name] for name in names]
        text = f"{chart.label(line, result['settings']):<26}"
        text += "".join(f"{each['tokens_per_s']:>18.1f}" for each in found)
        text += "".join(f"{each['ttft_ms_p50']:>15.0f} ms" for each in found)
        if len(names) == 2:
            text += f"{line['tokens_per_s_ratio']:>10.2f}{line['ttft_ratio']:>12.2f}"
        if line["busy"]:
            of_quiet = (f"{n} {each['of_quiet']:.0%}" for n, each in zip(names, found, strict=True))
            text += "   of quiet: " + ", ".join(of_quiet)
        print(text)
    cached = sum(r["cached_tokens"] for r in result["rounds"])
    if cached:
        print(f"{cached} prompt tokens came from a cache: these figures do not compare prefill")


def machine() -> dict[str, object]:
    """What these figures depend on."""
    info = Path("/proc/cpuinfo")
    facts = {}
    for line in info.read_text().splitlines() if info.exists() else []:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": servers.n_cores(),
        "vector_flags": [flag for flag in VECTOR_FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit of this tree, and whether its sources are others."""
    found = said_by(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"])
    sources = ["*.rs", "*.py", "*.toml", "*.lock"]
    changed = said_by(["git", "-C", ROOT, "diff", "--name-only", "HEAD", "--", *sources])
    return found if changed in ("", "unknown") else f"{found}-dirty"


def said_by(command: list[object]) -> str:
    """What a command prints, or `unknown`."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
