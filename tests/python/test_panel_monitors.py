"""The pages of monitors and alerts in a real browser, beside a server whose answers are not as usual."""

import re

import pytest
from browser import Watched, why_not
from conftest import Server
from test_experiments import until
from test_monitors import Traffic, begin_within_an_hour
from test_panel import browser, chat  # noqa: F401

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

REFUSAL = "I cannot help with that, sorry about it."
N_LEARNED = 500


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("signals")
    begin_within_an_hour(300)
    server = Server(home, "--model", "placeholder:mode=echo", "--monitor-baseline", str(N_LEARNED))
    traffic = Traffic(server)
    traffic.send(N_LEARNED + 20)
    for _ in range(15):
        traffic.send(10)
        for _ in range(10):
            assert chat(server, REFUSAL).status == 200
    until(lambda: alert_of(server, "refusal"), bool, 20)
    yield server
    assert server.stop() == 0


def alert_of(server, signal):
    opened = server.get("/ops/v1/alerts").json["open"]
    return next((one for one in opened if one["key"] == f"drift placeholder {signal}"), None)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_every_page_is_quiet_fits_and_is_accessible(browser, server, width, scheme):  # noqa: F811
    watched = Watched(browser, server.url, width=width, scheme=scheme)
    for name, ready in [("monitors", ".charts .picture svg"), ("alerts", "li.alert")]:
        watched.go(name)
        watched.page.wait_for_selector(ready, state="attached")
        watched.check()
        watched.shoot(f"{name}-{width}-{scheme}")
    watched.close()


def test_each_signal_that_the_server_has_is_drawn_beside_what_is_usual(browser, server):  # noqa: F811
    shapes = server.get("/ops/v1/monitors/placeholder/signals").json["signals"]
    states = server.get("/ops/v1/monitors").json["data"][0]["signals"]
    assert {one["signal"] for one in shapes} == set(states)
    by_name = {one["signal"]: one for one in shapes}
    assert by_name["refusal"]["usual"]["mean"] < 0.05 and by_name["refusal"]["recent"]["mean"] > 0.3
    tokens = by_name["prompt_tokens"]
    assert tokens["usual"]["p10"] <= tokens["usual"]["p50"] <= tokens["usual"]["p90"]
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("monitors")
    page.wait_for_selector(".charts .picture svg")
    for one in shapes:
        picture = page.get_by_role("region", name=one["signal"], exact=True)
        if not one["groups"]:
            assert picture.count() == 0
            assert one["signal"] in page.get_by_text("No answer of late had a value of").inner_text()
            continue
        assert picture.get_by_role("img", name=one["signal"]).count() == 1, one["signal"]
        assert picture.locator("p", has_text=re.compile("^Usually .* of late .* answers")).count() == 1
    refusal = page.locator(".charts .picture", has_text="refusal").first
    assert refusal.get_by_text("higher than usual").count() == 1
    # By a table, too: what is usual, then the groups.
    refusal.locator("summary").click()
    rows = refusal.locator("tbody tr")
    rows.nth(1).wait_for()
    assert rows.first.inner_text().split()[0] == "usual"
    assert page.get_by_text(re.compile(r"^\d+ not as usual$")).count() == 1
    refusal.get_by_role("link", name="See the alert").click()
    page.get_by_role("heading", name="Alerts", level=1).wait_for()
    watched.check()
    watched.close()


def test_a_new_signal_of_the_server_is_shown_without_being_known(browser, server):  # noqa: F811
    spread = {"n": 20, "mean": 3.0, "p10": 1.0, "p50": 3.0, "p90": 5.0}
    group = spread | {"from_ms": 1_790_000_000_000, "to_ms": 1_790_000_060_000}
    hostile = "<b>loops</b>"
    shape = {"signal": hostile, "is_share": False, "usual": spread, "recent": spread, "groups": [group]}
    watched = Watched(browser, server.url)
    page = watched.page

    def answer(route):
        body = server.get("/ops/v1/monitors/placeholder/signals").json
        body["signals"].append(shape)
        route.fulfill(json=body)

    page.route("**/ops/v1/monitors/placeholder/signals", answer)
    watched.go("monitors")
    page.get_by_role("img", name=hostile).wait_for()
    assert page.locator("main b").count() == 0
    watched.check()
    watched.close()


def test_an_alert_says_since_when_and_links_the_requests(browser, server):  # noqa: F811
    alert = alert_of(server, "refusal")
    assert 1 <= len(alert["requests"]) <= 5 and alert["ended_at_ms"] is None
    assert alert["since_ms"] <= server.get("/ops/v1/alerts").json["at_ms"]
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("alerts")
    shown = page.locator("li.alert", has_text="refusal is higher than usual")
    shown.wait_for()
    links = shown.get_by_role("link", name=re.compile("^Request "))
    ids = [one.get_attribute("href").split("/")[-1] for one in links.all()]
    assert ids == alert["requests"]
    assert shown.locator("time").count() == 1
    links.first.click()
    page.wait_for_selector(".picture svg")
    page.get_by_text(REFUSAL).first.wait_for()
    watched.check()
    watched.close()


def test_a_model_is_paused_and_resumed_where_the_server_can(browser, server):  # noqa: F811
    pause = "POST /ops/v1/monitors/{model}/pause"
    index = server.get("/").json
    index["routes"] = sorted({*index["routes"], pause})
    asked, standing = [], server.get("/ops/v1/monitors").json
    watched = Watched(browser, server.url)
    page = watched.page

    def root(route):
        wants_page = "text/html" in route.request.headers["accept"]
        route.continue_() if wants_page else route.fulfill(json=index)

    def act(route):
        asked.append(route.request.url.rsplit("/", 1)[1])
        model = standing["data"][0]
        model["state"] = "paused" if asked[-1] == "pause" else "watching"
        model["signals"] = {one: "paused" if asked[-1] == "pause" else "ok" for one in model["signals"]}
        route.fulfill(json={"model": "placeholder", "state": model["state"]})

    page.route(f"{server.url}/", root)
    page.route("**/ops/v1/monitors", lambda route: route.fulfill(json=standing))
    for verb in ["pause", "resume"]:
        page.route(f"**/ops/v1/monitors/placeholder/{verb}", act)
    watched.go("monitors")
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("It is paused.").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("It is watching.").wait_for()
    page.get_by_role("button", name="Pause").wait_for()
    assert asked == ["pause", "resume"]
    watched.check()
    watched.close()


def test_what_is_over_is_past(browser, server):  # noqa: F811
    for _ in range(10):
        assert chat(server, "too long", max_tokens=10_000_000).status == 400

    def failing(which):
        found = server.get("/ops/v1/alerts").json[which]
        return [one for one in found if "of requests fail" in one["what"]]

    until(lambda: failing("open"), bool, 15)
    # Rates are those of ten seconds.
    past = until(lambda: failing("past"), bool, 40)[0]
    assert past["ended_at_ms"] > past["since_ms"] and not failing("open")
    watched = Watched(browser, server.url, width=360)
    watched.go("alerts")
    row = watched.page.get_by_role("row", name=re.compile("of requests fail"))
    row.wait_for()
    watched.check()
    watched.close()


def test_what_is_usual_is_learned_anew_when_somebody_says_so_twice(browser, server):  # noqa: F811
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("monitors")
    page.get_by_role("button", name="Learn anew").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert server.get("/ops/v1/monitors").json["data"], "nothing was done"
    page.get_by_role("button", name="Learn anew").click()
    page.get_by_role("dialog").get_by_role("button", name="Learn anew").click()
    page.get_by_text("No model was asked yet").wait_for()
    assert chat(server, "hello").status == 200
    page.get_by_text(re.compile("learning: 1 of 500 answers")).wait_for()
    watched.check()
    watched.close()
