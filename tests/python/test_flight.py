"""Timelines, `why`, exact replay and bundles, on the placeholder under load."""

import http.client
import json
from urllib.parse import urlsplit

import pytest
from conftest import Server, run
from flight import ask_all, corrupt, generated, replay
from test_experiments import until

# 60 answers of 16 streams want more blocks than there are.
TIGHT = "placeholder:seed=5,block_size=16,n_blocks=64,max_model_len=900,delay_us=1000"
N = 96


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """A home whose server answered under load and stopped; the ids, and what it counted."""
    home = tmp_path_factory.mktemp("flight")
    server = Server(home, "--model", TIGHT)
    ids = ask_all(server, N, 24)
    # The recorder writes it a moment after the answer.
    timeline = until(
        lambda: server.get(f"/v1/requests/{ids[40]}/timeline"),
        lambda answer: answer.status == 200 and answer.json["answers"][0].get("is_recorded"),
        20,
    )
    metrics = server.metrics()
    assert server.stop() == 0
    return home, ids, metrics, timeline


class Stream:
    """An answer as it comes, by a client that reads no further than it is told to."""

    def __init__(self, server, body):
        self.connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        headers = {"content-type": "application/json"}
        self.connection.request("POST", "/v1/completions", json.dumps(body), headers)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200

    def read_until(self, n_events):
        """The answer's id, after so many events."""
        identity = None
        for _ in range(n_events):
            line = self.answer.readline()
            while not line.startswith(b"data: "):
                line = self.answer.readline()
            identity = json.loads(line[6:])["id"]
        return identity

    def close(self):
        self.connection.close()


def only(metrics, name):
    return sum(value for _, value in metrics[name])


def test_all_are_identical_though_preempted_and_cached(flown):
    home, _, metrics, _ = flown
    assert only(metrics, "vllm:num_preemptions_total") > 0
    assert only(metrics, "vllm:prefix_cache_hits_total") > 0
    status, document, said = replay(home, "--last", str(N))
    bad = [one for one in document["answers"] if one["verdict"] != "identical"]
    assert (status, bad) == (0, []), said
    # Every eighth has two answers.
    assert document["n_identical"] == N + N // 8
    assert all(one["differs"] == [] for one in document["answers"])


def longest(flown, kind):
    home, ids, _, _ = flown
    return max(ids[kind::8], key=lambda one: generated(home, one))


def test_what_was_changed_is_named(flown):
    home, _, _, _ = flown
    some = longest(flown, 1)
    for flags, name in [
        (["--seed", "1"], "seed"),
        (["--system", "Answer as a pirate, in verse."], "system_prompt"),
        (["--model", TIGHT.replace("seed=5", "seed=6")], "weights_digest"),
    ]:
        status, document, said = replay(home, some, *flags)
        assert status == 1, said
        answer = document["answers"][0]
        assert answer["verdict"] == "diverged"
        assert [factor["name"] for factor in answer["differs"]] == [name]
        assert answer["because"]["causes"] == [name], answer
    # Two at once: neither alone makes it as it was.
    status, document, _ = replay(home, some, "--seed", "1", "--system", "In verse.")
    because = document["answers"][0]["because"]
    assert (status, because["together"]) == (1, True)
    assert because["causes"] == ["seed", "system_prompt"]


def test_another_template_is_named(flown, tmp_path):
    home, _, _, _ = flown
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")
    status, document, said = replay(home, longest(flown, 1), "--chat-template", str(template))
    assert status == 1, said
    assert document["answers"][0]["because"]["causes"] == ["chat_template"]


def test_a_bundle_is_computed_elsewhere_and_a_redacted_one_holds_no_text(flown, tmp_path):
    home, _, _, _ = flown
    some = longest(flown, 2)
    bundle = tmp_path / "answer.json"
    assert run(home, "bundle", some, "-o", str(bundle)).returncode == 0
    assert run(home, "bundle", some, "-o", str(bundle)).returncode == 3, "it is there already"
    elsewhere = tmp_path / "elsewhere"
    status, document, said = replay(elsewhere, str(bundle))
    assert (status, document["n_identical"]) == (0, 1), said
    assert run(home, "bundle", some, "-o", str(bundle), "--redact", "--force").returncode == 0
    kept = json.loads(bundle.read_text())["answers"][0]
    assert (kept["prompt"], kept["output_tokens"]) == (None, None) and kept["timeline"]
    status, document, said = replay(elsewhere, str(bundle))
    assert (status, document["n_failed"]) == (3, 1), said


def test_what_is_not_there_or_wrong_says_so(flown):
    home, _, _, _ = flown
    nobody = "chatcmpl-00000000-0000-4000-8000-000000000000"
    for verb in ("why", "replay"):
        assert run(home, verb, nobody).returncode == 3
        wrong = run(home, verb, "nonsense")
        assert wrong.returncode == 2 and "nonsense" in wrong.stderr
    assert run(home, "replay", "--seed", "1").returncode == 2


def test_why_tells_what_was_waited_for(flown):
    home, ids, _, timeline = flown
    told = [json.loads(run(home, "why", one, "--json").stdout) for one in ids[:48]]
    answers = [answer for one in told for answer in one["answers"]]
    assert timeline.status == 200 and timeline.json["answers"][0]["is_recorded"]
    assert all(answer["is_recorded"] and answer["n_steps"] > 0 for answer in answers)
    assert {answer["first_miss"]["reason"] for answer in answers} >= {"never_seen"}
    assert any(answer["cached_tokens"] > 0 for answer in answers)
    lost = [answer for answer in answers if answer["displaced"]]
    assert lost, "24 streams in 120 blocks make room for each other"
    words = run(home, "why", told[0]["id"]).stdout
    for word in ("queue", "cache", "prompt", "batch", "gaps"):
        assert f"\n  {word}" in words, words


def test_after_a_kill_who_was_in_flight_is_named_and_computed_again(tmp_path):
    # A step takes 3 ms, so nobody is done when the process dies.
    server = Server(tmp_path, "--model", "placeholder:seed=5,delay_us=3000,max_model_len=2000")
    bodies = [
        {"prompt": f"say {i} things", "max_tokens": 1500, "ignore_eos": True, "stream": True, "temperature": 0.9}
        for i in range(4)
    ]
    streams = [Stream(server, body) for body in bodies]
    # More than is asserted: the recorder has not written the last ones when the process dies.
    ids = [stream.read_until(100 + 5 * i) for i, stream in enumerate(streams)]
    server.process.kill()
    server.process.wait()
    for stream in streams:
        stream.close()
    doctor = json.loads(run(tmp_path, "doctor", "--json").stdout)
    left = {one["id"]: one for one in doctor["crash"]["in_flight"]}
    assert {one.split("-", 1)[1] for one in ids} == set(left)
    assert all(one["n_tokens"] >= 20 and one["tenant"] is None for one in left.values())
    assert "lastmile replay --crash last" in run(tmp_path, "doctor").stdout
    # The next server names them, and keeps them for whoever asks later.
    server = Server(tmp_path, "--model", "placeholder")
    said = "".join(server.lines)
    assert "died with 4 answers in flight" in said and all(one in said for one in left), said
    dump = json.loads(run(tmp_path, "recorder", "dump", "--crash", "--json").stdout)
    assert len(dump["steps"]) > 10 and all(step["rows"] for step in dump["steps"])
    assert server.stop() == 0
    status, document, said = replay(tmp_path, "--crash", "last")
    assert (status, document["n_identical"]) == (0, 4), (document, said)
    for answer in document["answers"]:
        assert answer["n_tokens"] == left[answer["id"]]["n_tokens"]
    # One that stopped in order left nobody in flight.
    assert json.loads(run(tmp_path, "recorder", "dump", "--json").stdout)["in_flight"] == []


# The last one: it changes the record.
def test_a_corrupted_token_diverges_where_it_is(flown):
    home, _, _, _ = flown
    some = longest(flown, 3)
    at = generated(home, some) // 2
    corrupt(home, some, at)
    status, document, said = replay(home, some)
    answer = document["answers"][0]
    assert (status, answer["verdict"], answer["at"]) == (1, "diverged", at), said
    assert answer["because"]["causes"] == [] and answer["because"]["repeatable"]
    page = run(home, "replay", some)
    assert page.returncode == 1 and f"diverged at token {at}: expected" in page.stdout
    assert "the record is wrong" in page.stdout
