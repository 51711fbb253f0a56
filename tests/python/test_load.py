"""`bench serve` on real servers, and placeholders that stand in for a model: its speed, its answers, its failures."""

import json
import threading
import time

import pytest
from conftest import Server, run

# What `vllm bench serve` writes with --save-detailed.
VLLM_KEYS = """date label model_id num_prompts request_rate burstiness max_concurrency duration completed failed
total_input_tokens total_output_tokens request_throughput request_goodput output_throughput total_token_throughput
max_output_tokens_per_s max_concurrent_requests mean_ttft_ms median_ttft_ms std_ttft_ms p99_ttft_ms mean_tpot_ms
median_tpot_ms std_tpot_ms p99_tpot_ms mean_itl_ms median_itl_ms std_itl_ms p99_itl_ms input_lens output_lens ttfts itls
generated_texts errors""".split()

# Each token of 64 streams as an event of its own. 25 is the aim: it was 18 to 20 once, on a faster machine, and is 46 to 49 on a shared
# one. This bound only keeps it from getting far worse, on machines that are twice as slow. On slower ones it is told from what the
# clients spend there on the same tokens: 0.4 of the server's.
MOST_SERVER_CPU_US_PER_TOKEN = 120
MOST_SERVER_CPU_OF_CLIENTS = 5

ANSWER = {
    "type": "object",
    "required": ["name", "age"],
    "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 1, "maximum": 9}},
}


def bench(server, *args):
    """A load on `server`, and its result."""
    done = run(server.home, "bench", "serve", "--base-url", server.url, "--json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_closed_loop_gives_vllms_keys_files_and_the_table(placeholder, tmp_path):
    args = ["--num-prompts", "24", "--max-concurrency", "6", "--random-output-len", "20"]
    files = ["--save-result", "--save-detailed", "--result-dir", tmp_path, "--result-filename", "a.json"]
    limits = ["--goodput", "ttft:60000", "e2el:60000", "--ignore-eos"]
    done = run(
        placeholder.home, "bench", "serve", "--base-url", placeholder.url, *args, *limits, *files
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "a.json").read_text())
    assert set(VLLM_KEYS) <= result.keys(), set(VLLM_KEYS) - result.keys()
    assert (result["completed"], result["failed"]) == (24, 0)
    assert result["output_lens"] == [20] * 24 and result["total_output_tokens"] == 480
    # 118 tokens, and the two that begin and end a raw prompt.
    assert result["input_lens"] == [120] * 24 and result["cached_tokens"] == 0
    assert result["token_counts"] == "usage" and result["request_rate"] == "inf"
    assert result["request_goodput"] == pytest.approx(result["request_throughput"])
    assert 1 <= result["max_concurrent_requests"] <= 24
    assert "Successful requests:                     24" in done.stdout
    assert "Median TTFT (ms):" in done.stdout
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


def test_chats_and_poisson_arrivals_are_driven_too(placeholder):
    chat = bench(placeholder, "--endpoint", "/v1/chat/completions", "--num-prompts", "8")
    assert (chat["completed"], chat["failed"]) == (8, 0)
    # The empty chunk that opens a chat is no token.
    assert chat["median_ttft_ms"] > 0
    rate = bench(placeholder, "--request-rate", "40", "--num-prompts", "40", "--seed", "3")
    assert rate["completed"] == 40 and 0.9 < rate["duration"] < 30


def test_the_server_spends_little_cpu_on_a_token(home):
    server = Server(home, "--model", "placeholder:delay_us=5000")
    args = ["--num-prompts", "128", "--max-concurrency", "64", "--random-output-len", "256"]
    pid = ["--server-pid", str(server.process.pid), "--ignore-eos", "--num-warmups", "64"]
    # What else the machine does makes a load dearer: one of them is undisturbed.
    for _ in range(5):
        found = bench(server, *args, *pid)
        assert (found["completed"], found["total_output_tokens"]) == (128, 128 * 256)
        us, client, of_all = found["server_cpu_us_per_token"], found["client_cpu_seconds"], found["server_cpu_seconds"]
        is_little = us < MOST_SERVER_CPU_US_PER_TOKEN or of_all < MOST_SERVER_CPU_OF_CLIENTS * client
        if is_little and client < of_all:
            break
    assert server.stop() == 0
    assert us > 1 and is_little and client < of_all, found


def test_a_server_that_dies_in_the_middle_is_told(home):
    server = Server(home, "--model", "placeholder:delay_us=20000")
    killer = threading.Thread(target=lambda: (running(server), server.process.kill()))
    killer.start()
    args = ["--num-prompts", "8", "--random-output-len", "2000", "--ignore-eos", "--json"]
    done = run(server.home, "bench", "serve", "--base-url", server.url, *args)
    killer.join()
    found = json.loads(done.stdout)
    assert (done.returncode, found["completed"], found["failed"]) == (1, 0, 8)
    assert sum(found["failures"].values()) == 8 and all(found["failures"])


def running(server):
    """Waits until the server answers all of a load."""
    end = time.monotonic() + 30
    while server.metrics()["lastmile_generation_tokens_total"][0][1] < 100:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_wrong_use_is_named(placeholder, tmp_path):
    def check(status, part, *args):
        done = run(placeholder.home, "bench", "serve", "--base-url", placeholder.url, *args)
        assert (done.returncode, part in done.stderr) == (status, True), done.stderr

    check(2, "ttfb:5", "--goodput", "ttfb:5")
    check(2, "p50", "--percentile-metrics", "p50")
    check(2, "request_rate", "--request-rate", "0")
    check(2, "max_concurrency", "--max-concurrency", "0")
    check(2, "--dataset-path", "--dataset-name", "custom")
    check(2, "--endpoint", "--endpoint", "/v1/embeddings")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n{"prompt": 7}\n')
    check(2, "line 2", "--dataset-name", "custom", "--dataset-path", bad, "--num-prompts", "2")
    refused = run(placeholder.home, "bench", "serve", "--base-url", "http://127.0.0.1:1")
    assert refused.returncode == 3 and "127.0.0.1:1" in refused.stderr
    unknown = run(
        placeholder.home, "bench", "serve", "--base-url", placeholder.url, "--model", "none"
    )
    assert unknown.returncode == 1 and "404" in unknown.stdout


def test_recorded_traffic_is_sent_again_and_answered_again(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:mode=echo")
    for text in ("hello world", "good day"):
        server.post("/v1/completions", {"prompt": text, "max_tokens": 50})
    chat = {"messages": [{"role": "user", "content": "thank you"}], "max_tokens": 50}
    server.post("/v1/chat/completions", chat)
    assert server.stop() == 0
    replay = Server(tmp_path, "--model", "placeholder:mode=replay")
    found = replay.post("/v1/completions", {"prompt": "good day", "max_tokens": 50}).json
    assert found["choices"][0]["text"] == "good day"
    assert found["choices"][0]["finish_reason"] == "stop"
    found = replay.post("/v1/chat/completions", chat).json
    assert found["choices"][0]["message"]["content"] == "thank you"
    other = replay.post("/v1/completions", {"prompt": "who is there", "max_tokens": 50}).json
    assert other["choices"][0]["text"] in ("hello world", "good day", "thank you")
    load = bench(replay, "--dataset-name", "recorded", "--recorded-speed", "20")
    assert load["completed"] >= 3 and load["failed"] == 0
    assert replay.stop() == 0


def test_schema_mode_answers_with_valid_json_only(home, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(ANSWER))
    server = Server(home, "--model", "placeholder:mode=schema", "--placeholder-schema", schema)
    names = set()
    for i in range(20):
        found = server.post("/v1/completions", {"prompt": f"hello {i}", "max_tokens": 400}).json
        value = json.loads(found["choices"][0]["text"])
        assert value.keys() == {"name", "age"} and 1 <= value["age"] <= 9
        names.add(value["name"])
    assert len(names) > 3
    assert server.stop() == 0
    absent = run(home, "serve", "--model", "placeholder:mode=schema", "--port", "0")
    assert absent.returncode == 2 and "--placeholder-schema" in absent.stderr


def test_costs_are_calibrated_written_and_predict(home, tmp_path):
    costs, steps = tmp_path / "costs.toml", tmp_path / "run.json"
    model = "placeholder:step_ns=2000000,decode_row_ns=500000,prefill_token_ns=50000"
    args = ["placeholder", "calibrate", model, "-o", costs, "--save-run", steps, "--json"]
    # Who is woken late is late in every step, and what of it is a row's is seen better in one run than in another.
    for _ in range(5):
        done = run(home, *args, "--streams", "1,4", "--output-tokens", "32")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["costs"]
        step_ns, row_ns = found["step_ns"], found["decode_row_ns"]
        is_near = 1_900_000 < step_ns < 6_000_000 and 300_000 < row_ns < 1_500_000
        if is_near:
            break
    assert is_near, found
    again = run(home, "placeholder", "calibrate", "--from", steps, "-o", costs, "--json")
    assert json.loads(again.stdout)["costs"] == found
    plan = run(home, "plan", "placeholder", "--placeholder-costs", costs, "--json")
    one, eight, many = json.loads(plan.stdout)["predictions"]
    assert (one["streams"], eight["streams"], many["streams"]) == (1, 8, 32)
    assert one["output_tokens_per_s"] < eight["output_tokens_per_s"] < many["output_tokens_per_s"]
    server = Server(home, "--model", "placeholder", "--placeholder-costs", costs)
    measured = bench(server, "--max-concurrency", "8", "--num-prompts", "32", "--ignore-eos")
    assert server.stop() == 0
    assert measured["output_throughput"] == pytest.approx(eight["output_tokens_per_s"], rel=0.7)
    nothing = tmp_path / "nothing.toml"
    nothing.write_text("step = 1")
    refused = run(home, "plan", "placeholder", "--placeholder-costs", nothing)
    assert refused.returncode == 2 and "nothing.toml" in refused.stderr
