"""The playground shades tokens by their probability, and says how sure the model was, in a real browser."""

import re

import pytest
from browser import Watched, why_not
from conftest import Server, run
from test_confidence import ask, judge
from test_panel import browser  # noqa: F401

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Its tokens are drawn at random, so that some are likelier than others; answers end at their limit, not by luck."""
    server = Server(tmp_path_factory.mktemp("sure"), "--model", "placeholder:mean_tokens=1048576")
    yield server
    assert server.stop() == 0


def say(page, text):
    page.get_by_label("Most tokens").fill("60")
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_tokens_are_shaded_and_their_probabilities_can_be_read(browser, server, width, scheme):  # noqa: F811
    watched = Watched(browser, server.url, width=width, scheme=scheme)
    page = watched.page
    watched.go("playground")
    legend = page.get_by_role("list", name="How tokens are shaded")
    assert legend.locator("li").count() == 4
    say(page, f"tell me {width} {scheme}")
    answer = page.locator(".talk li.assistant")
    answer.get_by_text("not calibrated").wait_for()
    text = answer.locator(".text")
    tokens = text.locator("span.token")
    n = tokens.count()
    assert n > 10, "each token that says something is a span"
    assert "".join(tokens.all_text_contents()) == text.text_content(), "no text is lost or twice"
    # Each says its probability without a color, and the shading fits it.
    for token in tokens.all():
        title, kind = token.get_attribute("title"), token.get_attribute("class")
        said = re.fullmatch(r"(?:under )?([\d.]+) % likely", title)
        assert said, title
        limits = {"token": (90, 100), "token t1": (50, 90), "token t2": (20, 50), "token t3": (0, 20)}[kind]
        assert limits[0] - 1 <= float(said[1]) <= limits[1] + 1, (title, kind)
    assert text.locator(".t3").count() > 0, "what is drawn of many words is unlikely"
    line = text.locator(".t3").first.evaluate("token => getComputedStyle(token).borderBottomStyle")
    assert line == "double"
    answer.get_by_text("Probability of each token").click()
    answer.locator("tbody tr").nth(n - 1).wait_for()
    assert "least sure of" in answer.inner_text()
    watched.check()
    watched.shoot(f"sureness-{width}-{scheme}")
    watched.close()


def test_who_does_not_want_it_asks_for_nothing(browser, server):  # noqa: F811
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("playground")
    page.get_by_label("Show how sure the model is").uncheck()
    with page.expect_request("**/v1/chat/completions") as sent:
        say(page, "be brief")
    assert not {"logprobs", "confidence"} & set(sent.value.post_data_json)
    answer = page.locator(".talk li.assistant")
    answer.get_by_text("tokens/s").wait_for()
    assert answer.locator("span.token").count() == 0 and "calibrated" not in answer.inner_text()
    watched.check()
    watched.close()


def test_what_was_learned_is_said_of_the_answer(browser, server):  # noqa: F811
    for i in range(120):
        request = ask(server, f"word {i}", confidence=True, max_tokens=6)["id"]
        judge(server, request, i % 3 != 0)
    fitted = run(server.home, "confidence", "fit")
    assert fitted.returncode == 0, fitted
    watched = Watched(browser, server.url)
    page = watched.page
    watched.go("playground")
    say(page, "how sure are you?")
    answer = page.locator(".talk li.assistant")
    answer.get_by_text(re.compile(r"confidence \d+ %: about so many of \d+ judged answers")).wait_for()
    # It is still there after another page was looked at.
    watched.go("now")
    watched.go("playground")
    answer.get_by_text(re.compile(r"confidence \d+ %")).wait_for()
    assert answer.locator("span.token").count() > 10
    watched.check()
    watched.close()
