"""Cost, privacy and the life of the store, by the program itself."""

import json

import pytest
from conftest import Server, run
from test_keys import make_key

SUBJECT = "ann@example.org"
BODY = {
    "messages": [{"role": "user", "content": f"write to {SUBJECT}"}],
    "max_tokens": 8,
    "user": SUBJECT,
    "timings": True,
}


def verb(home, *args):
    ended = run(home, *args, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def holds(home, text):
    """Whether a file of the store, its logs included, has the text."""
    return [f.name for f in (home / "store").iterdir() if text.encode() in f.read_bytes()]


def answers(server, n):
    found = [server.post("/v1/chat/completions", BODY) for _ in range(n)]
    assert all(answer.status == 200 for answer in found), found[0].body
    return [answer.json for answer in found]


def test_what_was_spent_is_said_by_key_day_and_model(tmp_path):
    prices = ["--price-per-million-input-tokens", "1000000", "--price-per-cpu-second", "10"]
    make_key(tmp_path, "app")
    server = Server(tmp_path, "--model", "placeholder", "--currency", "USD", *prices,
                    variables={"LASTMILE_API_KEY": "0123456789abcdef"})
    client = server.client(api_key="0123456789abcdef")
    told = [client.chat.completions.create(model="placeholder", messages=BODY["messages"], max_tokens=8,
                                           extra_body={"timings": True}) for _ in range(10)]
    assert server.stop() == 0
    timings = [answer.timings for answer in told]
    assert all(t["joules"] == "unavailable" or t["joules"] >= 0 for t in timings)
    for by in ["key", "day", "model"]:
        total = verb(tmp_path, "cost", "--by", by, "--since", "1d")["total"]
        assert total["requests"] == 10
        assert total["cpu_seconds"] == pytest.approx(sum(t["cpu_seconds"] for t in timings), rel=0.01)
        assert total["cost"]["USD"] == pytest.approx(sum(t["cost"]["amount"] for t in timings))
        expected = 10 * total["cpu_seconds"] + total["prompt_tokens"]
        assert total["cost"]["USD"] == pytest.approx(expected, rel=1e-6)
    page = run(tmp_path, "cost")
    assert "USD" in page.stdout and "total" in page.stdout
    wrong = run(tmp_path, "cost", "--since", "yesterday")
    assert wrong.returncode == 2 and "since is" in wrong.stderr and "yesterday" in wrong.stderr


def test_joules_are_counted_where_the_machine_says_them(tmp_path):
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    (zone / "energy_uj").write_text("262143328000\n")
    variables = {"LASTMILE_POWERCAP": str(zone.parent)}
    server = Server(tmp_path, "--model", "placeholder:delay_us=2000", variables=variables)
    quiet = answers(server, 1)[0]["timings"]["joules"]
    assert quiet == 0, "nothing was drawn, and that is known"
    # While a slow answer is streamed, 5 J are drawn, over the end of the counter's range.
    with server.client().chat.completions.create(model="placeholder", messages=BODY["messages"], stream=True,
                                                 max_tokens=2000, extra_body={"timings": True, "ignore_eos": True}) as stream:
        chunks = iter(stream)
        for _ in range(3):
            next(chunks)
        # In one write of the same length, as the system's counter changes: nobody ever reads an empty file.
        with open(zone / "energy_uj", "r+b", buffering=0) as counter:
            counter.write(b"000004999150\n")
        last = [chunk for chunk in chunks][-1]
    assert last.timings["joules"] == pytest.approx(5.0)
    metrics = server.metrics()
    assert metrics["lastmile_joules_total"][0][1] == pytest.approx(5.0)
    assert metrics["lastmile_energy_readable"][0][1] == 1
    assert server.stop() == 0
    assert verb(tmp_path, "cost")["total"]["joules"] == pytest.approx(5.0)


@pytest.mark.parametrize("privacy", ["full", "redacted", "hmac", "off"])
def test_what_is_kept_is_said_and_who_asks_is_erased(tmp_path, privacy):
    server = Server(tmp_path, "--model", "placeholder:mode=echo", "--privacy", privacy)
    kept = next(line for line in server.lines if line.startswith("  store "))
    answers(server, 5)
    server.post("/v1/chat/completions", BODY | {"user": "ben"})
    assert server.stop() == 0
    assert bool(holds(tmp_path, SUBJECT)) == (privacy == "full"), kept
    assert ("personal" in kept, "hashes" in kept) == (privacy == "redacted", privacy == "hmac")
    copy = tmp_path / "copy.db"
    assert verb(tmp_path, "store", "backup", str(copy))["size_bytes"] == copy.stat().st_size
    assert run(tmp_path, "store", "backup", str(copy)).returncode == 3, "a backup replaces nothing"
    stats = verb(tmp_path, "store", "stats")
    assert stats["rows"]["requests"] == 6
    assert stats["prompts"] == (6 if privacy in ["full", "redacted"] else 0)
    upgraded = verb(tmp_path, "store", "upgrade")
    assert upgraded["before"] == upgraded["now"] == stats["schema"]
    erased = verb(tmp_path, "store", "erase", "--subject", SUBJECT)
    assert erased["requests"] == 5
    assert verb(tmp_path, "store", "stats")["rows"]["requests"] == 1
    if privacy != "full":
        return
    # Ben's prompt still says it; nothing of the five does.
    assert verb(tmp_path, "store", "erase", "--subject", "ben")["requests"] == 1
    assert holds(tmp_path, SUBJECT) == []


def test_an_erasure_that_fails_midway_is_finished_by_the_next_one(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:mode=echo")
    for answer in answers(server, 3):
        said = server.post("/v1/feedback", {"request_id": answer["id"], "rating": False})
        assert said.status == 201
    assert server.stop() == 0
    assert len(verb(tmp_path, "failures", "list")) == 3
    # The store's rows go first; then what was concluded of them cannot be reached.
    book, kept = tmp_path / "store" / "feedback.db", tmp_path / "kept.db"
    book.rename(kept)
    book.write_text("no database " * 1000)
    failed = run(tmp_path, "store", "erase", "--subject", SUBJECT)
    assert failed.returncode == 3 and "feedback.db" in failed.stderr, failed
    assert verb(tmp_path, "store", "stats")["rows"]["requests"] == 0
    book.unlink()
    kept.rename(book)
    again = verb(tmp_path, "store", "erase", "--subject", SUBJECT)
    assert (again["requests"], again["resumed"]) == (0, 3) and again["conclusions"] >= 3, again
    assert verb(tmp_path, "failures", "list") == []
    last = verb(tmp_path, "store", "erase", "--subject", SUBJECT)
    assert (last["resumed"], last["conclusions"]) == (0, 0), last


def test_an_erased_key_leaves_no_conclusion(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:mode=echo")
    for answer in answers(server, 3):
        said = server.post("/v1/feedback", {"request_id": answer["id"], "rating": False})
        assert said.status == 201
    failures = verb(tmp_path, "failures", "top")
    assert failures, "the loop concluded something"
    erased = verb(tmp_path, "store", "erase", "--tenant", "none")
    assert erased["requests"] == 3 and erased["conclusions"] >= 3
    assert server.stop() == 0
    nobody = run(tmp_path, "store", "erase", "--tenant", "nobody")
    assert nobody.returncode == 2 and "nobody" in nobody.stderr
