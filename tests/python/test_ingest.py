"""Rows over HTTP: every format, once by their key, across kill -9, in bounded memory, and refused by name."""

import io
import json
import signal
import time
import urllib.parse

import pyarrow
import pyarrow.parquet
import pytest
from conftest import Server, run
from test_experiments import until

CONTRACT = """format = 1
[schema]
required = ["text"]
[schema.properties]
text = { type = "string", minLength = 1 }
"""
PATIENCE_S = 60


def with_contract(home, name="notes", contract=CONTRACT):
    folder = home / "data" / "contracts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(contract)


@pytest.fixture
def server(tmp_path):
    with_contract(tmp_path)
    server = Server(tmp_path, "--model", "placeholder")
    yield server
    server.stop()


def send(server, body, key=None, name="notes", form="jsonl", kind=None):
    headers = {"idempotency-key": key} if key else {}
    headers |= {"content-type": kind} if kind else {}
    query = f"?format={form}" if form else ""
    return server.post(f"/ops/v1/ingest/{name}{query}", body, headers)


def fate(server, poll):
    """What became of a body, once it is over."""
    end = time.monotonic() + PATIENCE_S
    while True:
        job = server.get(poll)
        assert job.status == 200, job.body
        if job.json["state"] != "waiting":
            return job.json
        assert time.monotonic() < end, job.json
        time.sleep(0.02)


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def exported(home, name="notes"):
    text = run(home, "data", "export", name).stdout
    return [json.loads(line) for line in text.splitlines()]


def test_what_was_sent_is_published_or_in_quarantine_and_says_so(server):
    rows = [{"text": f"row {i}"} for i in range(98)] + [{"text": ""}, {"n": 1}]
    taken = send(server, lines(rows), "all of it")
    assert taken.status == 202, taken.body
    assert taken.json["size_bytes"] == len(lines(rows)) and len(taken.json["hash"]) == 64
    job = fate(server, taken.json["poll"])
    assert job["state"] == "added" and job["rows"] == {
        "rows_in": 100,
        "rows_published": 98,
        "rows_quarantined": 2,
        "by_rule": {"schema:minLength": 1, "schema:required": 1},
    }
    assert exported(server.home) == rows[:98]
    bad = json.loads(run(server.home, "quarantine", "list", "notes", "--json").stdout)
    assert sorted(row["rule"] for row in bad) == ["schema:minLength", "schema:required"]
    again = send(server, lines(rows), "all of it")
    assert (again.status, again.body) == (taken.status, taken.body)
    assert again.headers["idempotent-replayed"] == "true"
    other = send(server, lines(rows[:1]), "all of it")
    assert other.status == 409 and taken.json["hash"] in other.json["error"]["message"], other.body
    # It is counted a moment after it can be seen.
    counted = lambda: server.metrics().get("lastmile_ingest_published_rows_total")
    until(counted, lambda all: all == [({"source": "notes"}, 98.0)], 20)


def test_every_format_is_taken(server):
    with_contract(server.home, "any", "format = 1\n")
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "n": [1, 2, 3]}), parquet)
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    sharegpt = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
    mail = b"From: ann@example.org\nSubject: one\n\nHello.\n"
    bodies = [
        ("jsonl", "application/x-ndjson", lines([{"text": "1"}, {"text": "2"}]), 2),
        ("json", "application/json", b'[{"text": "3"}]', 1),
        ("csv", "text/csv; charset=utf-8", b"text,n\n4,1\n5,2\n", 2),
        ("parquet", "application/vnd.apache.parquet", parquet.getvalue(), 3),
        ("mbox", "application/mbox", b"From ann Mon Jan  1 00:00:00 2001\n" + mail + b"\n", 1),
        ("mail", "message/rfc822", mail, 1),
        ("chat", None, lines([chat]), 1),
        ("sharegpt", None, lines([sharegpt] * 2), 2),
    ]
    for form, kind, body, n_rows in bodies:
        asked = None if kind else form
        taken = send(server, body, form, "any", asked, kind)
        assert taken.status == 202 and taken.json["format"] == form, taken.body
        job = fate(server, taken.json["poll"])
        assert (job["state"], job["rows"]["rows_published"]) == ("added", n_rows), job
    assert chat in exported(server.home, "any")


def test_what_cannot_be_read_at_all_is_refused_with_its_offset(server):
    cases = [
        ("jsonl", b"\n\njust words\nnor this\n", 2),
        ("json", b'[{"text": 1}', None),
        ("csv", b"a,b\n1\n2\n", 4),
        ("parquet", b"no parquet", 0),
        ("mbox", b"{}", 0),
    ]
    for form, body, offset in cases:
        refused = send(server, body, form=form)
        if offset is None:
            # The first row is whole: that the end is missing is for quarantine.
            assert refused.status == 202, refused.body
            continue
        error = refused.json["error"]
        assert refused.status == 400 and error["code"] == "unreadable_body", refused.body
        assert f"as {form}: offset {offset}: " in error["message"], error
    nobody = send(server, lines([{"text": "a"}]), name="nobody")
    assert nobody.status == 404 and "nobody has no contract" in nobody.body, nobody.body


def test_a_body_over_the_limit_and_a_full_backlog_are_refused(tmp_path):
    with_contract(tmp_path)
    limits = ["--max-ingest-bytes", "20000", "--max-ingest-backlog-bytes", "20000"]
    server = Server(tmp_path, "--model", "placeholder", *limits)
    try:
        large = send(server, b" " * 20_001)
        assert large.status == 413 and "20000 bytes" in large.body, large.body
        # What the contract refuses waits for another one, and takes room of its own.
        bad = lines([{"m": i} for i in range(1000)])
        assert 10_000 < len(bad) < 15_000
        for key in ("one", "two"):
            job = fate(server, send(server, bad, key).json["poll"])
            assert job["state"] == "refused" and "schema:required" in job["why"], job
        full = send(server, bad, "three")
        assert full.status == 429 and "limit 20000" in full.body, full.body
        assert full.json["error"]["code"] == "ingest_refused_full", full.body
        assert int(full.headers["retry-after"]) >= 1
        with_contract(tmp_path, contract="format = 1\n")
        for key in ("one", "two"):
            end = time.monotonic() + PATIENCE_S
            while fate(server, f"/ops/v1/ingest/notes?key={key}")["state"] != "added":
                assert time.monotonic() < end
        # A body makes room a moment after it can be seen to be added.
        until(lambda: send(server, bad, "three"), lambda taken: taken.status == 202, 20)
    finally:
        server.stop()
    limits = ["--max-ingest-bytes", "9", "--max-ingest-backlog-bytes", "8"]
    both = run(tmp_path, "serve", "--port", "0", "--model", "placeholder", *limits)
    assert both.returncode == 2 and "--max-ingest-bytes is 9" in both.stderr, both


def test_kills_lose_and_double_nothing(tmp_path):
    with_contract(tmp_path)
    bodies = {f"key {i}": lines([{"text": f"{i}-{row}"} for row in range(300)]) for i in range(40)}
    answered = set()
    server = Server(tmp_path, "--model", "placeholder")
    n_kills = 0
    for i, (key, body) in enumerate(bodies.items()):
        # A client that hears nothing sends the same again.
        while key not in answered:
            try:
                taken = send(server, body, key)
                assert taken.status == 202, taken.body
                answered.add(key)
            except OSError:
                server = Server(tmp_path, "--model", "placeholder")
            if i % 8 == 5 and n_kills <= i // 8:
                n_kills += 1
                server.stop(signal.SIGKILL)
                answered.discard(key)
    try:
        for key in bodies:
            job = fate(server, f"/ops/v1/ingest/notes?key={urllib.parse.quote(key)}")
            assert job["state"] == "added" and job["rows"]["rows_published"] == 300, job
    finally:
        server.stop()
    assert n_kills == 5
    found = sorted(row["text"] for row in exported(tmp_path))
    assert found == sorted(f"{i}-{row}" for i in range(40) for row in range(300))


def test_a_large_body_takes_little_memory(server):
    def resident():
        with open(f"/proc/{server.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

    before = resident()
    # 200 MB, which is checked and written while tokens are computed.
    body = lines([{"text": "x" * 980}]) * 200_000
    taken = send(server, body)
    assert taken.status == 202, taken.body
    end = time.monotonic() + 5 * PATIENCE_S
    while (job := server.get(taken.json["poll"]).json)["state"] == "waiting":
        assert time.monotonic() < end, job
        time.sleep(0.05)
        answer = server.post("/v1/completions", {"prompt": "hello", "max_tokens": 4})
        assert answer.status == 200, answer.body
    assert job["rows"]["rows_published"] == 200_000
    assert resident() - before < 300_000, (before, resident())
