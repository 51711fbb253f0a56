"""A candidate beside a primary: shadow, canary, a planted regression, rollback, a fix that is proved, and all."""

import json
import threading
import time
import urllib.request

import pytest
from conftest import TEST_HOME, Server, run

PATIENCE_S = 60


def verb(home, *args, status=0):
    """What a verb says as JSON."""
    ran = run(home, *args, "--json")
    assert ran.returncode == status, ran
    return json.loads(ran.stdout)


def spec(name, model, candidate, **fields):
    """An experiment as JSON."""
    return {
        "name": name,
        "owner": "ana@example.com",
        "reason": "a drill",
        "model": model,
        "unit": "user",
        "candidate": candidate,
        "goal": {"metric": "not_failure"},
        "guardrails": [{"metric": "not_failure", "max_loss": 0.05}],
        "min_answers": 20,
    } | fields


def start(home, tmp_path, body, status=0):
    file = tmp_path / f"{body['name']}.json"
    file.write_text(json.dumps(body))
    return verb(home, "exp", "start", str(file), status=status)


class Users:
    """Each asks once, and never the same."""

    def __init__(self, server, text="Greetings, number {i}.", **options):
        self.server, self.text, self.options, self.n = server, text, options, 0

    def ask(self, user=None, **options):
        self.n += 1
        text = self.text.replace("{i}", str(self.n * 7919))
        messages = [{"role": "user", "content": text}]
        body = {"messages": messages, "user": user or f"user {self.n}"} | self.options | options
        answer = self.server.post("/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        return answer

    def arm(self, user=None, **options):
        return self.ask(user, **options).headers.get("x-lastmile-arm")


def until(look, is_so, patience_s=PATIENCE_S):
    """Looks again and again, until it is so."""
    end = time.monotonic() + patience_s
    while True:
        seen = look()
        if is_so(seen):
            return seen
        assert time.monotonic() < end, seen
        time.sleep(0.05)


def report(home, name):
    return json.loads(run(home, "exp", "status", name, "--json").stdout)


@pytest.fixture(scope="module")
def echo(home):
    server = Server(home, "--model", "placeholder:mode=echo")
    yield server
    server.stop()


def test_a_bad_experiment_is_refused_by_name(home, echo, tmp_path):
    def refused(names, **fields):
        body = spec("bad", "placeholder", {"params": {"top_k": 1}}) | fields
        file = tmp_path / "bad.json"
        file.write_text(json.dumps(body))
        ran = run(home, "exp", "start", str(file))
        assert ran.returncode == 2 and names in ran.stderr, ran
        answer = echo.post("/ops/v1/experiments", body)
        assert answer.status in (400, 404) and names in answer.body, answer.body

    refused("candidate.adapter", candidate={"adapter": ""})
    refused("alpha", alpha=0.9)
    refused("system prompt", candidate={"system": "nobody"})
    refused("moon", moon=1)
    assert run(home, "exp", "status", "bad").returncode == 2


def test_a_shadow_answers_copies_that_nobody_sees(home, echo, tmp_path):
    (tmp_path / "kind.txt").write_text("Be kind. {system}")
    kept = verb(home, "exp", "prompt", "kind", str(tmp_path / "kind.txt"))
    assert kept["version"] == 1
    begun = start(home, tmp_path, spec("shadow", "placeholder", {"system": "kind"}))
    assert begun["stage"] == "shadow" and begun["spec"]["candidate"]["system"] == "kind@1"
    users = Users(echo)
    until(users.arm, lambda arm: arm == "shadow/primary")
    early = verb(home, "exp", "promote", "shadow", status=1)
    assert "of 20 answers of this stage" in early["refused"], early
    answers = [users.ask() for _ in range(30)]
    assert {answer.headers["x-lastmile-arm"] for answer in answers} == {"shadow/primary"}
    said = until(lambda: report(home, "shadow"), lambda seen: seen["shadow"]["n"] >= 30)
    # An echo says again what the user said, whatever the instructions are.
    assert said["shadow"]["same"] == said["shadow"]["n"]
    assert said["n_candidate"] == 0 and said["advice"]["action"] == "promote"
    moved = verb(home, "exp", "promote", "shadow")
    assert moved["stage"] == "1"
    verb(home, "exp", "stop", "shadow", "--reason", "seen")
    until(users.arm, lambda arm: arm is None)


def test_arms_are_sticky_shown_and_replayed(home, echo, tmp_path):
    begun = spec("half", "placeholder", {"system": "kind", "params": {"max_tokens": 99}})
    start(home, tmp_path, begun | {"from": "25"})
    users = Users(echo)
    names = [f"reader {i}" for i in range(60)]
    until(lambda: users.arm("reader 0"), lambda arm: arm is not None)
    before = {name: users.arm(name) for name in names}
    assert {users.arm(name) == before[name] for name in names} == {True}
    assert 3 <= list(before.values()).count("half/candidate") <= 30
    forced = verb(home, "exp", "promote", "half", "--force", "--reason", "a drill")
    assert forced["stage"] == "50" and "a drill" in forced["why"]
    until(lambda: report(home, "half"), lambda seen: seen["stage"] == "50")
    kept = [name for name in names if before[name] == "half/candidate"]

    def arms():
        return [users.arm(name) for name in names]

    # The server looks now and then: it has seen the stage once somebody has the arm who had it not before.
    until(arms, lambda all: all.count("half/candidate") > len(kept))
    after = {name: users.arm(name) for name in names}
    assert all(after[name] == "half/candidate" for name in kept)
    assert list(after.values()).count("half/candidate") > len(kept)

    asked = users.ask(kept[0])
    request = asked.json["id"].removeprefix("chatcmpl-")
    why = until(lambda: run(home, "why", request), lambda ran: ran.returncode == 0)
    assert "experiment half: candidate at 50 %" in why.stdout, why
    shown = until(
        lambda: echo.get(f"/v1/requests/{request}/timeline"), lambda answer: answer.status == 200
    )
    assert shown.json["arm"]["arm"] == "candidate" and shown.json["arm"]["experiment"] == "half"
    replayed = run(home, "replay", request)
    assert replayed.returncode == 0 and "identical" in replayed.stdout, replayed
    verb(home, "exp", "stop", "half", "--reason", "seen")


def stream(server, user, texts, **options):
    """Reads a streamed answer to its end; returns its arm and why it ended."""
    messages = [{"role": "user", "content": "one two three four five six " * 40}]
    body = {"messages": messages, "user": user, "stream": True} | options
    request = urllib.request.Request(
        server.url + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        arm = answer.headers.get("x-lastmile-arm")
        texts.append(arm)
        for line in answer:
            texts.append(line.decode())


def test_a_rollback_holds_for_the_next_request_and_ends_no_stream(tmp_path_factory, tmp_path):
    home = tmp_path_factory.mktemp("slow")
    # Guesses would be right all the time, and an answer of many seconds soon over.
    slow = Server(home, "--model", "placeholder:mode=echo,delay_us=20000", "--speculate", "off")
    try:
        start(home, tmp_path, spec("slow", "placeholder", {"params": {"top_k": 5}}) | {"from": "50"})
        users = Users(slow)
        name = next(
            f"reader {i}" for i in range(100) if users.arm(f"reader {i}") == "slow/candidate"
        )
        lines = []
        reader = threading.Thread(target=stream, args=(slow, name, lines))
        reader.start()
        until(lambda: len(lines), lambda n: n > 5)
        taken = slow.post("/ops/v1/experiments/slow/rollback", {"reason": "a drill"})
        assert taken.status == 200 and taken.json["status"] == "rolled_back", taken.body
        # The very next request, while the stream goes on.
        assert users.arm(name) is None
        assert reader.is_alive()
        reader.join(120)
        assert lines[0] == "slow/candidate" and "data: [DONE]\n" in lines
        assert any('"finish_reason":"stop"' in line for line in lines), lines[-5:]
        log = verb(home, "exp", "explain", "slow")["audit"]
        assert [entry["action"] for entry in log] == ["rollback", "start"]
    finally:
        slow.stop()


def drill(home, server, model, tmp_path, users, bad, good):
    """Canary, planted regression, rollback by the evidence, cluster, fix, proof, and all. Returns what took how long."""
    began = time.monotonic()
    start(home, tmp_path, spec("regression", model, bad) | {"from": "50"})
    until(users.arm, lambda arm: arm is not None)

    def one():
        users.ask()
        return report(home, "regression") if users.n % 5 == 0 else {"status": "running"}

    fallen = until(one, lambda seen: seen["status"] == "rolled_back", 300)
    rolled_back_s = time.monotonic() - began
    assert "not_failure" in fallen["why"], fallen
    assert until(users.arm, lambda arm: arm is None) is None
    until(lambda: any("ALERT" in line and "regression" in line for line in server.lines), bool, 20)
    log = verb(home, "exp", "explain", "regression")["audit"]
    assert log[0]["action"] == "rollback" and log[0]["who"] == "the evidence"

    top = until(lambda: verb(home, "failures", "top"), lambda seen: len(seen) > 0)
    cluster = next(problem for problem in top if problem["fingerprint"] == "truncated")
    added = verb(home, "fix", "add", cluster["cluster"], "--note", "room for whole answers")
    # A wider margin, so that it is known sooner that the fix is as good.
    margin = {"metric": "not_failure", "min_gain": 0.1}
    start(home, tmp_path, spec("mended", model, good) | {"from": "50", "goal": margin})
    proved = {}

    def prove():
        users.ask()
        if users.n % 10:
            return {}
        proved.update(json.loads(run(home, "fix", "verify", added["id"], "--json").stdout))
        return proved

    until(prove, lambda seen: seen.get("verdict") == "improved", 300)

    def promotable():
        users.ask()
        if users.n % 10:
            return {"advice": {"action": "hold"}}
        return report(home, "mended")

    ready = until(promotable, lambda seen: seen["advice"]["action"] != "hold", 300)
    assert ready["advice"]["action"] == "promote", ready
    return {"rolled_back_s": rolled_back_s, "n_asked": users.n, "fix": proved, "ready": ready}


def test_the_drill_on_the_placeholder(tmp_path_factory, tmp_path):
    home = tmp_path_factory.mktemp("drill")
    server = Server(home, "--model", "placeholder:mode=echo")
    try:
        users = Users(server, "Tell me all {i} names of the grey harbour, please.")
        bad, good = {"params": {"max_tokens": 4}}, {"params": {"max_tokens": 400}}
        print(drill(home, server, "placeholder", tmp_path, users, bad, good))
        gate = ["--base-url", server.url]
        moved = verb(home, "exp", "promote", "mended", *gate)
        assert moved["stage"] == "100", moved
        assert until(users.arm, lambda arm: arm == "mended/candidate")
    finally:
        server.stop()


def arrive(home, server, model, tmp_path):
    """A placeholder answers first; the model comes as its shadow, then as a canary, and then for all."""
    users = Users(server, "Is {i} a large number?", model="placeholder", max_tokens=12, temperature=0)
    before = users.ask().json
    assert before["choices"][0]["message"]["content"].startswith("Is "), "a placeholder repeats what it is told"
    start(home, tmp_path, spec("arrival", "placeholder", {"model": model}, min_answers=3))
    until(users.arm, lambda arm: arm == "arrival/primary")
    for _ in range(3):
        assert users.ask().json["system_fingerprint"] == before["system_fingerprint"]
    said = until(lambda: report(home, "arrival"), lambda seen: seen["shadow"]["n"] >= 3, 120)
    assert said["n_candidate"] == 0 and said["shadow"]["tokens"][1] > 0
    moved = verb(home, "exp", "promote", "arrival")
    assert moved["stage"] == "1"
    # The evidence would take hundreds of answers; who knows better says why.
    forced = ["--base-url", server.url, "--force", "--reason", "a placeholder is no answer"]
    while moved["stage"] != "100":
        moved = verb(home, "exp", "promote", "arrival", *forced)
    after = until(users.ask, lambda answer: answer.headers.get("x-lastmile-arm") == "arrival/candidate").json
    assert after["system_fingerprint"] != before["system_fingerprint"]
    audit = verb(home, "exp", "explain", "arrival")["audit"]
    assert audit[0]["action"] == "promote" and "a placeholder is no answer" in json.dumps(audit[0]), audit
    verb(home, "exp", "stop", "arrival", "--reason", "the model is asked by its own name now")
    until(users.arm, lambda arm: arm is None)


def test_the_drill_on_a_real_model(tmp_path_factory, tmp_path):
    home = tmp_path_factory.mktemp("real")
    (home / "models").symlink_to(TEST_HOME / "models", target_is_directory=True)
    model = "smollm2-135m-instruct"
    server = Server(home, "--model", model, "--model", "placeholder:mode=echo", "--offline")
    try:
        arrive(home, server, model, tmp_path)
        users = Users(server, "Is {i} a large number? Answer yes or no.", temperature=0)
        (tmp_path / "brief.txt").write_text("Answer with one word. {system}")
        verb(home, "exp", "prompt", "brief", str(tmp_path / "brief.txt"))
        candidate = {"system": "brief", "params": {"max_tokens": 48}}
        start(home, tmp_path, spec("brief", model, candidate, min_answers=3))
        until(users.arm, lambda arm: arm == "brief/primary")
        for _ in range(3):
            users.ask(max_tokens=16)
        said = until(lambda: report(home, "brief"), lambda seen: seen["shadow"]["n"] >= 3)
        assert said["n_candidate"] == 0 and said["shadow"]["tokens"][1] > 0
        assert verb(home, "exp", "promote", "brief")["stage"] == "1"
        verb(home, "exp", "stop", "brief", "--reason", "the canary is another drill's")
        until(users.arm, lambda arm: arm is None)
        # What the answer says does not matter; that it is cut does.
        users = Users(server, "What is the capital of France? (Question {i}.)", temperature=0)
        users.options["stop"] = ["\n"]
        bad, good = {"params": {"max_tokens": 2}}, {"params": {"max_tokens": 64}}
        print(drill(home, server, model, tmp_path, users, bad, good))
        # The gate of the fix asks the model itself; its verdict is the model's, and is said.
        ran = run(home, "exp", "promote", "mended", "--base-url", server.url, "--json")
        if ran.returncode == 1:
            assert "a verified fix is broken again" in json.loads(ran.stdout)["refused"], ran
            forced = ["--force", "--reason", "the gate's prompts have no room"]
            verb(home, "exp", "promote", "mended", "--base-url", server.url, *forced)
        assert until(users.arm, lambda arm: arm == "mended/candidate")
    finally:
        server.stop()
