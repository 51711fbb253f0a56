"""The dashboard in a real browser: every page, three widths, light and dark, keys, and hostile text."""

import re
import threading

import pytest
from browser import Watched, chromium, why_not
from conftest import Server
from test_experiments import until
from test_keys import make_key

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
PAGES = ["now", "requests", "request", "models", "experiments", "experiment", "playground"]
# The console tells of each answer with an error status; those are asked for here.
REFUSALS = r"Failed to load resource: the server responded with a status of (401|403)"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


def chat(server, content, **fields):
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 64} | fields
    return server.post("/v1/chat/completions", body)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that has something to show."""
    home = tmp_path_factory.mktemp("panel")
    # Guesses would be right all the time, and an answer of many seconds soon over.
    server = Server(home, "--model", "placeholder:mode=echo,delay_us=3000", "--speculate", "off")
    for i in range(30):
        assert chat(server, f"Question {i}: why is the sky blue at noon and red at dusk?").status == 200
    assert chat(server, HOSTILE).status == 200
    assert chat(server, "too long", max_tokens=10_000_000).status == 400
    experiment = {
        "name": "shown", "owner": "ana", "reason": HOSTILE, "model": "placeholder", "from": "50",
        "candidate": {"params": {"top_k": 3}}, "goal": {"metric": "not_failure"},
        "guardrails": [{"metric": "e2e_ms", "quantile": 0.9, "max_ratio": 9.0}],
    }
    assert server.post("/ops/v1/experiments", experiment).status == 201
    stop = threading.Event()

    def keep_asking():
        while not stop.is_set():
            chat(server, "Tell me about the tides and the moon. " * 4)

    askers = [threading.Thread(target=keep_asking, daemon=True) for _ in range(3)]
    for asker in askers:
        asker.start()
    yield server
    stop.set()
    for asker in askers:
        asker.join()
    assert server.stop() == 0


def newest(server, **query):
    pairs = "&".join(f"{name}={value}" for name, value in query.items())
    return server.get(f"/v1/requests?{pairs}").json["data"]


def path_of(name, server):
    if name == "experiment":
        return "experiments/shown"
    if name != "request":
        return name
    return f"requests/{newest(server, status='stop', limit=1)[0]['id']}"


# What must be there before a page is looked at.
READY = {
    "now": ".charts .picture:nth-of-type(6) svg",
    "requests": "tbody tr",
    "request": ".picture svg",
    "models": ".picture svg",
    "experiments": "tbody tr",
    "experiment": ".picture svg",
    "playground": "#pg-model option",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_every_page_is_quiet_fits_and_is_accessible(browser, server, width, scheme):
    watched = Watched(browser, server.url, width=width, scheme=scheme)
    for name in PAGES:
        watched.go(path_of(name, server))
        # Attached and not visible: on a narrow page it lies below.
        watched.page.wait_for_selector(READY[name], state="attached")
        watched.check()
        watched.shoot(f"{name}-{width}-{scheme}")
    watched.close()


def test_numbers_move_and_charts_have_tables(browser, server):
    watched = Watched(browser, server.url)
    watched.go("now")
    page = watched.page
    page.wait_for_function(
        "() => parseInt(document.querySelector('.tile .value').textContent.replace(',', '')) > 0"
    )
    state = page.locator(".state")
    assert state.inner_text() in {"All is well", "Needs a look"}
    page.wait_for_selector(READY["now"])
    for title in ["Tokens per second", "Time to first token (ms)", "KV cache in use (%)"]:
        assert page.get_by_role("img", name=title, exact=True).count() == 1, title
    page.locator("summary").first.click()
    rows = page.locator(".picture").first.locator("tbody tr")
    rows.first.wait_for()
    assert page.get_by_text("context_length_exceeded").count() >= 1, "the last error is shown"
    watched.check()
    watched.close()


def test_an_experiment_is_shown_and_moved(browser, server):
    spec = {
        "name": "moved", "owner": "ana", "reason": "a look", "model": "nobody asks for this",
        "candidate": {"params": {"top_k": 3}}, "goal": {"metric": "not_failure"},
    }
    assert server.post("/ops/v1/experiments", spec).status == 201
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("experiments")
    page.get_by_role("link", name="moved").click()
    page.get_by_role("img", name="Gain of not_failure (points)").wait_for()
    page.get_by_role("button", name="rollback").click()
    # It needs a reason.
    assert server.get("/ops/v1/experiments/moved").json["status"] == "running"
    page.get_by_label("Why").fill("seen enough")
    page.get_by_role("button", name="rollback").click()
    page.get_by_role("cell", name="from shadow: seen enough").wait_for()
    assert server.get("/ops/v1/experiments/moved").json["status"] == "rolled_back"
    watched.check()
    watched.close()


def test_requests_are_found_and_one_is_shown(browser, server):
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("requests")
    page.get_by_label("Text").fill("question 17:")
    page.get_by_role("button", name="Search").click()
    page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 1")
    assert "Question 17" in page.locator("tbody tr").inner_text()
    page.locator("tbody tr a").click()
    page.wait_for_selector(".picture svg")
    identity = newest(server, text="question%2017:")[0]["id"]
    assert page.locator(".command").inner_text() == f"lastmile replay {identity}"
    for words in ["Question 17: why is the sky blue", "queue", "decode", "Prompt tokens"]:
        assert page.get_by_text(words).count() >= 1, words
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == f"lastmile replay {identity}"
    # More digits than a number of the browser's has.
    assert chat(server, "which seed is mine?", seed=18446744073709551557).status == 200
    until(lambda: newest(server, text="which%20seed"), bool, 20)
    watched.go("requests")
    page.get_by_label("Text").fill("which seed is mine?")
    page.get_by_role("button", name="Search").click()
    page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 1")
    page.locator("tbody tr a").click()
    page.get_by_text("18446744073709551557", exact=True).wait_for()
    watched.go("requests")
    page.get_by_label("Text").fill("no such words in here")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("No request is like this.").wait_for()
    page.get_by_label("Text").fill("")
    page.get_by_label("Status").select_option("error")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("context_length_exceeded").first.wait_for()
    watched.check()
    watched.close()


def test_text_of_requests_stays_text(browser, server):
    watched = Watched(browser, server.url)
    page = watched.page
    identity = newest(server, text="onerror")[0]["id"]
    for path in ["requests?text=onerror", f"requests/{identity}"]:
        watched.go(path)
        page.get_by_text("onerror=").first.wait_for()
        assert page.locator("main img, main script").count() == 0
    watched.go("playground")
    page.get_by_label("Message", exact=True).fill(HOSTILE)
    page.keyboard.press("Enter")
    page.locator(".talk li.assistant a").wait_for()
    assert HOSTILE in page.locator(".talk li.user .text").inner_text()
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("() => window.pwned") is None
    watched.check()
    watched.close()


def test_the_playground_streams_stops_and_links_its_request(browser, server):
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("playground")
    page.get_by_label("Message", exact=True).fill("one two three four five")
    page.keyboard.press("Enter")
    answer = page.locator(".talk li.assistant").first
    answer.get_by_text("tokens/s").wait_for()
    assert "first token" in answer.inner_text()
    assert "five" in answer.locator(".text").inner_text()
    # An answer of many seconds is stopped early.
    page.get_by_label("Most tokens").fill("5000")
    page.get_by_label("Message", exact=True).fill("count " * 400)
    page.get_by_role("button", name="Send").click()
    second = page.locator(".talk li.assistant").nth(1)
    page.wait_for_function(
        "() => document.querySelectorAll('.talk li.assistant .text')[1]?.textContent.length > 10"
    )
    page.get_by_role("button", name="Stop").click()
    second.get_by_text("stopped").wait_for()
    assert page.get_by_role("button", name="Stop").is_disabled()
    answer.get_by_role("link", name="this request").click()
    page.wait_for_selector(".picture svg")
    page.get_by_text("one two three four five").first.wait_for()
    watched.check()
    watched.close()


# As the flight recorder tells it.
TIMELINE = {
    "request_id": "", "model": "placeholder", "arrived_at_ms": 0.0, "recorded": "whole",
    "answers": [{
        "choice": 0, "state": "ended", "outcome": "stop", "ended_ms": 90.0, "queue_wait_ms": 12.0,
        "ahead": {"n_waiting": 2, "n_running": 3, "requests": [], "n_others": 5},
        "prompt_tokens": 100, "cached_tokens": 32,
        "prefill": [
            {"step": 7, "at_ms": 12.0, "took_ms": 8.0, "start": 32, "n_tokens": 64, "batch": 4},
            {"step": 8, "at_ms": 20.0, "took_ms": 5.0, "start": 96, "n_tokens": 4, "batch": 4},
        ],
        "batch": [1, 3.2, 4], "displaced": [],
        "tokens_ms": [25.0, 30.0, 35.0, 80.0, 85.0, 90.0],
        "largest_gaps": [{"before_token": 3, "at_ms": 80.0, "ms": 45.0, "step": 11,
                          "because": "<b>a prompt</b> of 900 tokens was computed"}],
        "stalls": [], "stored": None,
    }],
}


def test_a_timeline_is_drawn_where_the_server_has_one(browser, server):
    watched = Watched(browser, server.url, width=768)
    page = watched.page
    index = server.get("/").json
    timeline = "GET /v1/requests/{id}/timeline"
    index["routes"] = sorted({*index["routes"], timeline})

    def root(route):
        wants_page = "text/html" in route.request.headers["accept"]
        route.continue_() if wants_page else route.fulfill(json=index)

    page.route(f"{server.url}/", root)
    page.route("**/v1/requests/*/timeline", lambda route: route.fulfill(json=TIMELINE))
    watched.go(path_of("request", server))
    picture = page.get_by_role("region", name="Timeline of answer 0")
    picture.locator("svg").wait_for()
    assert picture.locator("svg > rect.s1").count() == 2, "two chunks of the prompt"
    assert picture.locator("svg > rect.s2").count() == 6, "six tokens"
    picture.locator("summary").click()
    picture.get_by_role("cell", name="before token 3: <b>a prompt</b> of 900 tokens").wait_for()
    assert picture.get_by_text("32 of 100 prompt tokens were cached").count() == 1
    watched.check()
    watched.shoot("timeline-768-light")
    watched.close()


def test_everything_can_be_done_by_keys(browser, server):
    watched = Watched(browser, server.url, width=768)
    page = watched.page
    watched.go("now")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'main'")
    page.get_by_role("link", name="Requests").focus()
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus is seen"
    page.keyboard.press("Enter")
    page.wait_for_selector("tbody tr")
    assert page.title().startswith("Requests")
    assert page.evaluate("() => document.activeElement.id") == "main"
    current = page.locator("nav a[aria-current=page]").inner_text()
    assert current == "Requests"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "text"
    page.keyboard.type("sky")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 30")
    watched.check()
    watched.close()


def test_keys_are_asked_for_and_kept_in_the_tab(browser, tmp_path):
    ops = make_key(tmp_path, "ops", "--scopes", "ops,infer")
    app = make_key(tmp_path, "app")
    server = Server(tmp_path, "--model", "placeholder:mode=echo")
    own = server.client(api_key=app).chat.completions
    own.create(model="placeholder", messages=[{"role": "user", "content": "of the app"}])
    watched = Watched(browser, server.url, forgiven=REFUSALS)
    page = watched.page
    assert server.get("/").status == 401, "only the page is for everybody"
    watched.go("now")
    page.get_by_role("dialog").wait_for()
    watched.check()
    page.get_by_role("dialog").get_by_label("Key").fill(ops)
    page.keyboard.press("Enter")
    page.get_by_text(re.compile("All is well|Needs a look")).wait_for()
    page.wait_for_selector(READY["now"])
    assert page.evaluate("() => [localStorage.length, sessionStorage.length, document.cookie]") == [0, 1, ""]
    watched.go("requests?text=of%20the%20app")
    page.wait_for_selector("tbody tr")
    # The app's key sees its own request, and not the server's numbers.
    page.get_by_role("button", name="API key").click()
    page.get_by_role("dialog").get_by_label("Key").fill(app)
    page.keyboard.press("Enter")
    page.wait_for_selector("tbody tr")
    watched.go("now")
    page.get_by_text(re.compile("scope")).wait_for()
    watched.check()
    watched.close()
    assert server.stop() == 0
