"""A disk that is full, and a process that may open no more files."""

import contextlib
import http.client
import json
import os
import resource
import signal
import sqlite3
import subprocess
import time

import pytest
from bystander import (
    Bystander,
    at_rest,
    completion,
    connect,
    cpu_seconds,
    expected,
    in_threads,
    is_back_to,
    n_files,
    nobody_notices,
    open_connections,
    port_of,
    stream,
    total,
    until,
    whole,
)
from conftest import PROGRAM, Server, environment

MODEL = "placeholder:delay_us=1000"
MAX_FILES = 100
CONTRACT = '[schema]\nrequired = ["text"]\n[schema.properties]\ntext = { type = "string" }\n'


class SmallDisk:
    """A file system of 6 MiB."""

    says = "No space left on device"

    def __init__(self, folder):
        self.folder, self.home = folder, folder / "home"
        self.folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder]
        mounted = subprocess.run(mount, capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"no small disk, only the limit, is tested: {mounted.stderr.strip()}")

    def limits(self):
        pass

    def fill(self, process=None, leave=0):
        """A file takes all the room but `leave` bytes."""
        ballast = self.folder / "ballast"
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        os.truncate(ballast, ballast.stat().st_size - leave)

    def free(self, process=None):
        (self.folder / "ballast").unlink()

    def close(self):
        # Lazily: where a test failed, its server still runs.
        subprocess.run(["umount", "--lazy", self.folder], check=True)


class SmallFiles:
    """What needs no privilege: a process whose files may not grow (RLIMIT_FSIZE)."""

    says = "File too large"

    def __init__(self, folder):
        self.home, self.limit = folder / "home", resource.RLIM_INFINITY

    def limits(self):
        # With its default action the signal would end the process, which no full disk does.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))

    def fill(self, process=None, leave=0):
        """Of a process that runs, or of those that are started from now on."""
        self.set(process, leave)

    def free(self, process=None):
        self.set(process, resource.RLIM_INFINITY)

    def set(self, process, limit):
        if process:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        else:
            self.limit = limit

    def close(self):
        pass


@pytest.fixture(params=[SmallDisk, SmallFiles], ids=["tmpfs", "rlimit"])
def disk(request, tmp_path):
    disk = request.param(tmp_path / "disk")
    yield disk
    disk.close()


def test_the_disk_of_the_store_is_full(disk):
    server = Server(disk.home, "--model", MODEL, limits=disk.limits)
    bodies = [completion(f"{i} " + "a long prompt " * 100, 4) for i in range(60)]

    def ask(i):
        status, headers, answer = whole(server, bodies[i])
        assert status == 200, answer
        assert answer["choices"][0]["text"] == expected(bodies[i])
        return headers["x-request-id"]

    def lost():
        names = ["lastmile_store_write_errors_total", "lastmile_store_dropped_total"]
        return sum(total(server, name) for name in names)

    def ids_stored():
        path = disk.home / "store" / "lastmile.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
            return {row[0] for row in store.execute("SELECT request_id FROM attempt")}

    before = [ask(i) for i in range(10)]

    def all_before_are_stored():
        return set(before) <= ids_stored()

    until(10, all_before_are_stored)
    assert lost() == 0
    disk.fill(server.process)
    with nobody_notices(server):
        during = [ask(i) for i in range(10, 40)]
    until(10, lost)
    said = [line for line in server.lines if "the store cannot write" in line]
    assert 1 <= len(said) <= 5, "an operator hears of it, and not of each answer"
    disk.free(server.process)

    after = [ask(i) for i in range(40, 50)]

    def it_writes_again():
        return set(after[1:]) <= ids_stored()

    until(10, it_writes_again)
    assert set(before) <= ids_stored()
    n_missing = len(set(during) - ids_stored())
    assert 0 < n_missing <= lost(), "each lost row is counted"
    assert any("the store writes again" in line for line in server.lines)
    assert server.stop() == 0
    with contextlib.closing(sqlite3.connect(disk.home / "store" / "lastmile.db")) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_server_that_starts_on_a_full_disk_still_obeys(tmp_path):
    disk = SmallDisk(tmp_path / "disk")
    server = Server(disk.home, "--model", MODEL, limits=disk.limits)
    killed = server.post("/ops/v1/overrides/kill", {"route": "/v1/chat/completions"})
    assert killed.status == 200, killed.body
    assert server.stop() == 0
    disk.fill()
    server = Server(disk.home, "--model", MODEL, limits=disk.limits)
    body = completion("a b c", 4)
    assert whole(server, body)[2]["choices"][0]["text"] == expected(body)
    messages = [{"role": "user", "content": "a"}]
    refused = server.post("/v1/chat/completions", {"messages": messages})
    assert (refused.status, refused.json["error"]["code"]) == (503, "route_killed")
    # What cannot be written down does not happen.
    assert server.post("/ops/v1/overrides/rollback", {}).status == 500
    assert server.post("/v1/chat/completions", {"messages": messages}).status == 503
    assert server.stop() == 0
    disk.close()


def test_an_ingest_finds_the_disk_full(disk, tmp_path):
    (tmp_path / "contract.toml").write_text("format = 1\n" + CONTRACT)

    def data(*args):
        return subprocess.run(
            [PROGRAM, "data", *args], env=environment(disk.home), preexec_fn=disk.limits,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def rows(name, n):
        # Every row another text, so that compression does not make room.
        lines = (json.dumps({"text": os.urandom(200).hex(), "n": i}) for i in range(n))
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    def versions():
        found = data("log", "notes", "--json")
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    def exported():
        found = data("export", "notes")
        assert found.returncode == 0, found.stderr
        return found.stdout.splitlines()

    few, many = rows("few.jsonl", 200), rows("many.jsonl", 20_000)
    contract = ["--contract", tmp_path / "contract.toml"]
    # A first one that fails makes no version, and is in nobody's way.
    disk.fill(leave=64 << 10)
    failed = data("ingest", "notes", many, *contract)
    assert failed.returncode == 3, failed.stderr
    disk.free()
    assert data("ingest", "notes", few, *contract).returncode == 0
    first, first_rows = versions(), exported()
    assert first_rows == few.read_text().splitlines()

    disk.fill(leave=256 << 10)
    failed = data("ingest", "notes", many)
    assert failed.returncode == 3, failed.stderr
    assert disk.says in failed.stderr and str(disk.home) in failed.stderr, failed.stderr
    # What was there before is there, whole, and nothing of the other.
    assert versions() == first and exported() == first_rows
    disk.free()
    more = rows("more.jsonl", 2000)
    done = data("ingest", "notes", more)
    assert done.returncode == 0, done.stderr
    assert exported() == more.read_text().splitlines()
    staging = disk.home / "data" / "datasets" / "notes" / "staging"
    assert not list(staging.glob("*.rows")), "nothing is left of those that failed"


def test_file_descriptors_are_exhausted(tmp_path):
    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))

    server = Server(tmp_path, "--model", MODEL, limits=few_files)
    body = Bystander.BODY
    assert stream(server, body) == expected(body)
    n_before = at_rest(server)
    # A client that is connected already goes on; the others have no room and wait.
    known = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=20)

    def known_asks():
        headers = {"content-type": "application/json"}
        known.request("POST", "/v1/completions", json.dumps(body), headers)
        response = known.getresponse()
        text = json.loads(response.read())["choices"][0]["text"]
        assert (response.status, text) == (200, expected(body))

    known_asks()
    clients = [connect(server) for _ in range(2 * MAX_FILES)]

    def no_file_is_left():
        return n_files(server) >= MAX_FILES - 2

    until(10, no_file_is_left)
    n_lines, burnt, began = len(server.lines), cpu_seconds(server), time.monotonic()
    n_answers = 0
    while time.monotonic() < began + 2:
        known_asks()
        n_answers += 1
    elapsed, burnt = time.monotonic() - began, cpu_seconds(server) - burnt
    assert open_connections(server) > MAX_FILES
    said = [line for line in server.lines if "Too many open files" in line]
    assert said, "an operator can see why nobody gets in"
    n_other_lines = sum("path=" not in line for line in server.lines[n_lines:])
    assert n_other_lines <= 3 * elapsed + 2, "it is said once in a while"
    assert burnt <= 0.5 * elapsed + 0.005 * n_answers, f"{burnt} CPU seconds in {elapsed} s"
    for client in clients:
        client.close()
    known_asks()
    known.close()
    assert in_threads(8, lambda _: stream(server, body)) == [expected(body)] * 8
    is_back_to(server, n_before)
    assert total(server, "lastmile_store_write_errors_total") == 0, "the store's files were open"
    assert server.stop() == 0
