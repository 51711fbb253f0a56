"""`lastmile top`: one frame for pipes, and live in a terminal of 80 by 24."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import time

from conftest import PROGRAM, Server, environment, run
from ports import free_port
from test_keys import make_key
from test_placeholder import until

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


def test_one_frame_tells_what_the_server_does(home, placeholder):
    assert placeholder.post("/v1/chat/completions", CHAT).status == 200
    assert placeholder.post("/v1/chat/completions", CHAT | {"max_tokens": 10**7}).status == 400

    def frame():
        ran = run(home, "top", "--once", "--url", placeholder.url)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    # The server looks at itself every two seconds.
    until(10, lambda: "context_length_exceeded" in frame())
    text = frame()
    for word in ["lastmile top", placeholder.url, "ok", "MODEL", "placeholder", "TTFT 50/99", "CPU s"]:
        assert word in text, text
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80, text
    assert "\x1b" not in text


def test_no_server_no_key_and_wrong_use_are_told(tmp_path):
    nobody = run(tmp_path, "top", "--once", "--url", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 3 and "no answer" in nobody.stderr + nobody.stdout
    assert run(tmp_path, "top", "--once", "--url", "localhost").returncode == 2
    no_terminal = run(tmp_path, "top", "--url", "http://127.0.0.1:1")
    assert no_terminal.returncode == 2 and "--once" in no_terminal.stderr
    key = make_key(tmp_path, "ops", "--scopes", "ops")
    server = Server(tmp_path, "--model", "placeholder")
    refused = run(tmp_path, "top", "--once", "--url", server.url)
    assert refused.returncode == 3 and "API key" in refused.stderr
    assert run(tmp_path, "top", "--once", "--url", server.url, "--api-key", key).returncode == 0
    assert server.stop() == 0


def test_live_in_a_terminal_until_q(home, placeholder):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [PROGRAM, "top", "--url", placeholder.url, "--interval", "1"],
        env=environment(home) | {"TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 20
    while b"placeholder" not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(ours, 4096)
    os.write(ours, b"q")
    # What it still writes must be taken, or it cannot end.
    while True:
        try:
            if not os.read(ours, 4096):
                break
        except OSError:
            break
    assert process.wait(timeout=20) == 0, process.stderr.read()
    os.close(ours)
