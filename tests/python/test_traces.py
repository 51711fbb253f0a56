"""Traces over OTLP, as a collector gets them."""

import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from conftest import Server, run
from test_experiments import until

SECRET = "the grey harbour of Orven"


@pytest.fixture
def collector():
    """Takes what comes: (path, content type, body)."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append((self.path, self.headers["content-type"], self.headers.get("x-team"), body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", taken
    http.shutdown()


def test_each_answer_is_a_tree_of_spans_and_its_text_stays_here(tmp_path, collector):
    url, taken = collector
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_SERVICE_NAME": "night-shift",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=ops",
    }
    server = Server(tmp_path, "--model", "placeholder:mode=echo", variables=variables)
    body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 30}
    ids = [server.post("/v1/chat/completions", body).json["id"] for _ in range(3)]
    until(lambda: b"".join(one[3] for one in taken), lambda all: all.count(b"decode") >= 3, 10)
    assert server.stop() == 0
    everything = b"".join(one[3] for one in taken)
    assert {one[:3] for one in taken} == {("/v1/traces", "application/x-protobuf", "ops")}
    for name in (b"queue", b"prefill", b"decode", b"chat placeholder", b"night-shift", b"gen_ai.usage.output_tokens"):
        assert name in everything, name
    for one in ids:
        # A root and its three children, which name the request's id as their trace.
        assert everything.count(uuid.UUID(one.removeprefix("chatcmpl-")).bytes) >= 4, one
    assert SECRET.encode() not in everything and b"harbour" not in everything


def test_a_collector_that_is_not_there_disturbs_nobody(tmp_path):
    server = Server(tmp_path, "--model", "placeholder", "--otlp-endpoint", "http://127.0.0.1:1")
    answer = server.post("/v1/completions", {"model": "placeholder", "prompt": "hi", "max_tokens": 4})
    assert answer.status == 200
    assert server.stop() == 0
    assert any("spans of traces" in line and "exported=0" in line for line in server.lines), server.lines[-5:]


def test_a_bad_endpoint_is_named_at_the_start(tmp_path):
    started = run(tmp_path, "serve", "--model", "placeholder", "--port", "0", "--otlp-endpoint", "moon")
    assert started.returncode == 2 and "otlp-endpoint" in started.stderr, started
