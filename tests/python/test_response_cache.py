"""Answers that are told again: to whom, until when, and what is said of it."""

import threading

import openai
import pytest
from conftest import Server, run
from test_experiments import until
from test_keys import make_key

CACHE = ("--response-cache", "4MiB")
CHAT = "/v1/chat/completions"


def body(text="Tell me of the sea.", **fields):
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0, "max_tokens": 12, "ignore_eos": True} | fields


def ask(server, expect=None, headers=None, path=CHAT, **fields):
    answer = server.post(path, body(**fields), headers)
    assert answer.status == 200, answer.body
    if expect:
        assert answer.headers["x-lastmile-cache"] == expect, answer.body
    return answer.json


def bare(answer):
    return answer["id"].removeprefix("chatcmpl-")


def text_of(answer):
    return answer["choices"][0]["message"]["content"]


def counted(server, name, **labels):
    samples = server.metrics().get(f"lastmile_response_cache_{name}", [])
    return sum(value for found, value in samples if labels.items() <= found.items())


def stored(home, request_id):
    return until(lambda: run(home, "why", request_id), lambda ran: ran.returncode == 0, 10).stdout


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path, "--model", "placeholder", *CACHE)
    yield server
    assert server.stop() == 0


def test_an_answer_is_told_again_and_why_says_whose_it_was(server):
    first, again = ask(server, "miss"), ask(server, "hit")
    assert first["id"] != again["id"]
    assert first["choices"] == again["choices"]
    assert first["usage"]["completion_tokens"] == again["usage"]["completion_tokens"] == 12
    told = stored(server.home, bare(again))
    assert f"from the response cache, computed by request {bare(first)}" in told
    assert "response cache" not in stored(server.home, bare(first))
    timeline = server.get(f"/v1/requests/{bare(again)}/timeline").json
    assert timeline["answers"][0]["computed_by"] == bare(first)
    assert (counted(server, "hits_total"), counted(server, "misses_total")) == (1, 1)
    assert 0 < counted(server, "bytes") <= counted(server, "bytes_limit") == 4 << 20


def test_a_recorded_hit_is_computed_again_as_any_answer(server):
    ask(server, "miss", temperature=1, seed=3)
    again = ask(server, "hit", temperature=1, seed=3)
    # One without a seed of its own has that of the answer that it was told.
    sampled = {"x-lastmile-cache": "sampled"}
    ask(server, "miss", sampled, temperature=1)
    drawn = ask(server, "hit", sampled, temperature=1)
    for answer in (again, drawn):
        stored(server.home, bare(answer))
        replayed = server.post(f"/ops/v1/requests/{bare(answer)}/replay", {})
        assert replayed.json["verdict"] == "identical", replayed.body


@pytest.mark.parametrize("stream", [False, True])
def test_clients_of_openai_notice_nothing(server, stream):
    client = server.client()

    def answer():
        asked = body(stream=stream) | {"model": "placeholder"}
        ignore_eos = {"ignore_eos": asked.pop("ignore_eos")}
        given = client.chat.completions.create(**asked, extra_body=ignore_eos)
        if not stream:
            return given.choices[0].message.content
        return "".join(c.choices[0].delta.content or "" for c in given if c.choices)

    assert answer() == answer() != ""
    assert counted(server, "hits_total") == 1


def test_every_api_shares_what_is_the_same_prompt(server):
    messages = [{"role": "user", "content": "one prompt for all"}]
    first = ask(server, "miss", text="one prompt for all", ignore_eos=False)
    for path, asked in {
        "/v1/messages": {"model": "placeholder", "messages": messages, "temperature": 0, "max_tokens": 12},
        "/api/chat": {"model": "placeholder", "messages": messages, "stream": False,
                      "options": {"temperature": 0, "num_predict": 12}},
    }.items():
        answer = server.post(path, asked)
        assert answer.status == 200, answer.body
        assert answer.headers["x-lastmile-cache"] == "hit", path
        assert text_of(first) in str(answer.json)


def test_equal_requests_wait_for_one_computation(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:delay_us=5000", *CACHE)
    try:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(server, max_tokens=60))) for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({text_of(answer) for answer in answers}) == 1
        assert sum(n for _, n in server.metrics()["lastmile_generation_tokens_total"]) == 60
        assert counted(server, "shared_total") + counted(server, "hits_total") == 11
    finally:
        assert server.stop() == 0


def test_a_client_that_leaves_takes_nothing_from_those_that_wait(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:delay_us=10000", *CACHE)
    try:
        asked = body(max_tokens=600) | {"model": "placeholder"}
        ignore_eos = {"ignore_eos": asked.pop("ignore_eos")}
        leaves = server.client().chat.completions.create(**asked, stream=True, extra_body=ignore_eos)
        next(iter(leaves))
        waits = []
        thread = threading.Thread(target=lambda: waits.append(ask(server, max_tokens=600)))
        thread.start()
        until(lambda: counted(server, "shared_total"), lambda n: n == 1)
        leaves.close()
        thread.join()
        assert waits[0]["usage"]["completion_tokens"] == 600
        assert counted(server, "handed_on_total") == 1
        alone = ask(server, "bypass", {"cache-control": "no-store"}, max_tokens=600)
        assert text_of(alone) == text_of(waits[0])
    finally:
        assert server.stop() == 0


def test_keys_do_not_share_and_a_request_can_refuse(tmp_path):
    one, two = make_key(tmp_path, "one"), make_key(tmp_path, "two")
    server = Server(tmp_path, "--model", "placeholder", *CACHE)
    try:
        for key in (one, two):
            mine = {"authorization": f"Bearer {key}"}
            ask(server, "miss", mine)
            ask(server, "hit", mine)
            ask(server, "bypass", mine | {"cache-control": "no-cache"})
            ask(server, "bypass", mine | {"x-lastmile-cache": "bypass"})
        refused = server.post(CHAT, body(), {"authorization": f"Bearer {one}", "x-lastmile-cache": "yes"})
        assert refused.status == 400 and refused.json["error"]["param"] == "x-lastmile-cache"
    finally:
        assert server.stop() == 0


def test_feedback_and_erasure_make_an_answer_go(server):
    ask(server, "miss")
    hit = ask(server, "hit")
    said = server.post("/v1/feedback", {"request_id": hit["id"], "rating": False})
    assert said.status == 201, said.body
    ask(server, "miss", user="ann")
    ask(server, "hit")
    assert counted(server, "evictions_total", reason="feedback") == 1
    erased = run(server.home, "store", "erase", "--subject", "ann", "--json")
    assert erased.returncode == 0, erased.stderr
    until(lambda: counted(server, "evictions_total", reason="erase"), lambda n: n == 1)
    ask(server, "miss")


def test_routes_may_share_what_was_drawn(tmp_path):
    server = Server(tmp_path, "--model", "placeholder", *CACHE, "--response-cache-sampled", CHAT)
    try:
        assert ask(server, "miss", temperature=1)["choices"] == ask(server, "hit", temperature=1)["choices"]
        drawn = {"prompt": "x", "temperature": 1, "max_tokens": 4}
        assert server.post("/v1/completions", drawn).headers["x-lastmile-cache"] == "bypass"
    finally:
        assert server.stop() == 0
    wrong = run(tmp_path, "serve", "--model", "placeholder", "--port", "0", *CACHE,
                "--response-cache-sampled", "/v1/chat")
    assert wrong.returncode == 2 and "--response-cache-sampled" in wrong.stderr, wrong


def test_hits_are_computed_again_in_idle_slots(tmp_path):
    server = Server(tmp_path, "--model", "placeholder", *CACHE, "--response-cache-recheck", "1")
    try:
        ask(server, "miss", logprobs=True)
        ask(server, "hit", logprobs=True)
        until(lambda: counted(server, "recomputed_total"), lambda n: n == 1)
        assert counted(server, "mismatches_total") == 0
        # It is nobody's request.
        until(lambda: len(server.get("/v1/requests").json["data"]), lambda n: n == 2)
    finally:
        assert server.stop() == 0


def test_a_restricted_key_is_refused_before_the_cache(tmp_path):
    key = make_key(tmp_path, "app", "--requests-per-minute", "2")
    server = Server(tmp_path, "--model", "placeholder", *CACHE)
    try:
        mine = {"authorization": f"Bearer {key}"}
        ask(server, "miss", mine)
        ask(server, "hit", mine)
        with pytest.raises(openai.RateLimitError):
            server.client(api_key=key).chat.completions.create(
                model="placeholder", messages=[{"role": "user", "content": "x"}]
            )
    finally:
        assert server.stop() == 0
