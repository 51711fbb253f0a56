"""The pages of data, failures, review and learning in a real browser, and the routes that they ask."""

import json
import re

import pytest
from browser import Watched, why_not
from conftest import Server, run
from test_experiments import until
from test_panel import HOSTILE, browser, chat  # noqa: F401

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

N_CUT, N_DISLIKED, N_GOOD = 9, 4, 30
CONTRACT = """format = 1
[thresholds]
warn = 1.0
fail = 1.0
[text]
mojibake = true
[schema]
required = ["text"]
[schema.properties]
text = { type = "string" }
label = { type = "string" }
"""
# What must be there before a page is looked at.
READY = {
    "failures": ".spark svg",
    "problem": "section[aria-label^='Answer ']",
    "review": ".queue button",
    "learning": ".picture svg",
    "data": "main tbody tr",
    "dataset": "section[aria-label^='Row ']",
    "refused": "section[aria-label^='Row ']",
}
N_PROBLEMS = 2


def ingest(home, name, rows, *, status=0, contract=CONTRACT):
    file, terms = home / f"{name}.jsonl", home / f"{name}.toml"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    terms.write_text(contract)
    ran = run(home, "data", "ingest", name, str(file), "--contract", str(terms))
    assert ran.returncode == status, ran


def notes(numbers):
    good = [{"text": f"Note {i} about the harbour", "label": "ab"[i % 2]} for i in numbers]
    broken = [{"text": f"caf\u00c3\u00a9 number {i}", "label": "a"} for i in range(7)]
    return good + broken + [{"text": i, "label": HOSTILE} for i in range(3)]


def ask_and_fail(server):
    for i in range(N_CUT):
        assert chat(server, f"Recite all {i} verses of the ballad {HOSTILE}", max_tokens=4).status == 200
    for i in range(N_DISLIKED):
        answer = chat(server, f"When does the museum of trams open on day {i} of the year?")
        rated = {"request_id": answer.json["id"], "rating": False, "comment": HOSTILE}
        assert server.post("/v1/feedback", rated).status == 201
    for i in range(N_GOOD):
        assert chat(server, f"Greetings, number {i * 7919}.").status == 200


def problems(server):
    return server.get("/ops/v1/failures").json["data"]


def failures(server):
    return {one["fingerprint"]: one for one in problems(server)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("loop")
    server = Server(home, "--model", "placeholder:mode=echo")
    ingest(home, "notes", notes(range(40)))
    ingest(home, "notes", notes(range(2, 50)))
    ingest(home, "traffic", [{"text": f"Asked {i}", "label": "c" if i else "a"} for i in range(20)])
    strict = CONTRACT.replace("1.0", "0.05")
    ingest(home, "refused", [{"text": i} for i in range(20)], status=1, contract=strict)
    ask_and_fail(server)
    wanted = {"truncated": N_CUT, "disliked": N_DISLIKED}
    until(lambda: {name: one["n_failures"] for name, one in failures(server).items()}, lambda found: found == wanted, 120)
    added = run(home, "fix", "add", failures(server)["truncated"]["cluster"], "--note", f"longer answers {HOSTILE}", "--json")
    assert added.returncode == 0, added
    for i in range(20):
        assert chat(server, f"More greetings, number {i * 7919}.").status == 200

    def verify():
        return json.loads(run(home, "fix", "verify", json.loads(added.stdout)["id"], "--json").stdout)

    # The loop rests twenty times as long as a reading took.
    assert until(verify, lambda said: said["after_n"] >= 20, 120)["before_failed"] == N_CUT
    yield server
    assert server.stop() == 0


def path_of(name, server):
    if name == "problem":
        return f"failures/{failures(server)['truncated']['cluster']}"
    return {"dataset": "data/notes", "refused": "data/refused"}.get(name, name)


def reviewed(server, request_id):
    """What was said of a failure, as the terminal has it."""
    rows = json.loads(run(server.home, "failures", "list", "--limit", "100", "--json").stdout)
    return next(row for row in rows if row["request_id"] == request_id)


def give_back(page, server):
    """Ends the leases of a page without a name; returns whose they were."""
    own = page.evaluate("() => sessionStorage.getItem('lastmile-reviewer-own')")
    assert server.post("/ops/v1/review/give-back", {"reviewer": own}).status == 200
    return own


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_every_page_is_quiet_fits_and_is_accessible(browser, server, width, scheme):  # noqa: F811
    watched = Watched(browser, server.url, width=width, scheme=scheme)
    for name, ready in READY.items():
        watched.go(path_of(name, server))
        # Attached and not visible: on a narrow page it lies below.
        watched.page.wait_for_selector(ready, state="attached")
        assert watched.page.locator("main img, main script").count() == 0
        watched.check()
        watched.shoot(f"{name}-{width}-{scheme}")
    assert watched.page.evaluate("() => window.pwned") is None
    give_back(watched.page, server)
    watched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_where_there_is_nothing_a_command_says_what_to_do(browser, tmp_path, scheme):  # noqa: F811
    server = Server(tmp_path, "--model", "placeholder:mode=echo")
    watched = Watched(browser, server.url, width=360, scheme=scheme)
    page = watched.page
    for name, command in [
        ("failures", "lastmile fix add CLUSTER"),
        ("review", "/v1/feedback"),
        ("learning", "/v1/feedback"),
        ("data", "lastmile data ingest rows rows.jsonl --contract rows.toml"),
    ]:
        watched.go(name)
        page.locator("code.command", has_text=command).first.wait_for()
        watched.check()
        watched.shoot(f"empty-{name}-360-{scheme}")
    watched.close()
    assert server.stop() == 0


def test_failures_have_ranks_trends_examples_and_evidence(browser, server):  # noqa: F811
    found = failures(server)
    assert [one["rank"] for one in problems(server)] == list(range(1, N_PROBLEMS + 1))
    assert sum(found["truncated"]["trend"]) == N_CUT
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("failures")
    row = page.get_by_role("row", name=re.compile("truncated"))
    row.wait_for()
    assert row.get_by_role("img", name=re.compile("^Trend of ")).count() == 1
    fixes = page.get_by_role("region", name="Fixes").first
    fixes.locator(".picture svg").wait_for()
    evidence = fixes.get_by_role("row", name=re.compile("longer answers"))
    now = server.get("/ops/v1/fixes").json["data"][0]["now"]
    assert now["verdict"] in evidence.inner_text() and f"({N_CUT} of {now['before_n']})" in evidence.inner_text()
    assert fixes.locator("code.command", has_text="lastmile fix verify f").count() == 1
    row.get_by_role("link").click()
    page.get_by_role("heading", name="truncated", level=1).wait_for()
    examples = page.locator("section[aria-label^='Answer ']")
    examples.first.wait_for()
    assert examples.count() == 5 and "ballad" in examples.first.inner_text()
    page.get_by_role("button", name="More examples").click()
    page.wait_for_function(f"() => document.querySelectorAll(\"section[aria-label^='Answer ']\").length === {N_CUT}")
    watched.check()
    watched.close()


def test_failures_are_judged_by_keys(browser, server):  # noqa: F811
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("review")
    current = page.locator(".queue button[aria-current]")
    current.wait_for()
    queue = page.locator(".queue button")
    assert queue.count() == 5 and queue.first.get_attribute("aria-current") == "true"

    def shown():
        href = page.locator("section.card").get_by_role("link", name="The request").get_attribute("href")
        return href.split("/")[-1]

    first = shown()
    page.keyboard.press("j")
    page.wait_for_function("() => document.querySelectorAll('.queue button')[1].getAttribute('aria-current') === 'true'")
    assert shown() != first
    # Who reads by ear is where the failure is.
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')").startswith("Failure 2 of 5")
    page.keyboard.press("k")
    assert shown() == first

    page.keyboard.press("a")
    page.get_by_text(re.compile("accepted as a failure")).wait_for()
    assert reviewed(server, first)["verdict"] == "accepted"
    page.keyboard.press("u")
    page.get_by_text(re.compile("waits for a verdict again")).wait_for()
    assert reviewed(server, first)["verdict"] is None and shown() == first

    page.keyboard.press("t")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Tag", exact=True).fill("odd")
    watched.check()
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(": tagged")).wait_for()
    page.get_by_text("odd", exact=True).wait_for()

    page.keyboard.press("c")
    dialog.get_by_label("Answer", exact=True).fill("All the verses.")
    dialog.get_by_role("button", name="Correct").click()
    page.get_by_text(re.compile(": corrected")).wait_for()
    assert reviewed(server, first)["correction"] == "All the verses."

    second = shown()
    page.locator("#reviewer").press_sequentially("arc")
    page.get_by_label("Judge by keys").uncheck()
    page.keyboard.press("r")
    assert shown() == second and reviewed(server, second)["verdict"] is None
    page.get_by_label("Judge by keys").check()
    page.keyboard.press("r")
    page.get_by_text(re.compile(": rejected")).wait_for()
    watched.check()
    give_back(page, server)
    watched.close()


def test_two_reviewers_have_nothing_in_common(browser, server):  # noqa: F811
    mine = server.post("/ops/v1/review/lease", {"reviewer": "ann", "n": 2}).json["data"]
    mine = {one["request_id"] for one in mine}
    watched = Watched(browser, server.url, width=360)
    page = watched.page
    watched.go("review")
    page.locator(".queue button").first.wait_for()
    # Nobody said who this is, and there are no keys.
    own = give_back(page, server)
    assert re.fullmatch("panel-[0-9a-f]{8}", own) and page.locator("#reviewer").input_value() == own
    other = Watched(browser, server.url)
    other.go("review")
    other.page.locator(".queue button").first.wait_for()
    assert give_back(other.page, server) != own
    other.close()
    page.locator("#reviewer").fill("bob")
    page.get_by_role("button", name="Review as").click()
    page.get_by_text("You review as bob.").wait_for()
    theirs = {one["request_id"] for one in server.post("/ops/v1/review/lease", {"reviewer": "bob"}).json["data"]}
    assert mine and not mine & theirs
    page.get_by_role("button", name="Give back").click()
    page.get_by_text(re.compile(r"are others' to review")).wait_for()
    page.get_by_role("button", name="Review again").wait_for()
    watched.check()
    watched.close()
    for reviewer in ["ann", "bob"]:
        assert server.post("/ops/v1/review/give-back", {"reviewer": reviewer}).status == 200


def test_learning_is_drawn_and_listed(browser, server):  # noqa: F811
    watched = Watched(browser, server.url, width=768)
    page = watched.page
    watched.go("learning")
    for name in [r"^From failure to verified fix \(", "^From feedback to verified fix", "per week$"]:
        page.get_by_role("img", name=re.compile(name)).wait_for()
    weeks = page.get_by_role("region", name="Weeks", exact=True)
    assert weeks.locator("tbody tr").count() == 8
    # A week may just have ended.
    failed = [int(weeks.locator("tbody tr").nth(i).locator("td").nth(1).inner_text()) for i in range(2)]
    assert sum(failed) >= N_CUT
    watched.check()
    watched.close()


def test_a_dataset_shows_its_versions_its_quarantine_and_what_it_lacks(browser, server):  # noqa: F811
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("data")
    page.locator("tbody tr").first.wait_for()
    names = page.locator("tbody tr td:first-child").all_inner_texts()
    assert names == ["notes", "refused", "traffic"]
    page.get_by_role("link", name="notes").click()
    page.get_by_role("heading", name="notes", level=1).wait_for()
    log = page.get_by_role("region", name="Versions", exact=True)
    log.wait_for()
    assert log.locator("tbody tr").count() == 2

    page.get_by_role("button", name="Compare").click()
    page.get_by_text(re.compile("10 rows added, 2 removed, 38 the same")).wait_for()
    assert "Note 40 about" in page.get_by_role("region", name="Added rows").inner_text()

    rows = page.locator("section[aria-label^='Row ']")
    rows.first.wait_for()
    # The most frequent rule is shown first, five of its seven rows.
    assert rows.count() == 5
    assert "Proposed repair: mojibake undone" in rows.first.inner_text() and "caf\u00e9 number" in rows.first.inner_text()
    page.locator("code.command", has_text="lastmile quarantine repair notes --rule mojibake").wait_for()
    page.get_by_role("button", name="More rows").click()
    page.get_by_text("7 rows shown.").wait_for()
    page.get_by_label("Rule", exact=True).select_option("schema:type")
    page.get_by_text("3 rows shown.").wait_for()
    assert "No repair is proposed." in rows.first.inner_text() and HOSTILE.split()[0] in rows.first.inner_text()

    page.get_by_label("Columns").fill("label")
    page.get_by_label("Beside the dataset").select_option("traffic")
    page.get_by_role("button", name="Count").click()
    page.get_by_text(re.compile("3 kinds of rows. 1 of them are lacking")).wait_for()
    kinds = page.get_by_role("region", name="Kinds of rows").locator("tbody tr")
    assert kinds.first.inner_text().split()[0] == "c" and "lacking" in kinds.first.inner_text()
    page.get_by_role("img", name="Share of rows").wait_for()
    watched.check()
    watched.close()


def test_the_routes_of_datasets_page_and_refuse_by_name(server):
    first = server.get("/ops/v1/datasets?limit=2").json
    assert [one["name"] for one in first["data"]] == ["notes", "refused"] and first["next"] == "refused"
    rest = server.get(f"/ops/v1/datasets?after={first['next']}").json
    assert [one["name"] for one in rest["data"]] == ["traffic"] and rest["next"] is None

    newest = server.get("/ops/v1/datasets/notes?limit=1").json
    assert (newest["versions"][0]["rows_published"], newest["versions"][0]["rows_quarantined"]) == (48, 10)
    older = server.get(f"/ops/v1/datasets/notes?before={newest['next']}").json
    assert [one["version"] for one in older["versions"]] == [newest["versions"][0]["parent"]]
    assert older["next"] is None

    path = "/ops/v1/datasets/notes/quarantine"
    page = server.get(f"{path}?rule=mojibake&limit=4").json
    more = server.get(f"{path}?rule=mojibake&from={page['next']}").json
    ids = [one["id"] for one in page["data"] + more["data"]]
    assert len(set(ids)) == len(ids) == 7 and more["next"] is None
    of_old = server.get(f"{path}?version={older['versions'][0]['version'][:10]}&limit=50").json
    assert len(of_old["data"]) == 10

    for asked, status, said in [
        ("notes/diff?from=zz", 404, "versions of dataset notes"),
        ("nothing", 404, "no dataset nothing"),
        ("refused/diff", 404, "published version"),
        ("notes/coverage?traffic=nothing", 404, "no dataset nothing"),
        ("notes/quarantine?limit=51", 400, "from 1 to 50"),
        ("notes?mood=1", 400, "mood"),
    ]:
        answer = server.get(f"/ops/v1/datasets/{asked}")
        assert answer.status == status and said in answer.json["error"]["message"], (asked, answer.body)
