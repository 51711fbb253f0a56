"""A whole turn of the loop on a real model: planted problems are ranked, one is fixed by its prompt, proved, and guarded.

What the prompts of the fix do to this model is tried first, on a server of its own, so that the test is about the loop and
not about what a small model happens to know. What the model then says in the traffic is counted, not assumed.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import TEST_HOME, Server, run

MODEL = "smollm2-135m-instruct"
# After the fix: so many at a time, until it is proved.
N_BEFORE, N_AFTER, MAX_AFTER = 200, 200, 800
# Of a hundred requests: how many fail so, and how bad one is.
PLANTED = {"not_json": (8, 0.9), "truncated": (18, 0.3), "disliked": (4, 1.0)}
# Room for a short answer and for no long one.
MAX_TOKENS = 16
AT_ONCE = 8
PATIENCE_S = 60

COUNTRIES = ["France", "Germany", "Italy", "Spain", "Japan", "England"]
QUESTIONS = [f"What is the capital of {country}?" for country in COUNTRIES]
WORDY = [
    "Before you answer, explain at great length who you are and how you will find the answer.",
    "You write a long story for every question. It begins: Once upon a time, in a land far away, there lived a king who",
    "Begin every answer with: Dear reader, thank you very much for this wonderful question, which we will now discuss.",
    "Write an essay of many paragraphs with an introduction, the history, the geography and a conclusion.",
    "Repeat the question in French, in German and in Spanish before you answer it.",
]
BRIEF = [
    "Answer in one short sentence.",
    "You are a helpful assistant who gives short answers.",
    "Answer with the name only.",
]


def verb(home, *args, status=0):
    """What a verb says as JSON."""
    ran = run(home, *args, "--json")
    assert ran.returncode == status, ran
    return json.loads(ran.stdout)


def visit(system, i):
    """The instruction as a visit has it: no two requests are the same."""
    return f"{system} (Visit {i}.)"


def at_once(work, items):
    """What `work` gives for each item, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, items))


def is_cut(server, system, question):
    """Asks as the gate of a fix asks; whether the answer had no room."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    body = {"messages": messages, "temperature": 0, "seed": 0, "max_tokens": MAX_TOKENS}
    answer = server.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["finish_reason"] == "length"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """A wordy and a brief instruction, and questions whose answers are cut under the one and whole under the other."""
    home = tmp_path_factory.mktemp("tried")
    (home / "models").symlink_to(TEST_HOME / "models", target_is_directory=True)
    server = Server(home, "--model", MODEL, "--offline")
    try:
        systems = [form for system in WORDY + BRIEF for form in (system, visit(system, 7))]
        asked = [(system, question) for system in systems for question in QUESTIONS]
        cut = dict(zip(asked, at_once(lambda one: is_cut(server, *one), asked), strict=True))
    finally:
        server.stop()

    def fitting(wordy, brief):
        return [
            one
            for one in QUESTIONS
            if cut[wordy, one] and cut[visit(wordy, 7), one]
            and not cut[brief, one] and not cut[visit(brief, 7), one]
        ]

    wordy, brief = max(
        ((wordy, brief) for wordy in WORDY for brief in BRIEF),
        key=lambda pair: len(fitting(*pair)),
    )
    questions = fitting(wordy, brief)
    assert len(questions) >= 2, f"no pair of instructions makes the difference: {cut}"
    return wordy, brief, questions


class Client:
    """An application: it asks, its users rate, and its instructions can be mended."""

    # Nobody asks the same twice: that would be a complaint.
    asked = 0

    def __init__(self, server, system, questions):
        self.server, self.system, self.questions = server, system, questions

    def choose(self, prompt, *choices):
        """A short answer that is one of these, and the request's id."""
        body = {"prompt": prompt, "guided_choice": list(choices), "temperature": 0, "max_tokens": 24}
        answer = self.server.post("/v1/completions", body)
        assert answer.status == 200, answer.body
        assert answer.json["choices"][0]["finish_reason"] == "stop", answer.body
        return answer.json["id"]

    def ask(self, i):
        """One request; what it fails by, if it does."""
        # A hundred requests have each kind as often as it is planted, spread over them.
        place = i * 37 % 100
        if place < 8:
            self.choose(f"Parcel {i} of the flower shop as valid JSON:", " on its way", " not yet sent")
            return "not_json"
        if place < 26:
            question = self.questions[i % len(self.questions)]
            return "truncated" if is_cut(self.server, visit(self.system, i), question) else None
        if place < 30:
            request = self.choose(f"The museum of trams on day {i} is", " open", " closed")
            rated = self.server.post("/v1/feedback", {"request_id": request, "rating": False})
            assert rated.status in (200, 201), rated.body
            return "disliked"
        self.choose(f"Greetings {i * 7919}:", " hello", " good day")
        return None

    def traffic(self, n):
        """Asks so often; how many failed by what."""
        Client.asked += n
        failed = at_once(self.ask, range(Client.asked - n, Client.asked))
        return {kind: failed.count(kind) for kind in PLANTED}


def until(look, is_so):
    """What is seen once it is as wanted: the store is written within a second."""
    end = time.monotonic() + PATIENCE_S
    while True:
        seen = look()
        if is_so(seen):
            return seen
        assert time.monotonic() < end, seen


def test_a_whole_turn_of_the_loop(home, smollm2, prompts, tmp_path):
    wordy, brief, questions = prompts
    failed = Client(smollm2, wordy, questions).traffic(N_BEFORE)
    n_planted = {kind: N_BEFORE * n // 100 for kind, (n, _) in PLANTED.items()}
    assert failed["not_json"] == n_planted["not_json"] and failed["disliked"] == n_planted["disliked"]
    # What the model says differs by the visit's number: most answers are cut all the same.
    assert failed["truncated"] >= 0.7 * n_planted["truncated"], failed

    top = until(
        lambda: verb(home, "failures", "top"),
        lambda seen: sum(problem["n_failures"] for problem in seen) == sum(failed.values()),
    )
    by_impact = sorted(PLANTED, key=lambda kind: -PLANTED[kind][0] * PLANTED[kind][1])
    assert [problem["fingerprint"] for problem in top] == by_impact, top
    for problem in top:
        assert problem["n_failures"] == failed[problem["fingerprint"]], top
        assert problem["n_answers"] == N_BEFORE
        assert problem["severity"] == pytest.approx(PLANTED[problem["fingerprint"]][1])

    cluster = next(one for one in top if one["fingerprint"] == "truncated")
    fix = verb(home, "fix", "add", cluster["cluster"], "--note", "be brief", "--system", brief)["id"]
    assert verb(home, "fix", "verify", fix, status=1)["verdict"] == "undecided"

    proved, n_after, n_failed = prove(home, fix, Client(smollm2, brief, questions))
    counts = [proved[key] for key in ("before_n", "before_failed", "after_n", "after_failed")]
    assert counts == [N_BEFORE, failed["truncated"], n_after, n_failed], proved
    assert proved["verdict"] == "improved", proved
    change = n_failed / n_after - failed["truncated"] / N_BEFORE
    assert proved["change_low"] < change < proved["change_high"] < 0, proved
    assert proved["gate"] == f"gate-{fix}"
    learned = verb(home, "learn")
    assert learned["verified"]["n"] >= failed["truncated"], learned

    # The gate asks each question once, for they differ in nothing but the visit's number, which the fix takes away.
    gate = ["--base-url", smollm2.url, "--max-tokens", str(MAX_TOKENS)]
    passed = verb(home, "fix", "gate", *gate)
    assert [(one["fix"], one["n_passed"]) for one in passed] == [(fix, passed[0]["n"])], passed
    assert 1 <= passed[0]["n"] <= len(questions)
    print({"before": failed, "proved": proved, "wordy": wordy, "brief": brief})
    check_later_releases(home, smollm2, tmp_path, fix, gate, {"wordy": wordy, "brief": brief})


def prove(home, fix, client):
    """Traffic until the fix is proved, which may be looked at at any time: what was said last, of how many, how many failed."""
    n_after = n_failed = 0
    while True:
        n_failed += client.traffic(N_AFTER)["truncated"]
        n_after += N_AFTER
        said = until(
            lambda: json.loads(run(home, "fix", "verify", fix, "--json").stdout),
            lambda seen, n=n_after: seen["after_n"] == n,
        )
        if said["verdict"] == "improved" or n_after >= MAX_AFTER:
            return said, n_after, n_failed


def check_later_releases(home, server, tmp_path, fix, gate, instructions):
    """One that is wordy again is not promoted, and says which fix it breaks; one that is not is held by no gate."""
    refusals = {}
    for name, text in instructions.items():
        file = tmp_path / f"{name}.txt"
        file.write_text(text)
        verb(home, "exp", "prompt", name, str(file))
        begun = server.post(
            "/ops/v1/experiments",
            {
                "name": name,
                "owner": "ana@example.com",
                "reason": "a later release",
                "model": MODEL,
                "candidate": {"system": name},
                "goal": {"metric": "not_failure"},
                "guardrails": [{"metric": "not_failure", "max_loss": 0.05}],
                "min_answers": 20,
            },
        )
        assert begun.status == 201, begun.body
        refusals[name] = verb(home, "exp", "promote", name, *gate, status=1)["refused"]
        stopped = server.post(f"/ops/v1/experiments/{name}/stop", {"reason": "seen"})
        assert stopped.status == 200, stopped.body
    assert f"a verified fix is broken again: {fix} passes 0 of " in refusals["wordy"], refusals
    # Without a single answer it is too early, and that is all.
    assert "broken" not in refusals["brief"] and "of 20 answers" in refusals["brief"], refusals
