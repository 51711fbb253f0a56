"""A whole turn of the loop: traffic fails, the problems are found and ranked, one is fixed, the fix is proved and guarded."""

import json
import re
import time

import pytest
from conftest import Server, run

N_BEFORE, N_AFTER = 300, 200
# Of a hundred requests: how many fail so, and how bad one is.
PLANTED = {"not_json": (15, 0.9), "disliked": (5, 1.0), "truncated": (10, 0.3)}


def verb(home, *args, status=0):
    """What a verb says as JSON."""
    ran = run(home, *args, "--json")
    assert ran.returncode == status, ran
    return json.loads(ran.stdout)


class Client:
    """An application: it asks, its users rate, and its prompts can be mended."""

    # Nobody asks the same twice: that would be a complaint.
    asked = 0

    def __init__(self, server, template="{question}"):
        self.server, self.template = server, template

    def ask(self, text, **options):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 128} | options
        answer = self.server.post("/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        return answer.json["id"]

    def traffic(self, n):
        """The placeholder says again what it is asked, so what it is asked decides what fails."""
        Client.asked += n
        for i in range(Client.asked - n, Client.asked):
            kind = i % 100
            if kind < 15:
                question = f"Order {i} of the flower shop in valid JSON"
                self.ask(self.template.replace("{question}", question))
            elif kind < 25:
                self.ask(f"Recite all {i} verses of the ballad of the grey harbour", max_tokens=4)
            elif kind < 30:
                request = self.ask(f"When does the museum of trams open on day {i} of the year?")
                rated = self.server.post(
                    "/v1/feedback", {"request_id": request, "rating": False}
                )
                assert rated.status in (200, 201), rated.body
            else:
                self.ask(f"Greetings, number {i * 7919}.")


@pytest.fixture(scope="module")
def echo(home):
    server = Server(home, "--model", "placeholder:mode=echo")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def top(home, echo):
    """The problems after the first traffic; it is on the disk within a second."""
    Client(echo).traffic(N_BEFORE)
    expect = N_BEFORE * sum(n for n, _ in PLANTED.values()) // 100
    end = time.monotonic() + 30
    while True:
        top = verb(home, "failures", "top")
        if sum(problem["n_failures"] for problem in top) == expect:
            return top
        assert time.monotonic() < end, top


def test_problems_are_ranked_by_their_planted_impact(top):
    by_impact = sorted(PLANTED, key=lambda kind: -PLANTED[kind][0] * PLANTED[kind][1])
    assert [problem["fingerprint"] for problem in top] == by_impact
    for problem in top:
        n, severity = PLANTED[problem["fingerprint"]]
        assert problem["n_failures"] == N_BEFORE * n // 100
        assert problem["n_answers"] == N_BEFORE
        assert problem["severity"] == pytest.approx(severity)
        assert problem["rate_low"] < n / 100


def test_failures_are_shown_and_reviewed(home, top):
    shown = verb(home, "failures", "show", top[0]["cluster"])
    assert len(shown) == 5
    assert "flower shop" in shown[0]["request"]["prompt"]["messages"][0]["content"]
    item = verb(home, "review", "next", "--as", "ann")
    other = verb(home, "review", "next", "--as", "bob")
    assert item["answer"] != other["answer"]
    assert run(home, "review", "tag", item["answer"], "strange", "--as", "ann").returncode == 0
    assert run(home, "review", "accept", item["answer"], "--as", "ann").returncode == 0
    refused = run(home, "review", "accept", other["answer"], "--as", "ann")
    assert refused.returncode == 3 and "bob" in refused.stderr, refused
    undone = run(home, "review", "undo", item["answer"], "--as", "ann")
    assert undone.returncode == 0 and "waits for a verdict again" in undone.stdout, undone
    twice = run(home, "review", "undo", item["answer"], "--as", "bob")
    assert twice.returncode == 2 and "no verdict" in twice.stderr, twice
    assert verb(home, "review", "next", "--as", "ann")["answer"] == item["answer"]
    assert run(home, "review", "accept", item["answer"], "--as", "ann").returncode == 0
    assert "1 given back" in run(home, "review", "give-back", "--as", "bob").stdout
    unknown = run(home, "review", "reject", "ffff")
    assert unknown.returncode == 2 and "ffff" in unknown.stderr, unknown


def test_a_fix_is_proved_and_guarded_and_a_release_that_breaks_it_is_stopped(
    home, echo, top, tmp_path
):
    template = '{"answer": "{question}"}'
    added = verb(
        home, "fix", "add", top[0]["cluster"], "--note", "ask in JSON", "--template", template
    )
    early = verb(home, "fix", "verify", added["id"], status=1)
    assert early["verdict"] == "undecided" and early["after_failed"] == 0

    Client(echo, template).traffic(N_AFTER)
    end = time.monotonic() + 30
    while True:
        ran = run(home, "fix", "verify", added["id"], "--json")
        proved = json.loads(ran.stdout)
        if proved["after_n"] == N_AFTER:
            break
        assert time.monotonic() < end, proved
    assert ran.returncode == 0 and proved["verdict"] == "improved", proved
    assert (proved["before_failed"], proved["before_n"]) == (45, N_BEFORE)
    assert proved["after_failed"] == 0
    # Fifteen points were planted: the interval holds them, and no change is out of it.
    assert proved["change_low"] < -0.15 < proved["change_high"] < 0
    assert proved["gate"] == f"gate-{added['id']}"

    passed = verb(home, "fix", "gate", "--base-url", echo.url)
    assert [(gate["n"], gate["n_passed"]) for gate in passed] == [(45, 45)]
    # A release that does not answer in JSON any more.
    broken = Server(tmp_path, "--model", "placeholder:mode=random")
    try:
        gates = verb(home, "fix", "gate", "--base-url", broken.url, status=1)
    finally:
        broken.stop()
    assert gates[0]["fix"] == added["id"] and gates[0]["n_passed"] == 0
    assert "not_json" in gates[0]["failed"][0]["why"]


def test_what_was_not_touched_is_not_called_improved(home, echo, top):
    other = next(problem for problem in top if problem["fingerprint"] == "truncated")
    added = verb(home, "fix", "add", other["cluster"], "--note", "a prayer")
    Client(echo).traffic(100)
    end = time.monotonic() + 30
    while True:
        said = json.loads(run(home, "fix", "verify", added["id"], "--json").stdout)
        if said["after_n"] == 100:
            break
        assert time.monotonic() < end, said
    assert said["verdict"] == "undecided" and said["after_failed"] == 10
    assert said["change_low"] < 0 < said["change_high"]


def test_learning_is_measured(home, top):
    learning = verb(home, "learn")
    assert learning["n_failures"] >= 90
    assert learning["verified"]["n"] >= 45
    assert learning["whole"]["median_s"] > 0
    assert re.search(r"failed -> verified +\d+ +median", run(home, "learn").stdout)


def test_traffic_becomes_a_dataset_that_can_be_evaluated(home, echo, top):
    Client(echo).ask("Write to ann@example.org about the garden.")
    time_limit = time.monotonic() + 30
    while True:
        made = verb(home, "data", "from-requests", "traffic")
        if made["traffic"]["n_masked"] >= 2:
            break
        assert time.monotonic() < time_limit, made
    assert made["rows_published"] == made["traffic"]["n_rows"]
    assert made["rows_quarantined"] == 0
    disliked = verb(home, "data", "from-requests", "disliked", "--feedback", "disliked")
    assert disliked["rows_published"] >= 15
    exported = run(home, "data", "export", "disliked").stdout.splitlines()
    row = json.loads(exported[0])
    assert re.fullmatch(r"[0-9a-f-]{36}", row["lineage"]["request_id"])
    assert row["messages"][-1]["role"] == "assistant" and "museum" in row["messages"][-1]["content"]
    # An echo says what it said.
    scored = verb(home, "eval", "disliked", "--base-url", echo.url, "--min-pass", "1")
    assert scored["n"] == scored["n_passed"] == disliked["rows_published"]
    failed = verb(
        home, "eval", "disliked", "--base-url", echo.url, "--scorer", "json", "--min-pass", "0.5",
        status=1,
    )
    assert failed["n_passed"] == 0
    # By the encoder that is installed here.
    similar = verb(home, "eval", "disliked", "--base-url", echo.url, "--scorer", "similarity")
    assert similar["n_passed"] == scored["n"]


def test_a_release_is_evaluated_by_name_and_by_likelihood(home, echo, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Where is the ferry?", "expected": "Where is the ferry?"}\n')
    served = echo.get("/v1/models").json["data"][0]
    at = ["eval", str(rows), "--base-url", echo.url]
    for release in [served["id"], served["release"][:12]]:
        scored = verb(home, *at, "--scorer", "contains", "--release", release)
        assert (scored["n"], scored["mean_logprob"]) == (1, None), scored
        likely = verb(home, *at, "--scorer", "logprob:-1e9", "--release", release)
        assert likely["n_passed"] == 1 and likely["mean_logprob"] < 0, likely
    rows.write_text('{"prompt": "Where is the ferry?", "expected": "Under the hill."}\n')
    surer = verb(home, *at, "--scorer", "logprob:-0.000001", "--min-pass", "1", status=1)
    assert "below" in surer["failed"][0]["why"], surer
    for release in ["moon", "0123456789abcdef", "nothing/candidate"]:
        refused = run(home, *at, "--scorer", "contains", "--release", release)
        assert refused.returncode == 2 and f"--release is {release}" in refused.stderr, refused
    arm = run(home, *at, "--scorer", "logprob", "--release", "polite/candidate")
    assert arm.returncode == 2 and "answers chats only" in arm.stderr, arm


def test_traffic_is_added_to_what_a_dataset_has(home, echo):
    """Another window has none of the rows of the first one, which stay."""
    first = verb(home, "data", "from-requests", "kept", "--append", "--feedback", "disliked")
    n = first["rows_published"]
    assert first["traffic"]["n_known"] == 0 and n >= 15
    again = verb(home, "data", "from-requests", "kept", "--append", "--feedback", "disliked")
    assert (again["rows_published"], again["version"]) == (n, first["version"]), again
    assert again["traffic"]["n_known"] == n
    request = Client(echo).ask("What does the keeper of the lighthouse read at night?")
    assert echo.post("/v1/feedback", {"request_id": request, "rating": True}).status in (200, 201)
    end = time.monotonic() + 30
    liked = ["data", "from-requests", "kept", "--append", "--feedback", "liked"]
    while (made := verb(home, *liked))["traffic"]["n_answers"] == 0:
        assert time.monotonic() < end, made
    assert made["rows_published"] == n + 1 and made["traffic"]["n_known"] == 0, made
    rows = [json.loads(line) for line in run(home, "data", "export", "kept").stdout.splitlines()]
    ids = [row["lineage"]["request_id"] for row in rows]
    assert len(set(ids)) == n + 1 and request.removeprefix("chatcmpl-") in ids


def test_traffic_is_chosen_by_route_time_and_how_sure_the_model_was(home, echo):
    for i, asked in enumerate([{}, {"logprobs": 1}]):
        body = {"prompt": f"Ballad {i} of the lighthouse", "max_tokens": 8} | asked
        assert echo.post("/v1/completions", body).status == 200
    chosen = ["data", "from-requests", "ballads", "--route", "/v1/completions"]
    end = time.monotonic() + 30
    while (ran := run(home, *chosen, "--json")).returncode or json.loads(ran.stdout)["traffic"]["n_answers"] < 2:
        assert time.monotonic() < end, ran
    sure = verb(home, *chosen, "--max-mean-logprob", "0")["traffic"]
    # What `eval` asked before has none either.
    assert sure["n_rows"] == 1 and sure["n_without_logprob"] >= 1, sure
    none = run(home, *chosen, "--older-than", "1")
    assert none.returncode == 3 and "nothing was published" in none.stderr, none
    for wrong, says in [(["--route", "/v1/moon"], "--route is"), (["--max-mean-logprob", "1"], "0 or less")]:
        refused = run(home, "data", "from-requests", "ballads", *wrong)
        assert refused.returncode == 2 and says in refused.stderr, refused
