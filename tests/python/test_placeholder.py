"""The scaffolding before there is a model: a thousand requests, and what is known of them after."""

import json
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Server, run

N_REQUESTS = 1000
CONCURRENCY = 32
N_FEEDBACK = 20
MAX_TOKENS = 24

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}

# What is sent, the status, and the error's code and field; None where the client cannot know.
BAD_CHATS = [
    (b'{"messages": [', 400, "invalid_json", "messages"),
    (b"[1]", 400, "invalid_json", None),
    (CHAT | {"model": "gpt-9"}, 404, "model_not_found", "model"),
    (CHAT | {"messages": []}, 400, None, "messages"),
    (CHAT | {"messages": "hello"}, 400, "invalid_value", "messages"),
    ({"max_tokens": 8}, 400, "missing_field", "messages"),
    (CHAT | {"max_tokens": 0}, 400, None, "max_tokens"),
    (CHAT | {"max_tokens": 10**9}, 400, None, "max_tokens"),
    (CHAT | {"temperature": -1}, 400, "invalid_value", "temperature"),
    (CHAT | {"temperature": "warm"}, 400, "invalid_value", "temperature"),
    (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', 400, None, None),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, None, None),
    (CHAT | {"messages": [{"role": "user", "content": "hello " * 9000}]}, 400, None, "messages"),
    (b" " * (2 << 20), 413, "body_too_large", None),
]


def database(server):
    """The store, as another program may read it meanwhile."""
    path = server.home / "store" / "lastmile.db"
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def until(seconds, ask):
    """What `ask` says once it says something, asked again and again for a while."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"{ask.__name__} did not come true within {seconds} s"
        time.sleep(0.05)
    return answer


@pytest.fixture(scope="module")
def answers(placeholder):
    """A thousand answers, by request id."""

    def send(i):
        body = {"prompt": f"hello {i}", "max_tokens": MAX_TOKENS, "seed": i}
        answer = placeholder.post("/v1/completions", body)
        assert answer.status == 200, answer.body
        return answer.headers["x-request-id"], answer.json

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = dict(pool.map(send, range(N_REQUESTS)))
    assert len(answers) == N_REQUESTS, "request ids are unique"
    return answers


@pytest.fixture(scope="module")
def stored(placeholder, answers):
    """The attempts of those answers, once the store's writer has caught up."""

    def all_attempts():
        connection = database(placeholder)
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM attempt WHERE error_code IS NULL").fetchall()
        connection.close()
        found = {row["request_id"]: row for row in rows}
        return found if answers.keys() <= found.keys() else None

    return until(30, all_attempts)


@pytest.mark.parametrize(("body", "status", "code", "param"), BAD_CHATS)
def test_bad_requests_are_answered(placeholder, body, status, code, param):
    answer = placeholder.post("/v1/chat/completions", body)
    assert answer.status == status, answer.body
    error = answer.json["error"]
    assert error["message"] and error["type"] and error["code"], error
    assert code is None or error["code"] == code, error
    assert param is None or error["param"] == param, error
    assert placeholder.post("/v1/chat/completions", CHAT).status == 200, "nobody else noticed"


def test_metrics_count_what_was_sent(placeholder, answers):
    metrics = placeholder.metrics()

    def total(name):
        return sum(value for _, value in metrics[name])

    for name in ["time_to_first_token_seconds", "e2e_request_latency_seconds"]:
        for prefix in ["lastmile_", "vllm:"]:
            assert total(f"{prefix}{name}_count") >= N_REQUESTS
            buckets = [value for _, value in metrics[f"{prefix}{name}_bucket"]]
            assert buckets == sorted(buckets)
            assert buckets[-1] == total(f"{prefix}{name}_count")
    assert total("lastmile_e2e_request_latency_seconds_sum") > 0
    assert total("lastmile_cpu_seconds_total") > 0
    assert total("lastmile_requests_finished_total") >= N_REQUESTS
    generated = sum(answer["usage"]["completion_tokens"] for answer in answers.values())
    assert total("lastmile_generation_tokens_total") >= generated
    assert total("lastmile_store_dropped_total") == 0

    def nobody_runs():
        running = placeholder.metrics()["lastmile_requests_running"]
        return sum(number for _, number in running) == 0

    # An answer is out before the step that ended it is over.
    until(20, nobody_runs)


def test_metrics_count_errors(placeholder):
    def refused():
        samples = placeholder.metrics()["lastmile_http_requests_total"]
        return sum(value for labels, value in samples if labels["status"] in {"400", "404", "413"})

    before = refused()
    for body, *_ in BAD_CHATS:
        placeholder.post("/v1/chat/completions", body)
    assert refused() == before + len(BAD_CHATS)


def test_the_store_agrees_with_the_answers(placeholder, answers, stored):
    for request_id, answer in answers.items():
        row, usage, choice = stored[request_id], answer["usage"], answer["choices"][0]
        assert row["prompt_tokens"] == usage["prompt_tokens"]
        assert row["completion_tokens"] == usage["completion_tokens"]
        assert row["finish_reason"] == choice["finish_reason"]
        assert row["output_text"] == choice["text"]
        assert 0 < row["ttft_ms"] <= row["e2e_ms"]
        assert row["cpu_seconds"] >= 0
        assert len(row["release_hash"]) == 32
    assert sum(row["cpu_seconds"] for row in stored.values()) > 0
    connection = database(placeholder)
    releases = {row[0] for row in connection.execute("SELECT hash FROM release")}
    requests = connection.execute("SELECT id, release_hash, prompt FROM request").fetchall()
    connection.close()
    requests = {row[0]: row for row in requests}
    assert answers.keys() <= requests.keys()
    assert {stored[request_id]["release_hash"] for request_id in answers} <= releases
    assert {requests[request_id][1] for request_id in answers} <= releases
    prompts = [requests[request_id][2] for request_id in answers]
    assert sum("hello" in prompt for prompt in prompts) == N_REQUESTS


def test_cost_is_conserved(placeholder, stored):
    """What the requests cost is what the process spent on them."""

    def cost():
        connection = database(placeholder)
        found = connection.execute("SELECT sum(cpu_seconds) FROM attempt").fetchone()[0]
        connection.close()
        return found

    measured = placeholder.metrics()["lastmile_cpu_seconds_total"][0][1]
    assert cost() == pytest.approx(measured, rel=0.1)


def test_feedback_is_stored_when_it_is_answered(placeholder, answers):
    ids = list(answers)[:N_FEEDBACK]
    for i, request_id in enumerate(ids):
        body = {"request_id": request_id, "rating": i % 2 == 0, "comment": f"comment {i}"}
        answer = placeholder.post("/v1/feedback", body)
        assert answer.status == 201, answer.body
    connection = database(placeholder)
    rows = connection.execute("SELECT request_id, rating, comment, release_hash FROM feedback")
    rows = {row[0]: row[1:] for row in rows}
    connection.close()
    assert rows.keys() == set(ids)
    for i, request_id in enumerate(ids):
        rating, comment, release_hash = rows[request_id]
        assert (rating, comment) == (float(i % 2 == 0), f"comment {i}")
        assert len(release_hash) == 32
    assert placeholder.metrics()["lastmile_feedback_total"] == [({}, N_FEEDBACK)]


def test_feedback_on_what_nobody_asked_is_refused(placeholder):
    absent = "00000000-0000-7000-8000-000000000000"
    answer = placeholder.post("/v1/feedback", {"request_id": absent, "rating": True})
    assert (answer.status, answer.json["error"]["code"]) == (404, "request_not_found")
    answer = placeholder.post("/v1/feedback", {"request_id": "one", "rating": True})
    assert (answer.status, answer.json["error"]["param"]) == (400, "request_id")


def test_a_client_that_leaves_frees_its_blocks(placeholder):
    client = placeholder.client()
    stream = client.completions.create(
        model="placeholder", prompt="hello", max_tokens=2000, stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()

    def all_free():
        metrics = placeholder.metrics()
        return metrics["lastmile_kv_blocks_free"] == metrics["lastmile_kv_blocks"]

    until(10, all_free)


def test_killed_under_load_it_starts_again_and_doctor_knows(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:delay_us=2000")
    first = server.post("/v1/completions", {"prompt": "hello", "max_tokens": 8, "seed": 1})
    assert first.status == 200

    def kept():
        connection = database(server)
        found = connection.execute("SELECT count(*) FROM attempt").fetchone()[0]
        connection.close()
        return found

    until(10, kept)
    started = threading.Barrier(9)

    def load():
        try:
            started.wait()
            server.post("/v1/completions", {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True})
        except OSError:
            pass  # The server is gone.

    threads = [threading.Thread(target=load) for _ in range(8)]
    [thread.start() for thread in threads]
    started.wait()

    def busy():
        return server.metrics()["lastmile_requests_running"][0][1] > 0

    until(10, busy)
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    [thread.join() for thread in threads]

    again = Server(tmp_path, "--model", "placeholder:delay_us=2000")
    try:
        answer = again.post("/v1/completions", {"prompt": "hello", "max_tokens": 8, "seed": 1})
        assert answer.json["choices"] == first.json["choices"]

        def crash_is_known():
            doctor = run(tmp_path, "doctor", "--json")
            assert doctor.returncode == 0, doctor.stderr
            report = json.loads(doctor.stdout)
            newest, before = report["runs"]
            assert newest["state"] == "running"
            assert report["health"]["status"] == "ok"
            return before["state"] == "crashed"

        # A run is given up when it was silent for half a minute.
        until(60, crash_is_known)
    finally:
        assert again.stop() == 0
