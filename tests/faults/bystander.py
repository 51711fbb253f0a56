"""What all faults are measured by: raw connections, a bystander, and a server that is at rest."""

import atexit
import contextlib
import functools
import http.client
import json
import os
import re
import socket
import struct
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from conftest import Server

# A bystander's longest wait for its next chunk. An engine or a worker that a neighbour holds up shows
# seconds; what this machine's other work costs stays far below.
MAX_GAP_S = 2.0
PATIENCE_S = 20


def until(seconds, ask):
    """What `ask` says once it says something, asked again and again for a while."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"{ask.__name__} did not come true within {seconds} s"
        time.sleep(0.02)
    return answer


# Requests and raw connections.


def completion(prompt, max_tokens, **fields):
    """A request whose answer has one text and one length, whoever else is served."""
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    return body | fields


def head(length, more=""):
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {length}"] if length is not None else []
    return ("\r\n".join(lines + ([more] if more else [])) + "\r\n\r\n").encode()


def message(body, more=""):
    """The bytes of a request."""
    data = json.dumps(body).encode()
    return head(len(data), more) + data


def port_of(server):
    return urllib.parse.urlsplit(server.url).port


def connect(server, receive_buffer=None):
    """A connection that waits for nothing longer than a test may take."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(PATIENCE_S)
    client.connect(("127.0.0.1", port_of(server)))
    return client


def leave(client, how):
    """Closes with FIN, or at once with RST."""
    if how == "RST":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def read_until(client, mark):
    found = b""
    while mark not in found:
        part = client.recv(1)
        assert part, f"the server closed after {found!r}"
        found += part
    return found


def read_to_end(client):
    """All that comes until the server closes, or breaks the connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            found += part
    return found


def statuses(found):
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", found)]


class Broken(Exception):
    """A stream that ended with an error event, or without its end."""

    def __init__(self, text, error):
        super().__init__(text, error)
        self.text, self.error = text, error


def stream(server, body, gaps=None):
    """The text of a streamed completion; `Broken` when it does not end well."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    data = json.dumps(body | {"stream": True})
    connection.request("POST", "/v1/completions", data, {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise Broken("", json.loads(response.read())["error"])
    text, last = "", time.monotonic()
    for line in response:
        if line == b"data: [DONE]\n":
            response.read()
            connection.close()
            return text
        if line.startswith(b"data: "):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise Broken(text, chunk["error"])
            text += "".join(choice["text"] for choice in chunk["choices"])
            if gaps is not None:
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
    raise Broken(text, None)


def whole(server, body):
    """Status, headers and JSON of a completion that is sent at once."""
    answer = server.post("/v1/completions", body)
    return answer.status, answer.headers, answer.json


@functools.cache
def reference():
    """A server on which nothing goes wrong, until the tests end."""
    home = tempfile.TemporaryDirectory()
    server = Server(home.name, "--model", "placeholder")

    def end():
        server.stop()
        home.cleanup()

    atexit.register(end)
    return server


@functools.cache
def undisturbed(data):
    status, _, answer = whole(reference(), json.loads(data))
    assert status == 200, answer
    return answer["choices"][0]["text"]


def expected(body):
    """The text of the answer where nothing goes wrong."""
    return undisturbed(json.dumps(body, sort_keys=True))


# What an operator sees.


def total(server, name, **labels):
    samples = server.metrics()[name]
    return sum(value for found, value in samples if labels.items() <= found.items())


def metrics_with_key(server, key):
    """The sums of the samples of /metrics by name, for whom keys are asked; without buckets."""
    headers = {"authorization": f"Bearer {key}"}
    request = urllib.request.Request(server.url + "/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#") and "_bucket" not in line:
            name, value = re.match(r"[\w:]+", line).group(), float(line.rsplit(" ", 1)[1])
            found[name] = found.get(name, 0) + value
    return found


def open_connections(server):
    """Connections that the server holds or that wait for it, closed ones that it did not drop too."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    listening, time_wait = "0A", "06"
    local = f":{port_of(server):04X}"
    return sum(row[1].endswith(local) and row[3] not in (listening, time_wait) for row in rows)


def n_files(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def status_kb(server, name):
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text).group(1))


def cpu_seconds(server):
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_rest(server):
    """Waits until no request and no connection is left; returns the open file descriptors."""

    def nothing_runs():
        metrics = server.metrics()

        def value(name):
            return sum(value for _, value in metrics[name])

        is_idle = value("lastmile_requests_running") == value("lastmile_requests_waiting") == 0
        return is_idle and value("lastmile_kv_blocks_free") == value("lastmile_kv_blocks") > 0

    def nobody_is_connected():
        return open_connections(server) == 0

    until(PATIENCE_S, nothing_runs)
    until(PATIENCE_S, nobody_is_connected)
    return n_files(server)


def is_back_to(server, n_before):
    """Waits until no more files are open than before: a connection that is over may be closed a moment later."""

    def files_are_closed():
        return at_rest(server) <= n_before

    until(PATIENCE_S, files_are_closed)


class Bystander(threading.Thread):
    """Another client: streams the same answer again and again while something goes wrong.

    The answer that runs when the fault ends is read to its end.
    """

    BODY = completion("a bystander looks on", 60)

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.texts, self.gaps, self.error = server, [], [], None
        self.is_over = threading.Event()
        self.has_begun = threading.Event()

    def run(self):
        try:
            while not self.is_over.is_set():
                self.has_begun.set()
                self.texts.append(stream(self.server, self.BODY, self.gaps))
        except Exception as error:  # Shown by the test that it fails.
            self.error = error

    def noticed_nothing(self, max_gap_s=MAX_GAP_S):
        self.is_over.set()
        self.join(timeout=60)
        assert not self.is_alive() and self.error is None, self.error
        assert self.texts and set(self.texts) == {expected(self.BODY)}
        assert max(self.gaps) <= max_gap_s, max(self.gaps)


@contextlib.contextmanager
def nobody_notices(server, max_gap_s=MAX_GAP_S):
    """A bystander's answers are what they always are, and afterwards nothing is left behind."""
    assert stream(server, Bystander.BODY) == expected(Bystander.BODY)
    n_before = at_rest(server)
    bystander = Bystander(server)
    bystander.start()
    assert bystander.has_begun.wait(PATIENCE_S)
    yield bystander
    bystander.noticed_nothing(max_gap_s)
    is_back_to(server, n_before)
    assert server.get("/health/ready").status == 200


def in_threads(n, work):
    """Runs `work(0..n)` at once and returns what each returned."""
    found = [None] * n

    def one(i):
        found[i] = work(i)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return found
