"""What is usual is learned from traffic, and what is not is said."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Server, run
from test_experiments import until

N_LEARNED = 500
# The placeholder's latencies are this machine's: whether they stay the same is not asked here.
NOT_TIMES = {"output_tokens", "refusal", "schema_invalid", "abort", "error", "prompt_tokens"}


def begin_within_an_hour(seconds):
    """What is usual is known of hours that were seen: what learns, and what drifts then, must be in one."""
    left = 3600 - time.time() % 3600
    if left < seconds:
        time.sleep(left + 1)


class Traffic:
    """Answers of mixed lengths, which are the words that were asked, said again."""

    def __init__(self, server):
        self.server, self.n = server, 0

    def send(self, n, words=lambda i: 3 + i * 7 % 11, text="word "):
        """So many answers, eight at a time."""

        def ask(i):
            content = f"{i} " + text * words(i)
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 400}
            answer = self.server.post("/v1/chat/completions", body)
            assert answer.status == 200, answer.body

        known = self.standing()
        seen = known["seen"] if known else 0
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(self.n, self.n + n)))
        self.n += n
        until(self.standing, lambda one: one and one["seen"] >= seen + n, 20)

    def standing(self):
        data = self.server.get("/ops/v1/monitors").json["data"]
        return data[0] if data else None

    def alarms(self):
        return [one for one in self.standing()["alarms"] if one["signal"] in NOT_TIMES]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    home = tmp_path_factory.mktemp("monitors")
    begin_within_an_hour(180)
    server = Server(home, "--model", "placeholder:mode=echo", "--monitor-baseline", str(N_LEARNED))
    traffic = Traffic(server)
    yield home, server, traffic
    traffic.server.stop()


def test_what_is_usual_is_learned_and_nothing_is_said_of_it(learned):
    _, _, traffic = learned
    traffic.send(N_LEARNED - 100)
    assert traffic.standing()["state"] == "learning"
    traffic.send(600)
    standing = until(traffic.standing, lambda one: one["seen"] >= 1000, 10)
    assert standing["state"] == "watching" and standing["is_provisional"]
    assert standing["signals"]["output_tokens"] in ("ok", "warning")
    assert standing["signals"]["mean_logprob"] == "unknown"
    assert traffic.alarms() == []


def test_what_was_learned_so_far_survives_a_restart_and_a_file_that_somebody_touched_is_learned_anew(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:mode=echo", "--monitor-baseline", "500")
    Traffic(server).send(220)
    server.stop()
    server = Server(tmp_path, "--model", "placeholder:mode=echo", "--monitor-baseline", "500")
    traffic = Traffic(server)
    traffic.send(1)
    assert traffic.standing()["baseline_answers"] == 201
    server.stop()
    (file,) = (tmp_path / "monitors").iterdir()
    file.write_text(file.read_text().replace('"hours":[[', '"hours":[[1,1.0],[', 1))
    server = Server(tmp_path, "--model", "placeholder:mode=echo", "--monitor-baseline", "500")
    traffic = Traffic(server)
    traffic.send(3)
    assert traffic.standing()["baseline_answers"] == 3
    assert server.stop() == 0


def test_longer_answers_are_noticed_within_500_also_after_a_restart(learned):
    home, server, traffic = learned
    usual_of = traffic.standing()["usual_of"]
    server.stop()
    traffic.server = Server(home, "--model", "placeholder:mode=echo", "--monitor-baseline", str(N_LEARNED))
    traffic.send(1)
    assert traffic.standing()["state"] == "watching", "it was kept"
    assert traffic.standing()["usual_of"] == usual_of
    traffic.send(499, words=lambda i: 6 + i * 7 % 11)
    found = [one for one in traffic.alarms() if one["signal"] == "output_tokens"]
    assert found and found[-1]["how"] == "higher" and found[-1]["began_ago"] <= 500, traffic.alarms()
    request = found[0]["examples"][0]
    page = f"/v1/requests/{request}/page"
    until(lambda: traffic.server.get(page).status, lambda status: status == 200, 10)
    wanted = "placeholder: output_tokens is higher than usual"

    def said():
        return [one["what"] for one in traffic.server.get("/ops/v1/now").json["alerts"]]

    until(said, lambda all: any(wanted in what for what in all), 10)
    until(lambda: run(home, "doctor").stdout, lambda page: wanted in page, 10)
    counts = {one["signal"]: n for one, n in traffic.server.metrics()["lastmile_monitor_alarms_total"]}
    assert counts["output_tokens"] >= 1 and counts["error"] == 0


def test_refusals_are_noticed_and_what_is_forgotten_is_learned_anew(learned):
    _, _, traffic = learned
    assert traffic.server.post("/ops/v1/monitors/moon/forget", {}).status == 404
    assert traffic.server.post("/ops/v1/monitors/placeholder/forget", {}).status == 200
    assert traffic.standing() is None
    traffic.send(N_LEARNED + 20)
    assert traffic.standing()["state"] == "watching"
    # One of five refuses: as many words as before.
    for _ in range(10):
        traffic.send(40)
        refusals = {"messages": [{"role": "user", "content": "I cannot help with that, sorry about it."}], "max_tokens": 400}
        for _ in range(10):
            assert traffic.server.post("/v1/chat/completions", refusals).status == 200
    until(traffic.standing, lambda one: one["seen"] >= N_LEARNED + 20 + 500, 20)
    found = until(traffic.alarms, lambda all: any(one["signal"] == "refusal" for one in all), 10)
    assert {one["how"] for one in found if one["signal"] == "refusal"} == {"higher"}


def test_a_model_that_is_paused_is_not_watched(learned):
    _, _, traffic = learned
    server, known = traffic.server, traffic.standing()
    assert server.post("/ops/v1/monitors/moon/pause", {}).status == 404
    assert server.post("/ops/v1/monitors/placeholder/pause", {}).json["state"] == "paused"
    traffic.send(60, words=lambda i: 60)
    paused = traffic.standing()
    assert paused["state"] == "paused" and set(paused["signals"].values()) == {"paused"}
    assert paused["seen"] >= known["seen"] + 60 and paused["baseline_answers"] == known["baseline_answers"]
    assert paused["alarm_counts"] == known["alarm_counts"]
    assert server.post("/ops/v1/monitors/placeholder/resume", {}).json["state"] == "watching"


def test_a_pause_outlives_a_restart_and_the_audit_log_says_whose_it_is(tmp_path):
    serve = lambda: Server(tmp_path, "--model", "placeholder:mode=echo", "--monitor-baseline", "500")
    server = serve()
    traffic = Traffic(server)
    traffic.send(3)
    refused = server.post("/ops/v1/monitors/placeholder/pause", {"reasons": "a new prompt"})
    assert refused.status == 400 and refused.json["error"]["param"] == "reasons"
    assert "reasons is given, but must be left out" in refused.json["error"]["message"]
    assert traffic.standing()["state"] == "learning" and traffic.standing()["paused"] is None
    assert server.post("/ops/v1/monitors/placeholder/pause", {"reason": "a new prompt"}).json["state"] == "paused"
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    # Half an entry, as a server leaves it that dies while it writes.
    audit = tmp_path / "monitors" / "audit.jsonl"
    audit.write_text(audit.read_text() + '{"at_ms":1,"who"')
    server = serve()
    traffic = Traffic(server)
    paused = traffic.standing()
    assert paused["state"] == "paused" and set(paused["signals"].values()) == {"paused"}
    assert paused["paused"]["reason"] == "a new prompt" and paused["paused"]["who"] == "somebody on this machine"
    traffic.send(4)
    assert traffic.standing()["seen"] == 4 and traffic.standing()["baseline_answers"] == 0
    assert server.post("/ops/v1/monitors/placeholder/resume", b"").json["state"] == "learning"
    done = server.get("/ops/v1/monitors/audit").json["data"]
    assert [(one["action"], one["model"]) for one in done] == [("resume", "placeholder"), ("pause", "placeholder")]
    assert server.stop() == 0
    server = serve()
    assert server.get("/ops/v1/monitors").json["data"] == []
    assert server.stop() == 0
