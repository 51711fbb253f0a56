"""What is evidence in an experiment, and what is not: units, restarts, who left, copies."""

import json
import signal
import threading
import time
import urllib.request

from conftest import Server
from test_experiments import Users, echo, report, spec, start, until, verb  # noqa: F401
from test_keys import make_key


def header(server, user, arm, status=200):
    """One question to an arm by its name."""
    body = {"messages": [{"role": "user", "content": "Which arm?"}], "user": user}
    answer = server.post("/v1/chat/completions", body, headers={"x-lastmile-arm": arm})
    assert answer.status == status, answer.body
    return answer


def test_an_operator_names_an_arm_and_that_is_no_evidence(home, echo, tmp_path):
    start(home, tmp_path, spec("named", "placeholder", {"params": {"max_tokens": 2}}) | {"from": "1"})
    users = Users(echo)
    until(users.arm, lambda arm: arm is not None)
    answer = header(echo, "ana", "named/candidate")
    assert answer.headers["x-lastmile-arm"] == "named/candidate"
    assert answer.json["usage"]["completion_tokens"] == 2
    assert header(echo, "ana", "named/primary").json["usage"]["completion_tokens"] > 2
    assert "moon/primary" not in header(echo, "ana", "moon/primary", 400).headers
    assert "x-lastmile-arm" in header(echo, "ana", "named/shadow", 400).body
    # Whoever asked before the server saw the experiment had no arm, and those who named theirs do not count.
    def n_counted(seen):
        return seen["n_primary"] + seen["n_candidate"]

    until(lambda: report(home, "named"), lambda seen: n_counted(seen) >= 1)
    time.sleep(0.5)
    said = report(home, "named")
    assert n_counted(said) == 1, said
    refused = echo.post("/ops/v1/experiments/named/rollback", {"reason": " "})
    assert refused.status == 400 and "reason" in refused.body, refused.body
    verb(home, "exp", "stop", "named", "--reason", "seen")


def test_units_count_once_and_a_restart_in_the_middle_changes_nothing(tmp_path_factory, tmp_path):
    home = tmp_path_factory.mktemp("restart")
    server = Server(home, "--model", "placeholder:mode=echo")
    weighed = ("units", "primary", "candidate", "gain_low", "gain_high", "units_expected")
    try:
        begun = spec("again", "placeholder", {"params": {"max_tokens": 3}}) | {
            "from": "50",
            "goal": {"metric": "not_failure", "min_gain": 0.9},
            "guardrails": [{"metric": "e2e_ms", "quantile": 0.5, "max": 60000}],
        }
        start(home, tmp_path, begun)
        users = Users(server)
        until(users.arm, lambda arm: arm is not None)
        names = [f"reader {i}" for i in range(40)]
        before = {name: users.arm(name) for name in names}
        # Who looked for an arm above is a unit, too.
        n = len(names) + 1
        first = until(lambda: report(home, "again"), lambda seen: sum(seen["units"]) >= n)
        assert first["gain_high"] < 0, first
        server.stop(signal.SIGKILL)
        server = Server(home, "--model", "placeholder:mode=echo")
        users.server = server
        assert {name: users.arm(name) for name in names} == before
        n_answers = first["n_primary"] + first["n_candidate"] + len(names)
        until(
            lambda: report(home, "again"),
            lambda seen: seen["n_primary"] + seen["n_candidate"] >= n_answers,
        )
        again = report(home, "again")
        assert [again[field] for field in weighed] == [first[field] for field in weighed]
    finally:
        server.stop()


def test_who_leaves_waited_and_a_slow_candidate_is_rolled_back(tmp_path_factory, tmp_path):
    home = tmp_path_factory.mktemp("leave")
    server = Server(home, "--model", "placeholder:mode=echo,delay_us=30000", "--speculate", "off")
    try:
        limit = {"metric": "e2e_ms", "quantile": 0.5, "max": 100}
        begun = spec("hangs", "placeholder", {"params": {"top_k": 5}})
        start(home, tmp_path, begun | {"from": "50", "guardrails": [limit]})
        users = Users(server)
        until(users.arm, lambda arm: arm is not None)

        def leave(i):
            body = {
                "messages": [{"role": "user", "content": "one two three four five six " * 40}],
                "user": f"leaver {i}",
                "stream": True,
            }
            request = urllib.request.Request(
                server.url + "/v1/chat/completions",
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.readline()
                time.sleep(0.3)

        for first in range(0, 200, 20):
            readers = [threading.Thread(target=leave, args=(first + i,)) for i in range(20)]
            [reader.start() for reader in readers]
            [reader.join() for reader in readers]
            if report(home, "hangs")["status"] == "rolled_back":
                break
        said = until(lambda: report(home, "hangs"), lambda seen: seen["status"] == "rolled_back", 10)
        assert "e2e_ms" in said["why"], said
    finally:
        server.stop()


def test_a_copy_is_nobodys(tmp_path_factory, tmp_path):
    home = tmp_path_factory.mktemp("keys")
    key = make_key(home, "reader")
    server = Server(home, "--model", "placeholder:mode=echo")
    try:
        start(home, tmp_path, spec("copied", "placeholder", {"params": {"top_k": 5}}))
        bearer = {"authorization": f"Bearer {key}"}

        asked = [0]

        def ask():
            asked[0] += 1
            text = f"Number {asked[0]}."
            body = {"messages": [{"role": "user", "content": text}], "user": "ana"}
            answer = server.post("/v1/chat/completions", body, headers=bearer)
            assert answer.status == 200, answer.body
            return answer.headers.get("x-lastmile-arm")

        until(ask, lambda arm: arm == "copied/primary")
        [ask() for _ in range(5)]
        until(lambda: report(home, "copied"), lambda seen: seen["shadow"]["n"] >= 5)
        listed = server.get("/v1/requests", headers=bearer)
        assert listed.status == 200, listed.body
        n_own = len(listed.json["data"])
        assert n_own == asked[0], listed.body
        assert verb(home, "failures", "top") == []
        # What was asked on somebody's behalf is gone with its copies.
        gone = verb(home, "store", "erase", "--subject", "ana")
        assert gone["requests"] > n_own, gone
    finally:
        server.stop()
