"""Starts and ends the servers that are measured, and the processes that keep the machine busy."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import load

WHEEL = "xllamacpp"
START_PATIENCE_S = 300
STOP_PATIENCE_S = 30
# Ends by itself when whoever started it is gone.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100000))\n"


class ServerFailed(Exception):
    """A server did not start."""


@dataclass
class Server:
    """A server that runs."""

    name: str
    url: str
    model: str


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def lastmile(program: Path, model: Path, isa: str | None) -> Iterator[Server]:
    """`lastmile serve` with a home of its own, as a user starts it; `isa` caps its instruction set."""
    with tempfile.TemporaryDirectory(prefix="lastmile-bench-") as home:
        env = {name: text for name, text in os.environ.items() if not name.startswith("LASTMILE_")}
        env["LASTMILE_HOME"] = home
        if isa:
            env["LASTMILE_ISA"] = isa
        port = free_port()
        command = [str(program), "serve", "--model", str(model), "--port", str(port)]
        with _running("lastmile", command, port, env) as server:
            yield server


@contextlib.contextmanager
def llamacpp(venv: Path, model: Path, parallel: int, context: int) -> Iterator[Server]:
    """llama.cpp's server for `parallel` sequences of `context` tokens."""
    port = free_port()
    script = Path(__file__).with_name("llamacpp_server.py")
    command = [str(venv / "bin" / "python"), str(script), str(model)]
    command += [str(number) for number in (port, parallel, context, n_cores())]
    with _running("llama.cpp", command, port, dict(os.environ)) as server:
        yield server


def install_llamacpp(venv: Path) -> str:
    """Makes the virtual environment and installs the wheel where they are missing; the version."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    show = f"import importlib.metadata as m; print(m.version('{WHEEL}'))"
    found = subprocess.run([python, "-c", show], capture_output=True, text=True)
    if found.returncode != 0:
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", WHEEL]
        subprocess.run(pip, check=True)
        found = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keeps `count` other processes busy."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def _running(name: str, command: list[str], port: int, env: dict[str, str]) -> Iterator[Server]:
    """A server process, ready; it is ended however this is left, Ctrl-C included."""
    with tempfile.TemporaryFile() as log:
        # In a session of its own, so that Ctrl-C reaches this process alone, which then ends it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            try:
                model = _wait_until_ready(name, process, url)
            except ServerFailed as error:
                log.seek(0)
                said = log.read().decode(errors="replace")[-2000:]
                raise ServerFailed(f"{error}; it said:\n{said}") from None
            yield Server(name, url, model)
        finally:
            _stop(process)


def _wait_until_ready(name: str, process: subprocess.Popen, url: str) -> str:
    end_s = time.monotonic() + START_PATIENCE_S
    while process.poll() is None:
        try:
            return load.model_id(url)
        except (urllib.error.URLError, OSError):
            # A server that still loads refuses the connection or answers 503.
            if time.monotonic() > end_s:
                raise ServerFailed(f"{name} is not ready after {START_PATIENCE_S} s") from None
            time.sleep(0.1)
    raise ServerFailed(f"{name} ended with {process.returncode}")


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
