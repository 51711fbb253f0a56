"""Recorded answers that a server computes again: when it is asked to, and as probes in idle slots."""

import json

from conftest import TEST_HOME, Server, run
from test_experiments import until
from test_keys import make_key

TEXT = "Tell me of the sea, the sky and the stones."


def ask(server, headers=None, **fields):
    body = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 12} | fields
    answer = server.post("/v1/chat/completions", body, headers)
    assert answer.status == 200, answer.body
    return answer.json["id"].removeprefix("chatcmpl-")


def stored(home, request_id):
    until(lambda: run(home, "why", request_id), lambda ran: ran.returncode == 0, 10)


def add(home, request_id, *args):
    kept = run(home, "probe", "add", request_id, "--json", *args)
    assert kept.returncode == 0, kept
    return json.loads(kept.stdout)


def told(server, name):
    data = server.get("/ops/v1/probes").json["data"]
    return next((one for one in data if one["name"] == name), None)


def computed(server, name, n=1):
    """What came of a probe once it was computed so often."""

    def look():
        return told(server, name)

    return until(look, lambda one: one and one["identical"] + one["diverged"] + one["failed"] >= n, 60)


def alerts(server):
    return [alert["what"] for alert in server.get("/ops/v1/now").json["alerts"]]


def test_a_stored_request_is_computed_again_where_it_was_answered(tmp_path):
    server = Server(tmp_path, "--model", "placeholder")
    try:
        request = ask(server, n=2, temperature=1, ignore_eos=True)
        stored(tmp_path, request)
        again = server.post(f"/ops/v1/requests/chatcmpl-{request}/replay", {})
        assert again.status == 200, again.body
        assert again.json["verdict"] == "identical"
        assert [one["n_tokens"] for one in again.json["answers"]] == [12, 12]
        # It is nobody's request.
        assert len(server.get("/v1/requests").json["data"]) == 1
        assert server.post("/ops/v1/requests/moon/replay", {}).status == 400
        unknown = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
        assert server.post(f"/ops/v1/requests/{unknown}/replay", {}).status == 404
    finally:
        server.stop()
    # The same file of traffic under another seed of the model: another model in all but its name.
    server = Server(tmp_path, "--model", "placeholder:seed=7")
    try:
        again = server.post(f"/ops/v1/requests/{request}/replay", {}).json
        assert again["verdict"] == "diverged", again
        first = again["answers"][0]
        assert "weights_digest" in [factor["name"] for factor in first["differs"]]
        assert first["at"] < 12 and first["expected_text"] != first["got_text"]
    finally:
        server.stop()


def test_a_key_without_the_scope_computes_nothing(tmp_path):
    key, operator = make_key(tmp_path, "reader"), make_key(tmp_path, "ops", "--scopes", "infer,ops")
    server = Server(tmp_path, "--model", "placeholder")
    try:
        reader = {"authorization": f"Bearer {key}"}
        request = ask(server, reader)
        stored(tmp_path, request)
        path = f"/ops/v1/requests/{request}/replay"
        assert server.post(path, {}, reader).status == 403
        assert server.get("/ops/v1/probes", reader).status == 403
        answer = server.post(path, {}, {"authorization": f"Bearer {operator}"})
        assert answer.status == 200 and answer.json["verdict"] == "identical", answer.body
    finally:
        server.stop()


def test_a_probe_stays_what_it_is_until_something_changes(tmp_path):
    server = Server(tmp_path, "--model", "placeholder", "--probe-interval", "1")
    try:
        request = ask(server, temperature=1)
        stored(tmp_path, request)
        assert add(tmp_path, request, "--name", "sea")["answers"] == 1
        assert computed(server, "sea", 2)["diverged"] == 0
        assert not any("probe" in what for what in alerts(server))
        assert run(tmp_path, "probe", "add", request, "--name", "../sea").returncode == 2
        assert "sea  placeholder" in run(tmp_path, "probe", "list").stdout
        runs = {(one["probe"], one["verdict"]): n for one, n in server.metrics()["lastmile_probe_runs_total"]}
        assert runs["sea", "identical"] >= 2 and runs["sea", "diverged"] == 0
    finally:
        server.stop()
    server = Server(tmp_path, "--model", "placeholder:seed=7", "--probe-interval", "600")
    try:
        last = computed(server, "sea")
        assert last["diverged"] == 1 and last["last"]["answers"][0]["differs"], last
        wanted = "the probe sea differs from token"
        said = until(lambda: alerts(server), lambda all: any(wanted in what for what in all), 10)
        assert any("weights_digest" in what and "changed" in what for what in said), said
        until(lambda: run(tmp_path, "doctor").stdout, lambda page: wanted in page, 10)
        assert run(tmp_path, "probe", "remove", "sea").returncode == 0
        until(lambda: alerts(server), lambda all: not any("probe" in what for what in all), 10)
        assert run(tmp_path, "probe", "remove", "sea").returncode == 2
    finally:
        server.stop()


def test_a_swap_of_the_quantisation_is_noticed_within_one_round(tmp_path):
    (tmp_path / "models").symlink_to(TEST_HOME / "models", target_is_directory=True)
    model = "smollm2-135m-instruct"
    server = Server(tmp_path, "--model", model, "--offline")
    try:
        request = ask(server, temperature=0, max_tokens=24)
        stored(tmp_path, request)
        add(tmp_path, request, "--name", "sea")
        assert computed(server, "sea")["identical"] == 1
    finally:
        server.stop()
    other = tmp_path / "other.gguf"
    made = run(tmp_path, "quantize", model, "--type", "q4_0", "-o", str(other), "--offline")
    assert made.returncode == 0, made
    server = Server(tmp_path, "--model", str(other), "--served-model-name", model)
    try:
        last = computed(server, "sea")
        assert last["diverged"] == 1, last
        assert [one["name"] for one in last["last"]["answers"][0]["differs"]] == ["weights_digest"]
    finally:
        server.stop()


def test_probes_are_ended_for_whoever_comes(tmp_path):
    slow = "placeholder:delay_us=20000"
    server = Server(tmp_path, "--model", slow, "--probe-interval", "1", "--speculate", "off")
    try:
        request = ask(server, max_tokens=200, ignore_eos=True)
        stored(tmp_path, request)
        add(tmp_path, request, "--name", "long")
        until(lambda: server.metrics()["vllm:num_requests_running"][0][1], lambda n: n > 0, 10)
        answer = server.post("/v1/completions", {"model": "placeholder", "prompt": "hi", "max_tokens": 1})
        assert answer.status == 200
        assert told(server, "long")["identical"] == 0, "it was ended"
        assert computed(server, "long")["identical"] == 1, "and computed later"
    finally:
        server.stop()
