"""Confidence from judged answers: told as raw probabilities first, as a share of good answers once enough were judged."""

import json

import pytest
from conftest import Server, run

N_JUDGED = 120
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("confidence")


@pytest.fixture(scope="module")
def server(home):
    server = Server(home, "--model", "placeholder:mode=echo")
    yield server
    assert server.stop() == 0


def verb(home, *args, status=0):
    ran = run(home, *args, "--json")
    assert ran.returncode == status, ran
    return json.loads(ran.stdout)


def ask(server, text, **fields):
    answer = server.post(CHAT, {"messages": [{"role": "user", "content": text}]} | fields)
    assert answer.status == 200, answer.body
    return answer.json


def judge(server, request, is_good):
    told = server.post("/v1/feedback", {"request_id": request, "rating": is_good})
    assert told.status in (200, 201), told.body


def confidence(server, text="Is it so?"):
    return ask(server, text, confidence=True)["choices"][0]["confidence"]


def test_nothing_is_made_up_before_enough_was_judged(home, server):
    assert "confidence" not in ask(server, "Is it so?")["choices"][0]
    told = confidence(server)
    assert told["calibrated"] is False and "probability" not in told
    assert 0 < told["token_probability"] <= 1
    assert verb(home, "confidence", "show") == []
    nothing = verb(home, "confidence", "fit", status=1)
    assert nothing == {"fitted": [], "too_few": [], "n_without_logprob": 0, "n_repeated": 0}

    # Who asks for no log-probabilities is not learned from, and one answer is too few.
    judge(server, ask(server, "Unsaid")["id"], True)
    judge(server, ask(server, "Said", confidence=True)["id"], False)
    few = verb(home, "confidence", "fit", status=1)
    assert (few["fitted"], few["n_without_logprob"]) == ([], 1)
    assert (few["too_few"][0]["n_judged"], few["too_few"][0]["n_good"]) == (1, 0)
    ran = run(home, "confidence", "fit")
    assert ran.returncode == 1 and "at least 100" in ran.stdout, ran
    assert confidence(server)["calibrated"] is False


def test_judged_answers_calibrate_their_release(home, server):
    for i in range(N_JUDGED):
        request = ask(server, f"What is {i} times {i + 1}?", confidence=True)["id"]
        judge(server, request, i % 4 != 0)
    # The same answer again is no further example.
    judge(server, ask(server, "What is 1 times 2?", confidence=True)["id"], True)
    fitted = verb(home, "confidence", "fit")
    assert fitted["n_repeated"] == 1
    fit = fitted["fitted"][0]
    # One bad answer is of the test before.
    assert (fit["n_judged"], fit["n_good"]) == (N_JUDGED + 1, N_JUDGED * 3 // 4)
    assert 0 <= fit["calibration_error"] < 0.2
    assert [one["release"] for one in verb(home, "confidence", "show")] == [fit["release"]]
    shown = run(home, "confidence", "show").stdout
    assert fit["release"] in shown and "121 judged, 90 good" in shown

    # A server that runs knows it from the next request on; all echoes are about equally sure.
    answer = ask(server, "Is it so?", confidence=True)
    assert answer["system_fingerprint"] == fit["release"]
    told = answer["choices"][0]["confidence"]
    assert told["calibrated"] is True and told["n_judged"] == fit["n_judged"]
    assert sum(step["n"] for step in fit["steps"]) == fit["n_judged"]
    assert all(step["n"] >= 20 for step in fit["steps"])
    steps = {step["n"]: step["rate"] for step in fit["steps"]}
    assert told["probability"] == pytest.approx(steps[told["n_alike"]], abs=1e-6)
    assert 0 < told["probability"] < 1


def test_evaluations_are_judgements_where_passing_is_a_fact(home, server, tmp_path):
    rows = [{"prompt": f"Say {i}", "expected": f"Say {i}" if i % 2 else "no", "scorer": "exact"} for i in range(10)]
    rows.append({"prompt": "Say it", "scorer": "answered"})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = verb(home, "confidence", "fit")["fitted"][0]
    unrated = verb(home, "eval", str(file), "--base-url", server.url)
    assert (unrated["n_passed"], unrated["n_rated"]) == (6, 0)
    assert verb(home, "confidence", "fit")["fitted"][0]["n_judged"] == before["n_judged"]
    rated = verb(home, "eval", str(file), "--rate", "--base-url", server.url)
    assert (rated["n_passed"], rated["n_rated"]) == (6, 10)
    after = verb(home, "confidence", "fit")["fitted"][0]
    assert after["n_judged"] == before["n_judged"] + 10
    assert after["n_good"] == before["n_good"] + 5
