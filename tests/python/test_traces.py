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


def test_an_answer_joins_its_senders_trace_and_is_found_by_it(tmp_path, collector):
    url, taken = collector
    server = Server(tmp_path, "--model", "placeholder", "--otlp-endpoint", url)
    body = {"model": "placeholder", "prompt": "hi", "max_tokens": 4}
    trace, quiet, span = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7"
    post = lambda header: server.post("/v1/completions", body, {"traceparent": header}).json["id"]
    joined, unsampled = post(f"00-{trace}-{span}-01"), post(f"00-{quiet}-{span}-00")
    wrong = [post(header) for header in (f"ff-{trace}-{span}-01", f"00-{trace.upper()}-{span}-01", "00-1-2-01")]
    bare = lambda one: one.removeprefix("cmpl-")
    own = uuid.UUID(bare(wrong[0])).hex

    def found(trace):
        answer = server.get(f"/v1/requests?trace={trace}")
        assert answer.status == 200, answer.body
        return [one["id"] for one in answer.json["data"]]

    until(lambda: found(own), lambda ids: ids == [bare(wrong[0])], 10)
    assert found(trace) == [bare(joined)] and found(quiet) == [bare(unsampled)]
    assert server.get(f"/v1/requests/{bare(joined)}/page").json["trace_id"] == trace
    refused = server.get("/v1/requests?trace=4bf9")
    assert refused.status == 400 and "32 hexadecimal digits" in refused.body
    why = run(tmp_path, "why", trace)
    assert why.returncode == 0 and bare(joined) in why.stdout and f"trace {trace}" in why.stdout, why

    def counts():
        return {one["outcome"]: n for one, n in server.metrics()["lastmile_otlp_spans_total"]}

    until(counts, lambda now: now["exported"] == 16, 10)
    assert counts() == {"exported": 16, "dropped": 0, "failed": 0, "unsampled": 4}
    assert server.stop() == 0
    spans = b"".join(one[3] for one in taken)
    assert spans.count(bytes.fromhex(trace)) == 4 and spans.count(bytes.fromhex(span)) == 1
    assert bytes.fromhex(quiet) not in spans
    lines = [line for line in server.lines if f"trace_id={trace}" in line]
    assert len(lines) == 1 and bare(joined) in lines[0], "the log names the trace once, with its request"


def test_a_collector_that_is_not_there_disturbs_nobody(tmp_path):
    server = Server(tmp_path, "--model", "placeholder", "--otlp-endpoint", "http://127.0.0.1:1")
    answer = server.post("/v1/completions", {"model": "placeholder", "prompt": "hi", "max_tokens": 4})
    assert answer.status == 200
    assert server.stop() == 0
    assert any("spans of traces" in line and "exported=0" in line for line in server.lines), server.lines[-5:]


def test_a_bad_endpoint_is_named_at_the_start(tmp_path):
    started = run(tmp_path, "serve", "--model", "placeholder", "--port", "0", "--otlp-endpoint", "moon")
    assert started.returncode == 2 and "otlp-endpoint" in started.stderr, started
