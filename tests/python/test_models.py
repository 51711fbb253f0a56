"""Several real models in one server: streams beside each other and beside a load, memory that comes back, a file
that is replaced, and a process that is killed."""

import json
import shutil
import signal
import statistics
import threading
import time

import pytest
from conftest import TEST_HOME, Server, run
from test_placeholder import until

MIB = 1 << 20
FIRST, SECOND = "smollm2-135m-instruct", "gemma3-270m"
# What the engine promises to keep, and what a machine that others use, too, adds.
GAP_BOUND_S = 0.1


def installed(name):
    """The model's file, as it was pulled."""
    about = TEST_HOME / "models" / name / "installed.json"
    assert about.is_file(), f"{about} is not there: ./test pulls the models first"
    return max((TEST_HOME / "models" / name).glob("*.gguf"), key=lambda path: path.stat().st_size)


def resident_bytes(server):
    status = (f"/proc/{server.process.pid}/status", "VmRSS:")
    with open(status[0]) as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(status[1]))


def model(server, name):
    models = server.get("/ops/v1/models").json["models"]
    return next(model for model in models if model["name"] == name)


def ask(server, name, n=16):
    body = {"model": name, "prompt": "The sea is", "max_tokens": n, "temperature": 0, "ignore_eos": True}
    answer = server.post("/v1/completions", body)
    assert answer.status == 200, answer.body
    return answer.json


class Stream(threading.Thread):
    """A stream of `n` tokens, with the time of each event."""

    def __init__(self, server, name, n):
        super().__init__()
        self.server, self.name_, self.n = server, name, n
        self.times, self.releases, self.reason = [], set(), None
        self.began = threading.Event()
        self.start()

    def run(self):
        client = self.server.client()
        options = {"ignore_eos": True}
        for chunk in client.completions.create(
            model=self.name_, prompt="Once", max_tokens=self.n, temperature=0, stream=True, extra_body=options
        ):
            self.times.append(time.monotonic())
            self.releases.add(chunk.system_fingerprint)
            self.reason = chunk.choices[0].finish_reason or self.reason
            self.began.set()
        self.began.set()

    def end(self):
        self.join(timeout=120)
        assert self.reason == "length", f"{self.name_}: {self.reason}"
        return self

    def gaps(self):
        return sorted(b - a for a, b in zip(self.times, self.times[1:]))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A model's file that a test may replace."""
    path = tmp_path_factory.mktemp("models") / "second.gguf"
    shutil.copy(installed(SECOND), path)
    return path


@pytest.fixture(scope="module")
def server(home, file):
    args = ["--model", FIRST, "--model", f"second={file}", "--alias", "fast=second", "--kv-memory", "128", "--offline"]
    server = Server(home, *args)
    yield server
    assert server.stop() == 0


def is_gone(server, name):
    told = model(server, name)
    return told["state"] == "unloaded" and told["retiring_engines"] == 0


def test_a_load_lets_a_running_stream_go_on(server):
    ask(server, FIRST)
    # What else the machine does lengthens a gap of one load; a load that is in the way lengthens one of each.
    for _ in range(3):
        stream = Stream(server, FIRST, 400)
        assert stream.began.wait(60)
        before = time.monotonic()
        assert server.post("/ops/v1/models/second/load", b"").status == 200
        loaded = time.monotonic()
        stream.end()
        pairs = zip(stream.times, stream.times[1:])
        during = sorted(b - a for a, b in pairs if b > before and a < loaded)
        median, longest = during[len(during) // 2], during[-1]
        print(f"load {loaded - before:.2f} s beside a stream: gaps p50 {median:.3f}, max {longest:.3f} s")
        # A load takes its turn for each matrix, and the largest one takes longer than the bound.
        most = max(10 * GAP_BOUND_S, 0.5 * (loaded - before))
        if longest < most:
            break
        assert server.post("/ops/v1/models/second/unload", b"").status == 200
        until(20, lambda: is_gone(server, "second"))
    assert longest < most


def test_two_models_stream_at_once_and_neither_starves(server):
    alone = Stream(server, FIRST, 150).end()
    texts = [ask(server, name)["choices"][0]["text"] for name in (FIRST, "second", "fast")]
    assert texts[0] != texts[1] == texts[2]
    both = [Stream(server, name, 150) for name in (FIRST, "second")]
    for stream in both:
        stream.end()
    overlap = min(stream.times[-1] for stream in both) - max(stream.times[0] for stream in both)
    assert overlap > 0, "they did not run at once"
    for stream in both:
        gaps = stream.gaps()
        print(f"{stream.name_}: p50 {gaps[len(gaps) // 2]:.4f}, p99 {gaps[-2]:.4f}, max {gaps[-1]:.4f} s; "
              f"the first alone p50 {statistics.median(alone.gaps()):.4f}")
        assert gaps[-2] < 6 * GAP_BOUND_S


def test_memory_comes_back(server):
    ask(server, "second", 64)
    full, planned = resident_bytes(server), model(server, "second")["planned_bytes"]
    assert server.post("/ops/v1/models/second/unload", b"").status == 200
    gone = lambda: is_gone(server, "second")
    until(20, gone)
    most_left = full - installed(SECOND).stat().st_size / 2
    until(20, lambda: resident_bytes(server) < most_left)
    freed = full - resident_bytes(server)
    print(f"resident {full / MIB:.0f} MiB, {freed / MIB:.0f} of it come back; planned were {planned / MIB:.0f}")
    levels = []
    for _ in range(7):
        ask(server, "second", 64)
        levels.append(resident_bytes(server))
        server.post("/ops/v1/models/second/unload", b"")
        until(20, gone)
    print("resident after each load, MiB:", [level // MIB for level in levels])
    # The first loads warm the allocator; after them the level stays.
    assert levels[-1] - levels[3] < 40 * MIB, levels


def test_a_file_is_replaced_under_sixteen_streams(server, file):
    old = ask(server, "second")
    streams = [Stream(server, "second", 60) for _ in range(16)]
    for stream in streams:
        assert stream.began.wait(60)
    other = file.with_suffix(".new")
    shutil.copy(installed(FIRST), other)
    other.rename(file)
    reloaded = server.post("/ops/v1/models/second/reload", b"")
    assert reloaded.status == 200, reloaded.body
    new = ask(server, "second")
    assert new["system_fingerprint"] == reloaded.json["release"] != old["system_fingerprint"]
    for stream in streams:
        assert stream.end().releases == {old["system_fingerprint"]}
    other.write_bytes(file.read_bytes()[: 50 * MIB])
    other.rename(file)
    broken = server.post("/ops/v1/models/second/reload", b"")
    assert (broken.status, broken.json["error"]["code"]) == (500, "model_load_failed")
    assert str(file) not in broken.body
    assert ask(server, "second")["choices"] == new["choices"]


def test_a_killed_server_starts_again(home):
    args = ["--model", "a=placeholder:seed=1,delay_us=500", "--model", "b=placeholder:seed=2,delay_us=500"]
    server = Server(home, *args)
    first = [ask(server, name)["choices"] for name in ("a", "b")]
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    again = Server(home, *args)
    assert [ask(again, name)["choices"] for name in ("a", "b")] == first
    runs = json.loads(run(home, "doctor", "--json").stdout)["runs"]
    assert [(one["state"], one["model"]) for one in runs[:2]] == [("running", "a, b"), ("crashed", "a, b")]
    assert again.stop() == 0
