"""Headless Chromium: pages that must stay quiet in the console, and axe-core on each."""

import re
import shutil
from pathlib import Path

from conftest import ROOT

AXE = ROOT / "target" / "node" / "node_modules" / "axe-core" / "axe.min.js"
SHOTS = ROOT / "target" / "screenshots"


def chromium():
    names = ["chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)


def why_not():
    """Why no browser test can run here; None when all is there."""
    if chromium() is None:
        return "NO CHROMIUM IS INSTALLED: the dashboard was not looked at"
    if not AXE.is_file():
        return f"{AXE} IS NOT THERE (npm could not fetch axe-core): the dashboard was not looked at"
    return None


class Watched:
    """A page of a browser. What its console and its scripts complain about is a failure."""

    def __init__(self, browser, url, *, width=1440, scheme="light", forgiven=None):
        self.url, self.forgiven, self.complaints = url, forgiven, []
        height = 900 if width > 500 else 740
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        self.page.on("request", self._asked)

    def _heard(self, message):
        if message.type in {"error", "warning"}:
            if not (self.forgiven and re.search(self.forgiven, message.text)):
                self.complaints.append(f"{message.type}: {message.text}")

    def _asked(self, request):
        if not request.url.startswith((self.url, "data:")):
            self.complaints.append(f"another host was asked: {request.url}")

    def go(self, path):
        self.page.goto(f"{self.url}/#/{path}")
        self.page.wait_for_selector("main h1")

    def check(self):
        """Nothing was complained about, nothing is wider than the window, axe finds nothing bad."""
        assert self.complaints == [], self.complaints
        wide = self.page.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1], f"{self.page.url} scrolls sideways: {wide}"
        # By the debugging protocol, so that the page's own policy need not allow it.
        self.page.evaluate(AXE.read_text() + ";0")
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        bad = [
            f"{one['impact']} {one['id']}: {node['target']} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]
        assert bad == [], "\n".join(bad)

    def shoot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)

    def close(self):
        self.context.close()
