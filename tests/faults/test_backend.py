"""A backend that panics, computes NaN, fails, or stands still."""

import json
import threading
import time

import pytest
from bystander import (
    Broken,
    at_rest,
    completion,
    expected,
    in_threads,
    is_back_to,
    nobody_notices,
    stream,
    total,
    until,
    whole,
)
from conftest import Server

STREAMS = [completion(f"stream {i}", 40 + i) for i in range(4)]
SHORT = [completion(f"short {i}", 2) for i in range(60)]


def started(tmp_path, options):
    return Server(tmp_path, "--model", f"placeholder:delay_us=2000,{options}")


def ended(server, body):
    """None for the whole and right text, else the error that came behind a part of it."""
    try:
        assert stream(server, body) == expected(body)
    except Broken as broken:
        assert expected(body).startswith(broken.text), broken.text
        return broken.error
    return None


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("panic_at_step", "backend_error"),
        ("fail_at_step", "backend_error"),
        ("nan_at_step", "sequence_error"),
    ],
)
def test_one_step_goes_wrong(tmp_path, fault, code):
    server = started(tmp_path, f"{fault}=20")
    assert ended(server, SHORT[0]) is None
    n_before = at_rest(server)
    errors = in_threads(len(STREAMS), lambda i: ended(server, STREAMS[i]) or {})
    hit = [error for error in errors if error]
    assert hit, "nobody was in the step"
    for error in hit:
        assert (error["type"], error["code"]) == ("server_error", code), error
        assert error["message"]
    assert total(server, "lastmile_request_errors_total", code=code) == len(hit)
    # The engine goes on, and whoever asks again is answered.
    assert [ended(server, body) for body in STREAMS] == [None] * len(STREAMS)
    is_back_to(server, n_before)
    assert server.get("/health/ready").status == server.get("/health/live").status == 200
    assert server.stop() == 0


@pytest.mark.parametrize("fault", ["panic_at_step", "fail_at_step", "nan_at_step"])
def test_a_whole_answer_that_goes_wrong_is_a_server_error(tmp_path, fault):
    server = started(tmp_path, f"{fault}=20")
    status, _, answer = whole(server, STREAMS[0])
    assert status == 500, answer
    assert answer["error"]["type"] == "server_error" and answer["error"]["message"]
    status, _, answer = whole(server, STREAMS[0])
    assert (status, answer["choices"][0]["text"]) == (200, expected(STREAMS[0]))
    assert server.stop() == 0


def test_nan_in_one_sequence_ends_that_one_alone(tmp_path):
    server = started(tmp_path, "nan_at=1000")
    victim = completion([300 + i % 200 for i in range(990)], 40)
    with nobody_notices(server):
        errors = [ended(server, victim) for _ in range(3)]
    assert [error["code"] for error in errors] == ["sequence_error"] * 3
    assert server.stop() == 0


def test_every_seventh_step_fails(tmp_path):
    server = started(tmp_path, "fail_every=7")
    n_tries = [0] * len(SHORT)

    def ask_until_answered(i):
        while True:
            n_tries[i] += 1
            status, _, answer = whole(server, SHORT[i])
            if status == 200:
                return answer["choices"][0]["text"] == expected(SHORT[i])
            assert (status, answer["error"]["code"]) == (500, "backend_error"), answer
            assert n_tries[i] < 50, "it never gets through"

    expects = [expected(body) for body in SHORT]
    assert len(expects) == len(SHORT)
    n_before = at_rest(server)
    # Twelve at a time, so that steps hold some of those that run, and leave others alone.
    for begin in range(0, len(SHORT), 12):
        found = in_threads(12, lambda i, begin=begin: ask_until_answered(begin + i))
        assert found == [True] * 12
    assert sum(n_tries) > len(SHORT), "no step failed"
    n_failed = total(server, "lastmile_request_errors_total", code="backend_error")
    assert n_failed == sum(n_tries) - len(SHORT)
    assert total(server, "lastmile_failed_steps_total") >= 1
    is_back_to(server, n_before)
    assert server.get("/health/ready").status == 200
    assert server.stop() == 0


def test_an_engine_that_stands_still_is_not_ready_until_it_goes_on(tmp_path):
    server = started(tmp_path, "hang_at_step=30,hang_us=9000000")
    assert ended(server, SHORT[0]) is None
    n_before = at_rest(server)
    errors = []
    running = threading.Thread(target=lambda: errors.append(ended(server, STREAMS[0])))
    began, slowest = time.monotonic(), 0.0
    running.start()

    def ready():
        nonlocal slowest
        asked = time.monotonic()
        status = server.get("/health/ready").status
        live = server.get("/health/live").status
        slowest = max(slowest, time.monotonic() - asked)
        assert live == 200, "only a restart would help the one, nothing but time the other"
        return status

    def it_is_not_ready():
        return ready() == 503

    def it_is_ready():
        return ready() == 200

    until(10, it_is_not_ready)
    assert 4.5 <= time.monotonic() - began <= 8.5
    assert json.loads(server.get("/health").body)["status"] == "stalled"
    until(15, it_is_ready)
    assert time.monotonic() - began >= 8.9
    assert slowest < 3, "the server itself stood still"
    running.join(timeout=20)
    assert errors == [None], "it was late, and whole"
    assert total(server, "lastmile_engine_stalls_total") == 1
    assert any("stands still" in line for line in server.lines)
    assert list(server.home.rglob("last-stall.json"))
    assert ended(server, STREAMS[1]) is None
    is_back_to(server, n_before)
    assert server.stop() == 0
