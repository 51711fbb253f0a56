"""A wall clock that jumps a day ahead and two days back while requests run."""

import contextlib
import json
import mmap
import sqlite3
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from bystander import Bystander, completion, expected, metrics_with_key, until
from conftest import Server, run

DAY_S = 24 * 60 * 60
SHIM = Path(__file__).with_name("clock_shift.c")
JUMPS = [DAY_S, -DAY_S, 0]


class Clock:
    """How far the server's wall clock is off."""

    def __init__(self, folder):
        self.library, self.file = folder / "clock_shift.so", folder / "shift"
        flags = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", self.library, SHIM, "-ldl"], check=True)
        self.file.write_bytes(bytes(8))
        with open(self.file, "r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), 8)

    @property
    def variables(self):
        return {"LD_PRELOAD": str(self.library), "CLOCK_SHIFT_FILE": str(self.file)}

    def jump(self, seconds):
        self.mapped[:] = struct.pack("=q", seconds)


def make_key(home, name, *args):
    made = run(home, "keys", "create", name, "--scopes", "infer,metrics,ops", "--json", *args)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)["key"]


def ask(server, key, body):
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.url + "/v1/completions", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def test_the_wall_clock_jumps(tmp_path):
    home = tmp_path / "home"
    clock = Clock(tmp_path)
    free, limited = make_key(home, "free"), make_key(home, "limited", "--requests-per-minute", "1")
    server = Server(home, "--model", "placeholder:delay_us=2000", variables=clock.variables)
    long, short = Bystander.BODY | {"max_tokens": 1500}, completion("short", 4)
    for body in (long, short):
        expected(body)

    begun = time.monotonic()
    assert ask(server, limited, short)[0] == 200
    status, _, answer = ask(server, limited, short)
    assert (status, answer["error"]["code"]) == (429, "requests_per_minute_exceeded")

    for shift in JUMPS:
        # One that runs across the jump, with a deadline that is not reached.
        running = []
        body = long | {"deadline_ms": 20_000, "max_queue_ms": 10_000}
        thread = threading.Thread(target=lambda to=running, body=body: to.append(ask(server, free, body)))
        thread.start()

        def it_runs():
            return json.loads(server.get("/health").body)["running"] == 1

        until(10, it_runs)
        clock.jump(shift)
        for path in ("/health", "/health/ready", "/health/live"):
            assert server.get(path).status == 200
        status, _, answer = ask(server, free, short | {"deadline_ms": 5000})
        assert (status, answer["choices"][0]["text"]) == (200, expected(short)), answer
        assert abs(answer["created"] - (time.time() + shift)) < 60, "the shim works"
        # One whose deadline is reached is told so, and in time.
        asked = time.monotonic()
        status, _, answer = ask(server, free, completion("late", 4000, deadline_ms=300))
        assert (status, answer["error"]["code"]) in [
            (408, "deadline_exceeded"), (429, "deadline_unreachable"),
        ], answer  # fmt: skip
        assert time.monotonic() - asked < 3
        # A minute's limit is not given back by a day that did not pass, and not kept for one.
        status, headers, answer = ask(server, limited, short)
        assert (status, answer["error"]["code"]) == (429, "requests_per_minute_exceeded"), answer
        assert 1 <= int(headers["retry-after"]) <= 60
        thread.join(timeout=30)
        status, _, answer = running[0]
        assert (status, answer["choices"][0]["text"]) == (200, expected(long)), answer
    elapsed = time.monotonic() - begun
    assert elapsed < 55, "too slow to say that nothing was given back"

    page = metrics_with_key(server, free)
    for name in ("e2e_request_latency", "time_to_first_token", "request_queue_time", "step"):
        n, seconds = page[f"lastmile_{name}_seconds_count"], page[f"lastmile_{name}_seconds_sum"]
        assert n > 0 and 0 <= seconds <= 4 * elapsed + 5, (name, n, seconds)
    assert 0 <= page["lastmile_heartbeat_age_seconds"] < 5
    assert 0 < page["lastmile_uptime_seconds"] < elapsed + 20
    assert page["lastmile_engine_stalls_total"] == 0
    assert server.stop() == 0
    with contextlib.closing(sqlite3.connect(home / "store" / "lastmile.db")) as store:
        rows = store.execute("SELECT queue_wait_ms, ttft_ms, e2e_ms FROM attempt").fetchall()
    assert len(rows) >= 1 + 3 * len(JUMPS) - len(JUMPS)
    for queue_wait_ms, ttft_ms, e2e_ms in rows:
        assert 0 <= queue_wait_ms <= e2e_ms < 20_000
        assert ttft_ms is None or 0 <= ttft_ms <= e2e_ms
