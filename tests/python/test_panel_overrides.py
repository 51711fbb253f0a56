"""The pages of overrides in a real browser: a rule from its first word to its end, and the switches."""

import pytest
from browser import Watched, why_not
from conftest import Server
from test_experiments import until
from test_panel import HOSTILE, browser, chat  # noqa: F401

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

RULES = "/ops/v1/overrides"
CHAT = "/v1/chat/completions"
# The console tells of each answer with an error status; those are asked for here.
REFUSED = r"Failed to load resource: the server responded with a status of 400"


def publish(server, **rule):
    rule = {"owner": "ana", "reason": HOSTILE, "then": {"action": "canned", "text": HOSTILE}} | rule
    assert server.post(f"{RULES}?publish=true", rule).status == 201


def text_of(answer):
    return answer.json["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("overrides"), "--model", "placeholder:mode=echo")
    for i in range(20):
        assert chat(server, f"Question {i}: what does Acme make?").status == 200
    publish(server, id="hostile", when={"prompt": "onerror"})
    publish(server, id="person", priority=5, when={"prompt": "refund"}, then={"action": "human", "deadline": "1h", "text": "later"})
    assert chat(server, f"a refund {HOSTILE}").status == 202
    until(lambda: server.get("/v1/requests?limit=100").json["data"], lambda all: len(all) >= 20, 10)
    yield server
    assert server.stop() == 0


def rule_of(server, name):
    return next((one for one in server.get(RULES).json["rules"] if one["id"] == name), None)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_every_page_is_quiet_fits_and_is_accessible(browser, server, width, scheme):  # noqa: F811
    watched = Watched(browser, server.url, width=width, scheme=scheme)
    page = watched.page
    watched.go("overrides")
    page.get_by_role("region", name="Rules").last.locator("tbody tr").first.wait_for()
    page.get_by_role("button", name="Kill").wait_for()
    page.get_by_text("Write a rule", exact=True).click()
    assert page.locator("main img, main script").count() == 0
    watched.check()
    watched.shoot(f"overrides-{width}-{scheme}")
    page.get_by_role("button", name="Kill").click()
    page.get_by_role("dialog").wait_for()
    watched.check()
    watched.shoot(f"kill-{width}-{scheme}")
    page.keyboard.press("Escape")
    watched.go("overrides/hostile")
    page.get_by_text(HOSTILE).first.wait_for()
    page.get_by_role("button", name="Dry run").wait_for()
    assert page.locator("main img, main script").count() == 0
    watched.check()
    watched.shoot(f"rule-{width}-{scheme}")
    assert page.evaluate("() => window.pwned") is None
    watched.close()


def test_a_rule_is_written_tried_published_hit_and_taken_back(browser, server):  # noqa: F811
    watched = Watched(browser, server.url, width=768, forgiven=REFUSED)
    page = watched.page
    watched.go("overrides")
    page.get_by_text("Write a rule", exact=True).click()
    form = page.get_by_role("form", name="Write a rule")
    form.get_by_label("Id", exact=True).fill("no-acme")
    form.get_by_label("Owner").fill("ana@example.com")
    form.get_by_label("Reason").fill("contract 1234")
    form.get_by_label("Route").select_option(CHAT)
    form.get_by_role("button", name="Save as a draft").click()
    # It has no phrase yet, and the server says which field that is.
    form.get_by_role("alert").get_by_text("then.phrases").wait_for()
    form.get_by_label("Phrases").fill("Acme\nEmca")
    form.get_by_role("button", name="Save as a draft").click()
    page.get_by_role("heading", name="no-acme", level=1).wait_for()
    saved = rule_of(server, "no-acme")
    assert saved["state"] == "draft" and saved["rule"]["when"]["routes"] == [CHAT]
    assert saved["rule"]["then"]["phrases"] == ["Acme", "Emca"]

    page.get_by_role("button", name="Dry run").click()
    told = page.get_by_text("It would have held for")
    told.wait_for()
    # The one besides waits for a person.
    assert "for 20 of 21 answers (95 %)." in told.inner_text()
    assert page.get_by_role("region", name="Dry run").get_by_role("link").count() == 10
    assert "Acme" in text_of(chat(server, "Acme")), "a draft does nothing"

    page.get_by_role("button", name="Publish").click()
    page.get_by_role("dialog", name="Publish no-acme?").get_by_role("button", name="Publish").click()
    page.get_by_text("It is published.").wait_for()
    assert "Acme" not in text_of(chat(server, "what does Acme make?"))
    hits = page.locator(".facts div", has_text="Hits")
    until(hits.inner_text, lambda text: text.split() == ["Hits", "1"], 15)

    page.get_by_role("link", name="All overrides").click()
    page.get_by_role("button", name="Take the last change back").click()
    dialog = page.get_by_role("dialog")
    assert "publish no-acme" in dialog.inner_text(), "what is undone is said before"
    dialog.get_by_role("button", name="Take it back").click()
    assert rule_of(server, "no-acme")["state"] == "published", "a reason is needed"
    dialog.get_by_label("Reason").fill("too broad")
    dialog.get_by_role("button", name="Take it back").click()
    page.get_by_text("Taken back: publish no-acme.").wait_for()
    assert rule_of(server, "no-acme")["state"] == "draft"
    page.get_by_role("cell", name="publish no-acme: too broad").wait_for()
    assert "Acme" in text_of(chat(server, "Acme"))
    watched.check()
    watched.close()


def test_a_rule_is_written_as_text_from_another_one_ended_and_removed(browser, server):  # noqa: F811
    publish(server, id="first", when={"prompt": "first"}, then={"action": "stop", "text": "no"})
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("overrides/first")
    page.get_by_role("link", name="Write another one from it").click()
    text = page.get_by_label("Rule", exact=True)
    text.wait_for()
    assert '"id": "first-2"' in text.input_value() and "null" not in text.input_value()
    text.fill('id = "second"\nowner = "ben"\nreason = "as TOML"\n[then]\naction = "prefix"\ntext = "So: "\n')
    page.get_by_role("button", name="Save as a draft").click()
    page.get_by_role("heading", name="second", level=1).wait_for()
    page.get_by_role("button", name="Remove it").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove it").click()
    page.get_by_role("link", name="first", exact=True).click()
    assert rule_of(server, "second") is None
    page.get_by_role("button", name="End it now").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert rule_of(server, "first")["state"] == "published"
    page.get_by_role("button", name="End it now").click()
    page.get_by_role("dialog").get_by_role("button", name="End it now").click()
    page.get_by_text("It is expired.").wait_for()
    assert rule_of(server, "first")["state"] == "expired"
    watched.check()
    watched.close()


def test_a_route_is_killed_and_everything_pinned_with_a_reason_and_taken_back(browser, server):  # noqa: F811
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("overrides")
    page.get_by_label("Route that answers nothing").select_option("/v1/completions")
    page.get_by_role("button", name="Kill").click()
    dialog = page.get_by_role("dialog", name="Kill /v1/completions?")
    assert page.evaluate("() => document.activeElement.labels[0].textContent") == "Reason"
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.evaluate("() => document.activeElement.textContent") == "Kill", "the focus is back"
    page.keyboard.press("Enter")
    page.keyboard.type("it leaks")
    page.keyboard.press("Enter")
    page.get_by_text("Killed: /v1/completions answers nothing.").wait_for()
    completion = {"prompt": "x", "max_tokens": 1}
    assert server.post("/v1/completions", completion).status == 503
    page.get_by_label("Model or release that answers everything").fill("placeholder")
    page.get_by_role("button", name="Pin").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("the other one drifts")
    page.get_by_role("button", name="Pin it").click()
    page.get_by_text("Pinned: placeholder answers everything.").wait_for()
    for why, undone in [("calm again", "pin placeholder"), ("mended", "kill /v1/completions")]:
        page.get_by_role("button", name="Take the last change back").click()
        page.get_by_role("dialog").get_by_label("Reason").fill(why)
        page.keyboard.press("Enter")
        page.get_by_text(f"Taken back: {undone}.").wait_for()
    assert server.post("/v1/completions", completion).status == 200
    for told in ["Killed:", "Pinned:"]:
        page.get_by_text(told).wait_for(state="detached")
    said = [(one["action"], one["detail"]) for one in server.get(f"{RULES}/audit").json[:4]]
    assert said[0] == ("rollback", "kill /v1/completions: mended")
    assert '"reason":"it leaks"' in said[3][1].replace(": ", ":")
    for why in ["it leaks", "the other one drifts", "pin placeholder: calm again"]:
        assert page.get_by_role("cell", name=why).count() == 1, why
    watched.check()
    watched.close()


def test_who_waits_for_a_person_is_answered(browser, server):  # noqa: F811
    item = chat(server, "another refund").json["id"]
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("overrides")
    form = page.get_by_role("form", name=f"Answer {item}")
    assert "another refund" in form.inner_text()
    form.get_by_label("Answer", exact=True).fill("You get it back.")
    form.get_by_role("button", name="Answer").click()
    form.wait_for(state="detached")
    answered = server.get(f"/v1/overrides/items/{item}").json
    assert (answered["state"], answered["text"]) == ("answered", "You get it back.")
    watched.check()
    watched.close()
