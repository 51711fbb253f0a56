"""Who is to hear of alerts hears of them, whatever the receiver does; and the fire drill."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import Server, run
from test_experiments import Users, report, spec, start, until
from test_monitors import Traffic, begin_within_an_hour

KEY = b"a key of the receiver's, 32 long"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
MODEL = ("--model", "placeholder:mode=echo", "--monitor-baseline", "500")


class Hook:
    """A receiver that answers as it is told, one after the other, and 204 from then on."""

    def __init__(self, *statuses, port=0):
        hook = self
        self.got, self.statuses = [], list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = hook.statuses.pop(0) if hook.statuses else 204
                hook.got.append((status, self.headers, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook/a-secret-path"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def taken(self):
        return [json.loads(body) for status, _, body in self.got if status == 204]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def is_signed(headers, body):
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expect = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60
    return hmac.compare_digest(headers["webhook-signature"], expect)


def drift(traffic, n=400):
    traffic.send(n, words=lambda i: 9 + i * 7 % 11)


def of_length(documents):
    return [one for one in documents if one["data"].get("signal") == "output_tokens"]


def sink(server):
    return server.get("/ops/v1/monitors").json["sinks"][0]


def settle(server):
    """Until nothing waits for delivery."""
    until(lambda: server.get("/ops/v1/monitors").json["sinks"], lambda all: all and not any(one["waiting"] for one in all), 30)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home that knows what is usual."""
    home = tmp_path_factory.mktemp("sinks")
    begin_within_an_hour(400)
    server = Server(home, *MODEL)
    Traffic(server).send(520)
    assert Traffic(server).standing()["state"] == "watching"
    assert server.stop() == 0
    secret = home / "secret"
    secret.write_text(SECRET + "\n")
    return home


def test_a_receiver_that_fails_twice_gets_the_alert_signed_and_once(home):
    hook = Hook(500, 500)
    server = Server(home, *MODEL, "--alert-webhook", hook.url, "--alert-webhook-secret-file", str(home / "secret"))
    traffic = Traffic(server)
    drift(traffic)
    until(lambda: of_length(hook.taken()), bool, 30)
    settle(server)
    assert [status for status, _, _ in hook.got[:3]] == [500, 500, 204]
    # What failed is sent again as it was; other alerts do not wait for it.
    sent = {headers["webhook-id"]: body for status, headers, body in hook.got if status == 204}
    assert all(sent[headers["webhook-id"]] == body for _, headers, body in hook.got[:2])
    assert all(is_signed(headers, body) for _, headers, body in hook.got)
    taken = lambda: [headers["webhook-id"] for status, headers, _ in list(hook.got) if status == 204]
    assert len(taken()) == len(set(taken()))
    (alert,) = of_length(hook.taken())[:1]
    assert alert["type"] == "alert.opened" and alert["data"]["alert"] == "placeholder/output_tokens/higher"
    assert len(alert["data"]["examples"]) == 5
    page = f"/v1/requests/{alert['data']['examples'][0]}/page"
    until(lambda: server.get(page).status, lambda status: status == 200, 10)

    def counted():
        """What was delivered by the hook, by the page and by the metrics: more may come meanwhile."""
        settle(server)
        standing = sink(server)
        counts = {one["outcome"]: n for one, n in server.metrics()["lastmile_alert_messages_total"]}
        assert standing["given_up"] == counts["given_up"] == 0 and counts.keys() == {"delivered", "given_up"}
        return {len(taken()), standing["delivered"], counts["delivered"]}, standing["failing_since_ms"]

    until(counted, lambda seen: len(seen[0]) == 1 and seen[1] is None, 30)
    assert traffic.standing()["signals"]["output_tokens"] == "alert"
    assert server.stop() == 0
    log = "".join(server.lines)
    assert "a-secret-path" not in log and SECRET not in log
    shown = run(home, "config", "--alert-webhook", hook.url).stdout
    assert "alert-webhook" in shown and "a-secret-path" not in shown
    hook.close()


def test_an_alert_that_was_open_stays_open_over_a_restart(home):
    hook = Hook()
    server = Server(home, *MODEL, "--alert-webhook", hook.url)
    # The server before left it open: it is told neither again nor anew.
    traffic = Traffic(server)
    traffic.send(1)
    assert traffic.standing()["signals"]["output_tokens"] == "alert"
    drift(traffic)
    settle(server)
    assert of_length(hook.taken()) == []
    assert server.stop() == 0
    hook.close()
    forget_open(home)


def forget_open(home):
    for kept in home.glob("alerts/*/open.json"):
        kept.unlink()


def test_a_program_is_told_on_its_standard_input_and_hears_no_secret(home):
    program, out = home / "told.sh", home / "told"
    out.mkdir()
    program.write_text(f'#!/bin/sh\ncat > "{out}/$$.part"\nenv > "{out}/env"\nmv "{out}/$$.part" "{out}/$$.json"\n')
    program.chmod(0o700)
    variables = {"LASTMILE_ALERT_WEBHOOK_SECRET": SECRET}
    hook = Hook()
    args = ("--alert-command", str(program), "--alert-webhook", hook.url)
    server = Server(home, *MODEL, *args, variables=variables)
    drift(Traffic(server))
    told = lambda: of_length([json.loads(one.read_text()) for one in out.glob("*.json")])
    (alert,) = until(told, bool, 30)
    until(hook.taken, lambda all: alert in all, 10)
    assert alert["data"]["state"] == "alert"
    assert SECRET not in (out / "env").read_text()
    settle(server)
    assert server.stop() == 0
    assert "exit status: 0" in "".join(server.lines)
    hook.close()
    forget_open(home)


def test_a_receiver_that_says_nothing_slows_no_answer_and_the_next_server_delivers(home):
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = silent.getsockname()[1]
    url = f"http://127.0.0.1:{port}/hook/a-secret-path"
    server = Server(home, *MODEL, "--alert-webhook", url, "--alert-timeout", "5")
    traffic = Traffic(server)
    drift(traffic)
    until(lambda: sink(server), lambda one: one["failing_since_ms"] is not None, 30)
    slowest = 0
    for _ in range(50):
        began = time.monotonic()
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        assert server.post("/v1/chat/completions", body).status == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 4, "no answer waits for a timeout of 5 s"
    waiting = sink(server)["waiting"]
    assert waiting >= 1
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10
    assert len(list(home.glob("alerts/0/webhook-*/*.json"))) >= waiting
    silent.close()
    hook = Hook(port=port)
    server = Server(home, *MODEL, "--alert-webhook", url)
    until(lambda: of_length(hook.taken()), bool, 30)
    settle(server)
    assert list(home.glob("alerts/0/webhook-*/*.json")) == []
    assert server.stop() == 0
    hook.close()
    forget_open(home)


def test_what_a_receiver_refuses_is_counted_and_doctor_says_so(home):
    hook = Hook(*[400] * 100)
    server = Server(home, *MODEL, "--alert-webhook", hook.url)
    drift(Traffic(server))
    until(lambda: sink(server), lambda one: one["given_up"] >= 1, 30)
    wanted = f"alerts were not delivered to 127.0.0.1:{hook.port}: the receiver answered 400"
    until(lambda: run(home, "doctor").stdout, lambda page: wanted in page, 15)
    settle(server)
    ids = [headers["webhook-id"] for _, headers, _ in hook.got]
    assert len(ids) == len(set(ids)), "none is tried again"
    assert server.stop() == 0
    hook.close()
    forget_open(home)


def test_the_test_alert_goes_to_what_is_configured_and_each_is_reported(home):
    good, bad = Hook(), Hook(503)
    config = home / "sinks.toml"
    config.write_text(f'alert-webhook = ["{good.url}", "{bad.url}"]\nalert-webhook-secret-file = "{home / "secret"}"\n')
    tested = run(home, "--config", str(config), "monitor", "test-sink", "--json")
    assert tested.returncode == 1, tested.stderr
    first, second = json.loads(tested.stdout)["sinks"]
    assert first["is_delivered"] and not second["is_delivered"] and "503" in second["error"]
    (status, headers, body) = good.got[0]
    assert status == 204 and is_signed(headers, body) and json.loads(body)["type"] == "alert.test"
    assert "a-secret-path" not in tested.stdout + tested.stderr
    assert run(home, "monitor", "test-sink", "--alert-webhook", good.url).returncode == 0
    wrong = run(home, "monitor", "test-sink")
    assert wrong.returncode == 2 and "--alert-webhook" in wrong.stderr
    wrong = run(home, "serve", "--port", "0", *MODEL, "--alert-webhook", "https://me:pass@hooks.example/x")
    assert wrong.returncode == 2 and "must not hold a user" in wrong.stderr and "pass@" not in wrong.stderr
    good.close()
    bad.close()


def test_an_experiment_that_ends_by_itself_is_told_once_also_over_a_restart(tmp_path):
    hook, key = Hook(), "rolled back regression"
    serve = lambda: Server(tmp_path, *MODEL, "--alert-webhook", hook.url)
    told = lambda: [one for one in hook.taken() if one["data"]["alert"] == key]
    server = serve()
    start(tmp_path, tmp_path, spec("regression", "placeholder", {"params": {"max_tokens": 4}}) | {"from": "50"})
    users = Users(server, "Tell me all {i} names of the grey harbour, please.")
    until(users.arm, lambda arm: arm is not None)

    def ask():
        users.ask()
        return report(tmp_path, "regression") if users.n % 5 == 0 else {"status": "running"}

    until(ask, lambda seen: seen["status"] == "rolled_back", 300)
    (alert,) = until(told, bool, 30)
    assert alert["type"] == "alert.opened" and alert["data"]["level"] == "warning" and alert["data"]["state"] == "alert"
    assert "not_failure" in alert["data"]["what"] and "The primary answers again" in alert["data"]["next"]
    until(lambda: run(tmp_path, "doctor").stdout, lambda page: alert["data"]["what"] in page, 10)
    settle(server)
    assert server.stop() == 0
    server = serve()
    keys = lambda: [one["key"] for one in server.get("/ops/v1/alerts").json["open"]]
    until(keys, lambda all: key in all, 10)
    settle(server)
    assert len(told()) == 1
    assert server.stop() == 0
    hook.close()


def drill(home, *args):
    done = run(home, "monitor", "fire-drill", "--json", *args)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize(
    ("drift", "signal"),
    [("refusals", "refusal"), ("length", "output_tokens"), ("logprob", "mean_logprob"), ("latency", "tpot_ms")],
)
def test_a_fire_drill_notices_what_drifts_within_500(home, drift, signal):
    status, report = drill(home, "--drift", drift)
    noticed = [one for one in report["found"] if one["signal"] == signal]
    assert status == 0 and report["is_passed"] and report["expected"] == signal
    assert noticed and 1 <= noticed[0]["delay"] <= 500, report
    signals = {one["signal"]: one for one in report["signals"]}
    assert signals[signal]["is_expected"] and signals[signal]["noticed"] == noticed[0]["delay"] and signals[signal]["nearest"] == 1
    assert signals["bad_feedback"]["usual_mean"] is None and signals["bad_feedback"]["noticed"] is None
    assert drill(home, "--drift", drift) == (status, report), "one seed, one report"


def test_a_fire_drill_without_drift_notices_nothing_and_a_faint_one_fails(home):
    status, report = drill(home, "--drift", "none")
    assert status == 0 and report["found"] == [] and report["expected"] is None
    status, report = drill(home, "--drift", "latency", "--size", "1.01", "--within", "20")
    assert status == 1 and not report["is_passed"]
    wrong = run(home, "monitor", "fire-drill", "--drift", "none", "--size", "2")
    assert wrong.returncode == 2 and "--size is 2" in wrong.stderr
    page = run(home, "monitor", "fire-drill", "--drift", "refusals", "--size", "0.1").stdout
    assert "passed: refusal was noticed" in page and "(what drifted)" in page and "size 0.1" in page
