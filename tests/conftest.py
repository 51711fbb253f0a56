"""A real server for each module: started as a user starts it, on a port and in a home of its own."""

import atexit
import json
import os
import queue
import re
import signal
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "target" / "release" / "lastmile"
TEST_HOME = Path(os.environ.get("LASTMILE_TEST_HOME") or ROOT / "target" / "test-home")
START_PATIENCE_S = 120


class Answer:
    """An HTTP answer, whatever its status."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def __repr__(self):
        return f"{self.status} {self.body}"

    @property
    def json(self):
        return json.loads(self.body)


class Server:
    """`lastmile serve` in a home that outlives it."""

    def __init__(self, home, *args, ca=None, variables=None, limits=None):
        """`limits` is called in the new process before the program: for its resource limits."""
        self.home = Path(home)
        self.tls = ssl.create_default_context(cafile=ca) if ca else None
        assert PROGRAM.is_file(), f"{PROGRAM} is not there: cargo build --release -p lm-cli"
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--port", "0", *args],
            env=environment(self.home) | (variables or {}),
            preexec_fn=limits,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        # A test that fails leaves no server behind; for one that ended, this does nothing.
        atexit.register(self.process.kill)
        self.lines = []
        self.said = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.url = self._wait_for_address()
        # The address is taken already, so this waits inside of the connection.
        assert self.get("/health/ready").status == 200

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            self.said.put(line)
        self.said.put(None)

    def _wait_for_address(self):
        while True:
            line = self.said.get(timeout=START_PATIENCE_S)
            assert line is not None, "the server ended:\n" + "".join(self.lines)
            found = re.search(r"listening on (https?://\S+)", line)
            if found:
                return found.group(1)

    def client(self, **options):
        options = {"timeout": 300, "max_retries": 0, "api_key": "none"} | options
        return openai.OpenAI(base_url=self.url + "/v1", **options)

    def get(self, path, headers=None):
        return self._send(urllib.request.Request(self.url + path, headers=headers or {}))

    def post(self, path, body, headers=None):
        """Sends bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | (headers or {})
        return self._send(urllib.request.Request(self.url + path, data, headers))

    def _send(self, request):
        try:
            with urllib.request.urlopen(request, timeout=300, context=self.tls) as answer:
                return Answer(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read().decode())

    def metrics(self):
        """The samples of /metrics: {name: [(labels, value)]}."""
        samples = {}
        for line in self.get("/metrics").body.splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = re.fullmatch(r"([\w:]+)(?:\{(.*)\})? (\S+)", line).groups()
            labels = dict(re.findall(r'(\w+)="([^"]*)"', labels or ""))
            samples.setdefault(name, []).append((labels, float(value)))
        return samples

    def stop(self, signal_number=signal.SIGTERM):
        """Ends the server and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        status = self.process.wait(timeout=60)
        # What it said last is read, too.
        self.reader.join(timeout=20)
        return status


def environment(home):
    """Nothing that the developer set for their own server."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("LASTMILE_")}
    return own | {"LASTMILE_HOME": str(home)}


def run(home, *args):
    """Runs a verb to its end."""
    return subprocess.run(
        [PROGRAM, *args], env=environment(home), capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of its own that shares the models which were pulled for the tests."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(TEST_HOME / "models", target_is_directory=True)
    return home


@pytest.fixture(scope="module")
def smollm2(home):
    installed = TEST_HOME / "models" / "smollm2-135m-instruct" / "installed.json"
    assert installed.is_file(), f"{installed} is not there: ./test pulls the models first"
    server = Server(home, "--model", "smollm2-135m-instruct", "--offline")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def placeholder(home):
    server = Server(home, "--model", "placeholder")
    yield server
    assert server.stop() == 0
