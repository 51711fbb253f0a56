"""Keys, signals and the end of a server, as an operator meets them."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing

import openai
import pytest
from conftest import PROGRAM, Server, environment, run
from test_placeholder import until

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


def make_key(home, name, *args):
    made = run(home, "keys", "create", name, "--json", *args)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)["key"]


@pytest.fixture
def own_home(tmp_path):
    # At midnight UTC a day's budget is whole again: who spends it and who looks must be in one day.
    left = 86_400 - time.time() % 86_400
    if left < 60:
        time.sleep(left + 1)
    return tmp_path


def ask(server, key):
    client = server.client(api_key=key)
    return client.chat.completions.create(model="placeholder", **CHAT)


def test_clients_of_openai_show_their_key(own_home):
    key = make_key(own_home, "app", "--requests-per-minute", "2")
    server = Server(own_home, "--model", "placeholder")
    began = time.monotonic()
    assert ask(server, key).choices[0].message.role == "assistant"
    with pytest.raises(openai.AuthenticationError) as refused:
        ask(server, "none")
    assert refused.value.code == "invalid_api_key"
    ask(server, key)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(server, key)
    assert refused.value.code == "requests_per_minute_exceeded"
    elapsed = time.monotonic() - began
    assert 30 - elapsed - 1 <= int(refused.value.response.headers["retry-after"]) <= 30
    key_in_logs = [line for line in server.lines if key[20:] in line]
    assert server.stop() == 0 and not key_in_logs
    assert any(f"key={key[3:19]}" in line for line in server.lines), "the log names the key"


def test_a_budget_survives_a_restart(own_home):
    key = make_key(own_home, "app", "--daily-tokens", "60")
    body = CHAT | {"max_tokens": 40, "extra_body": {"ignore_eos": True}}

    def spend(server):
        client = server.client(api_key=key)
        return client.chat.completions.create(model="placeholder", **body).usage.total_tokens

    server = Server(own_home, "--model", "placeholder")
    assert spend(server) >= 40
    assert server.stop() == 0
    server = Server(own_home, "--model", "placeholder")
    with pytest.raises(openai.RateLimitError) as refused:
        spend(server)
    assert refused.value.code == "daily_tokens_exceeded"
    assert server.stop() == 0


def test_a_budget_that_cannot_be_read_is_not_taken_for_unused(own_home):
    key = make_key(own_home, "app", "--daily-tokens", "60", "--scopes", "infer,metrics")
    other = make_key(own_home, "other")
    headers = {"authorization": f"Bearer {key}"}
    body = CHAT | {"model": "placeholder", "max_tokens": 40, "ignore_eos": True}
    post = lambda server: server.post("/v1/chat/completions", body, headers)
    server = Server(own_home, "--model", "placeholder")
    assert post(server).status == 200
    assert server.stop() == 0

    def rename(old, new):
        with closing(sqlite3.connect(own_home / "store" / "lastmile.db", timeout=10)) as store:
            store.execute(f"ALTER TABLE {old} RENAME TO {new}")
            store.commit()

    rename("attempt", "hidden")
    server = Server(own_home, "--model", "placeholder")
    refused = post(server)
    assert refused.status == 503 and refused.json["error"]["code"] == "budget_unread", refused.body
    assert "daily_tokens" in refused.json["error"]["message"] and refused.headers["retry-after"]
    assert ask(server, other).choices, "a key without a daily budget is served"
    assert "lastmile_key_budget_used{" not in server.get("/metrics", headers).body, "what is not known is no number"
    rename("hidden", "attempt")
    until(20, lambda: post(server).status == 429)
    assert post(server).json["error"]["code"] == "daily_tokens_exceeded"
    assert server.stop() == 0
    assert any("what keys used today cannot be read" in line for line in server.lines)


def test_each_crash_of_a_day_is_paid_for(own_home):
    key = make_key(own_home, "app", "--daily-tokens", "100000", "--scopes", "infer,metrics")
    headers = {"authorization": f"Bearer {key}"}
    start = lambda: Server(own_home, "--model", "placeholder:mode=random,delay_us=2000")

    def used(server):
        lines = server.get("/metrics", headers).body.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("lastmile_key_budget_used{"))

    def crash():
        server = start()
        before = used(server)
        body = CHAT | {"model": "placeholder", "max_tokens": 1500, "stream": True, "extra_body": {"ignore_eos": True}}
        stream = server.client(api_key=key).chat.completions.create(**body)
        for i, _ in enumerate(stream):
            # What the recorder has not written at the kill is not known: it lags by less than 70 tokens.
            if i == 100:
                break
        server.stop(signal.SIGKILL)
        return before

    assert crash() == 0
    first = crash()
    assert first >= 30
    server = start()
    both = used(server)
    assert both >= first + 30, "the second crash takes nothing of the first away"
    assert server.stop() == 0
    server = start()
    assert used(server) == both, "nor does an end in order"
    assert server.stop() == 0


def test_a_revoked_key_stops_working_and_hangup_is_heard(own_home):
    key, other = make_key(own_home, "app"), make_key(own_home, "other")
    server = Server(own_home, "--model", "placeholder")
    ask(server, key)
    assert run(own_home, "keys", "revoke", "app").returncode == 0
    server.process.send_signal(signal.SIGHUP)

    def is_revoked():
        try:
            ask(server, key)
        except openai.AuthenticationError as error:
            return error.code == "api_key_revoked"

    until(10, is_revoked)
    ask(server, other)
    assert server.stop() == 0


def test_a_hangup_while_the_model_loads_is_no_end(own_home):
    model = own_home / "model.gguf"
    os.mkfifo(model)
    command = [PROGRAM, "serve", "--port", "0", "--model", model]
    server = subprocess.Popen(
        command, env=environment(own_home), stderr=subprocess.PIPE, text=True
    )

    def open_if_read():
        try:
            return os.open(model, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO, error
            assert server.poll() is None, server.stderr.read()

    # The program reads its model, and waits for what is never written.
    pipes = []
    until(10, lambda: pipes.append(open_if_read()) or pipes[-1] is not None)
    server.send_signal(signal.SIGHUP)
    os.close(pipes[-1])
    _, said = server.communicate(timeout=20)
    assert server.returncode == 3, "it ends by its model, not by the signal"
    assert "model.gguf" in said


def test_a_fixed_key_is_enough(own_home):
    server = Server(own_home, "--model", "placeholder", "--api-key", "a-key-of-20-letters.")
    ask(server, "a-key-of-20-letters.")
    with pytest.raises(openai.AuthenticationError):
        ask(server, "a-key-of-20-letters,")
    assert server.stop() == 0


def streaming(server):
    """A stream that would go on for minutes, and its first chunk was seen."""
    client = server.client()
    body = CHAT | {"max_tokens": 4000, "stream": True, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(model="placeholder", **body)
    next(stream)
    return stream


def test_a_second_signal_ends_at_once(own_home):
    server = Server(own_home, "--model", "placeholder:delay_us=20000")
    stream = streaming(server)
    server.process.send_signal(signal.SIGTERM)
    until(10, lambda: server.get("/health/ready").status == 503)
    refused = server.post("/v1/chat/completions", CHAT)
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=10) == 3
    assert time.monotonic() - began < 10
    stream.close()


def test_a_first_signal_lets_answers_finish(own_home):
    server = Server(own_home, "--model", "placeholder:mode=echo,delay_us=20000")
    chunks = []

    def read():
        body = {"messages": [{"role": "user", "content": "h" * 50}], "stream": True}
        answer = server.client().chat.completions.create(model="placeholder", **body)
        chunks.extend(answer)

    reader = threading.Thread(target=read)
    reader.start()
    until(10, lambda: len(chunks) > 3)
    assert server.stop() == 0
    reader.join(timeout=10)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_tls_is_served_and_read_again(own_home):
    certificate, key = own_home / "cert.pem", own_home / "key.pem"

    def make_certificate():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-subj", "/CN=localhost", "-days", "2", "-keyout", key]
            + ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate],
            check=True,
            capture_output=True,
        )

    make_certificate()
    args = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    server = Server(own_home, "--model", "placeholder", *args, ca=certificate)
    assert server.url.startswith("https://")
    assert server.get("/version").status == 200
    page = run(own_home, "doctor").stdout
    assert "by TLS" in page and '"status":"ok"' in page, page
    good = certificate.read_text()
    certificate.write_text("broken")
    server.process.send_signal(signal.SIGHUP)
    until(10, lambda: any("that was in use stays" in line for line in server.lines))
    certificate.write_text(good)
    assert server.get("/version").status == 200
    assert server.stop() == 0


def test_an_answer_ends_with_the_cpu_time_of_its_key_and_a_crash_is_paid_for(own_home):
    key = make_key(own_home, "app", "--daily-cpu-seconds", "0.1", "--daily-tokens", "100000", "--scopes", "infer,metrics")
    prices = ["--price-per-million-output-tokens", "1e6", "--currency", "EUR"]
    server = Server(own_home, "--model", "placeholder:mode=random,delay_us=2000", *prices)
    headers = {"authorization": f"Bearer {key}"}

    def used(server):
        lines = server.get("/metrics", headers).body.splitlines()
        lines = [line for line in lines if line.startswith("lastmile_key_budget_used{")]
        return {line.split('limit="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}

    client = server.client(api_key=key)
    # However late it is killed, it uses a part of the budget only.
    body = CHAT | {"model": "placeholder", "max_tokens": 400, "extra_body": {"ignore_eos": True}}
    texts = []
    for chunk in client.chat.completions.create(stream=True, **body):
        texts.append(chunk.choices[0].delta.content or "")
        # Of these the recorder may not have written the last ones.
        if len(texts) == 100:
            break
    at_kill = used(server)
    assert at_kill["daily_tokens"] >= 30 and at_kill["daily_cpu_seconds"] > 0, at_kill
    server.stop(signal.SIGKILL)
    server = Server(own_home, "--model", "placeholder:mode=random,delay_us=2000", *prices)
    after = used(server)
    assert after["daily_tokens"] >= 30, (at_kill, after)
    client = server.client(api_key=key)
    # It would go on for longer than the rest lasts, so that it cannot end just when the rest does.
    body["max_tokens"] = 8000
    answer = client.chat.completions.create(**body).choices[0]
    assert answer.finish_reason == "length" and answer.message.content
    assert (answer.model_extra or {}).get("stop_reason") == "budget", (at_kill, after)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**body)
    assert refused.value.code == "daily_cpu_seconds_exceeded"
    # More than the budget by a step at most.
    assert 0.075 <= used(server)["daily_cpu_seconds"] <= 0.2
    wrong = run(own_home, "keys", "create", "bad", "--daily-cost=-1")
    assert wrong.returncode == 2 and "daily_cost" in wrong.stderr, wrong
    assert server.stop() == 0
