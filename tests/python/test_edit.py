"""An answer that its user changes, and that goes on from there."""

import json
import urllib.request

import pytest
from conftest import TEST_HOME, Server
from test_experiments import until
from test_keys import make_key


def ask(server, text, headers=None, **fields):
    body = {"messages": [{"role": "user", "content": text}], "ignore_eos": True} | fields
    answer = server.post("/v1/chat/completions", body, headers)
    assert answer.status == 200, answer.body
    return answer.json


def edit(server, answer, status=200, headers=None, **fields):
    done = server.post(f"/v1/responses/{answer['id']}/edit", fields, headers)
    assert done.status == status, done.body
    return done


def text_of(answer):
    return answer["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def echo(home):
    server = Server(home, "--model", "placeholder:mode=echo")
    yield server
    server.stop()


def test_what_is_wrong_with_an_edit_is_named(echo):
    answer = ask(echo, "one two three", max_tokens=8)
    for field, body in [
        ("at", {}),
        ("at", {"at": 99}),
        ("at", {"at": -1}),
        ("at", {"at": 1, "at_char": 1}),
        ("at_char", {"at_char": 9999}),
        ("text", {"at": 1, "text": 5}),
        ("continue", {"at": 1, "continue": "yes"}),
        ("choice", {"at": 1, "choice": 7}),
        ("prompt", {"at": 1, "prompt": "x"}),
        ("temperature", {"at": 1, "temperature": 9}),
    ]:
        refused = edit(echo, answer, 400, **body).json["error"]
        assert refused["param"] == field, (body, refused)
    unknown = {"id": "chatcmpl-0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"}
    edit(echo, unknown, 404, at=1)
    edit(echo, {"id": "moon"}, 400, at=1)
    formed = ask(echo, "{}", max_tokens=8, response_format={"type": "json_object"})
    assert "response_format" in edit(echo, formed, 400, at=0, text="x").body


def test_an_edit_that_does_not_go_on_is_a_correction(echo):
    answer = ask(echo, "one two three", max_tokens=11)
    kept = edit(echo, answer, at_char=4, text="zwei", **{"continue": False}).json
    assert kept["text"] == text_of(answer)[:4] + "zwei"
    page = echo.get(f"/v1/requests/{answer['id']}/page").json
    assert [one["correction"] for one in page["feedback"]] == [kept["text"]]


def test_another_tenant_cannot_edit(tmp_path):
    keys = [{"authorization": f"Bearer {make_key(tmp_path, name)}"} for name in ("ana", "bo")]
    server = Server(tmp_path, "--model", "placeholder:mode=echo")
    try:
        answer = ask(server, "one two three", keys[0], max_tokens=6)
        edit(server, answer, 404, keys[1], at=1)
        assert edit(server, answer, 200, keys[0], at=1, text="x", max_tokens=3).json["choices"][0]["text"]
    finally:
        server.stop()


def first_token_ms(server, path, body):
    """How long the first token of a stream took, by the server's own count."""
    request = urllib.request.Request(
        server.url + path,
        json.dumps(body | {"stream": True, "timings": True}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        lines = [json.loads(line[6:]) for line in answer if line.startswith(b"data: {")]
    return next(line["timings"]["ttft_ms"] for line in lines if line.get("timings"))


def test_an_edit_of_a_real_answer_is_what_a_fresh_request_gets_and_much_sooner(home):
    assert (TEST_HOME / "models" / "smollm2-135m-instruct").is_dir()
    server = Server(home, "--model", "smollm2-135m-instruct", "--offline")
    try:
        answer = ask(server, "Tell me a long story of the sea.", max_tokens=560, temperature=0.9)
        went_on = edit(server, answer, at=510, text=" But then", max_tokens=24).json
        cached = went_on["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached > 0.9 * went_on["usage"]["prompt_tokens"], went_on["usage"]
        new = went_on["id"].split("-", 1)[1]
        until(lambda: server.get(f"/v1/requests/{new}/page"), lambda answer: answer.status == 200, 10)
        page = server.get(f"/v1/requests/{new}/page").json
        tokens = page["request"]["prompt"]["tokens"] if "request" in page else page["prompt"]["tokens"]
        body = {"max_tokens": 24, "seed": page["params"]["seed"], "temperature": 0.9}
        edited_ms = first_token_ms(server, f"/v1/responses/{answer['id']}/edit", {"at": 512, "text": " And so", "max_tokens": 2})
    finally:
        server.stop()
    # Nothing of it is cached in another process.
    server = Server(home, "--model", "smollm2-135m-instruct", "--offline")
    try:
        sampling = {name: value for name, value in page["params"].items() if name in ("top_p", "top_k", "min_p", "repetition_penalty")}
        fresh = server.post("/v1/completions", body | sampling | {"prompt": tokens}).json
        assert fresh["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert fresh["choices"][0]["text"] == went_on["choices"][0]["text"]
        fresh_ms = first_token_ms(server, "/v1/completions", {"prompt": tokens[:-1] + [5], "max_tokens": 2, "seed": 9})
    finally:
        server.stop()
    server = Server(home, "--model", "smollm2-135m-instruct", "--offline")
    try:
        fresh_ms = first_token_ms(server, "/v1/completions", {"prompt": tokens, "max_tokens": 2})
    finally:
        server.stop()
    print(f"first token after an edit {edited_ms:.1f} ms, of a fresh request {fresh_ms:.1f} ms")
    assert edited_ms < 0.1 * fresh_ms, (edited_ms, fresh_ms)
