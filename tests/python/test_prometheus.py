"""A real Prometheus scrapes a server, loads the alerts, and knows every name that is used in deploy/."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
from conftest import ROOT, Server
from ports import free_port

DEPLOY = ROOT / "deploy"
NAME = re.compile(r"\b(?:lastmile_|gen_ai_)\w+|\bvllm:\w+")
CHAT = {"messages": [{"role": "user", "content": "hello world"}], "max_tokens": 8}
# In their own test: alerts speak of them, and they have no sample before something is denied.
WITH_KEYS = {"lastmile_key_denials_total"}

ENGINE_NAMES = """
vllm:num_requests_running vllm:num_requests_waiting vllm:kv_cache_usage_perc vllm:cache_config_info
vllm:time_to_first_token_seconds_bucket vllm:inter_token_latency_seconds_bucket
vllm:e2e_request_latency_seconds_bucket vllm:request_queue_time_seconds_bucket
vllm:prompt_tokens_total vllm:generation_tokens_total vllm:request_success_total
vllm:prefix_cache_queries_total vllm:prefix_cache_hits_total vllm:num_preemptions_total
lastmile_step_seconds_bucket lastmile_step_prediction_error_seconds_bucket
lastmile_requests_rejected_total gen_ai_server_request_duration_seconds_bucket
gen_ai_server_time_to_first_token_seconds_bucket
gen_ai_server_time_per_output_token_seconds_bucket
""".split()

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="PROMETHEUS IS NOT INSTALLED: ./test could not install the system package `prometheus`",
)


class Prometheus:
    """Scrapes one server each five seconds, with the alerts of deploy/ loaded."""

    def __init__(self, folder, target):
        config = folder / "prometheus.yml"
        config.write_text(
            # A scrape that is late makes all samples stale.
            "global: {scrape_interval: 5s, scrape_timeout: 5s, evaluation_interval: 1s}\n"
            f"rule_files: ['{DEPLOY / 'alerts.yml'}']\n"
            "scrape_configs:\n"
            "  - job_name: lastmile\n"
            f"    static_configs: [{{targets: ['{target}']}}]\n"
        )
        # Another program may take the port first.
        for _ in range(3):
            self.address = f"127.0.0.1:{free_port()}"
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self.address}",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            if self.listens():
                break

    def listens(self):
        """Waits until it listens or has ended."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self.api("status/buildinfo")
                return True
            except OSError:
                time.sleep(0.1)
        return False

    def api(self, path, **query):
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def value(self, expression):
        """The sum of an instant query's samples; None when there is none."""
        samples = self.api("query", query=expression)["result"]
        return sum(float(sample["value"][1]) for sample in samples) if samples else None

    def until(self, expression, wanted):
        deadline = time.monotonic() + 30
        found = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.stderr.read()
            try:
                found = self.value(expression)
            except OSError:
                # It does not listen yet.
                found = None
            if found is not None and wanted(found):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{expression} is {found} after 30 s")

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def server(home):
    server = Server(home, "--model", "placeholder")
    for _ in range(5):
        assert server.post("/v1/chat/completions", CHAT).status == 200
    # Names with a label for what went wrong have no sample before something does.
    too_long = CHAT | {"max_tokens": 10_000_000}
    assert server.post("/v1/chat/completions", too_long).status == 400
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory):
    target = server.url.removeprefix("http://")
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), target)
    prometheus.until('up{job="lastmile"}', lambda up: up == 1)
    prometheus.until("sum(lastmile_requests_finished_total)", lambda n: n == 5)
    yield prometheus
    prometheus.stop()


def names_known(prometheus):
    return set(prometheus.api("label/__name__/values"))


def expressions_of_dashboard():
    found = []

    def walk(value):
        if isinstance(value, dict):
            found.extend(v for k, v in value.items() if k == "expr" and isinstance(v, str))
            value = list(value.values())
        if isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(json.loads((DEPLOY / "grafana.json").read_text()))
    return found


def test_every_name_of_the_design_is_scraped(prometheus):
    assert set(ENGINE_NAMES) - names_known(prometheus) == set()
    prometheus.until("vllm:num_requests_running", lambda n: n >= 0)
    by = prometheus.api("query", query="vllm:num_requests_running")["result"][0]["metric"]
    assert (by["model_name"], by["engine"]) == ("placeholder", "0")
    # From 1 ms on, doubling.
    buckets = prometheus.api("query", query="vllm:time_to_first_token_seconds_bucket")["result"]
    bounds = sorted(float(bucket["metric"]["le"]) for bucket in buckets)
    assert bounds[:3] == [0.001, 0.002, 0.004] and bounds[-1] == float("inf")
    prometheus.until("vllm:kv_cache_usage_perc", lambda share: 0 <= share <= 1)


def test_what_the_dashboard_asks_is_answered(prometheus):
    known, asked = names_known(prometheus), expressions_of_dashboard()
    assert len(asked) >= 20
    for expression in asked:
        names = set(NAME.findall(expression))
        assert names and names - known - WITH_KEYS == set(), expression
        expression = expression.replace("$__rate_interval", "30s").replace("$model", ".*")
        prometheus.api("query", query=expression)


def test_alerts_are_loaded_and_speak_of_what_there_is(prometheus):
    rules = [r for g in prometheus.api("rules")["groups"] for r in g["rules"]]
    assert len(rules) >= 10
    known = names_known(prometheus) | {"up"}
    for rule in rules:
        names = set(NAME.findall(rule["query"])) or {"up"}
        assert names - known - WITH_KEYS == set(), rule["name"]
        assert rule["health"] in {"ok", "unknown"}, rule
        assert rule["annotations"]["summary"] and rule["labels"]["severity"], rule
    # A server that is well raises none.
    firing = prometheus.api("query", query='ALERTS{alertstate="firing"}')["result"]
    assert firing == []


def test_an_alert_fires_when_the_engine_stands_still(prometheus, server, tmp_path):
    """By promtool, in simulated time."""
    case = tmp_path / "case.yml"
    case.write_text(
        f"rule_files: ['{DEPLOY / 'alerts.yml'}']\n"
        "evaluation_interval: 1m\n"
        "tests:\n"
        "  - interval: 1m\n"
        "    input_series:\n"
        "      - {series: 'lastmile_engine_stalls_total{instance=\"a\"}', values: '0 0 0 1 1 1'}\n"
        "      - {series: 'lastmile_kv_cache_usage_ratio{model_name=\"m\"}', values: '1x20'}\n"
        "      - {series: 'lastmile_requests_waiting{model_name=\"m\"}', values: '3x20'}\n"
        "    alert_rule_test:\n"
        "      - eval_time: 4m\n"
        "        alertname: LastmileEngineStalled\n"
        "        exp_alerts:\n"
        "          - exp_labels: {severity: critical, instance: a}\n"
        "            exp_annotations:\n"
        "              summary: The engine of a stood still\n"
        "              description: Its state is in last-stall.json beside the store, and in the log.\n"
        "      - {eval_time: 2m, alertname: LastmileKvCacheFull, exp_alerts: []}\n"
    )
    ran = subprocess.run(["promtool", "test", "rules", case], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_promtool_finds_nothing(server):
    ran = subprocess.run(
        ["promtool", "check", "rules", DEPLOY / "alerts.yml"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    page = server.get("/metrics").body
    ran = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True
    )
    said = (ran.stdout + ran.stderr).splitlines()
    # Colons are vLLM's choice; of our own names nothing is to be said.
    assert [line for line in said if not line.startswith("vllm:")] == [], said
    assert ran.returncode in (0, 3), said
