#!/usr/bin/env python3
"""Opens a report in a real browser and checks what a user would see.

    browser.py CHROMEDRIVER CHROMIUM PAGE SHOTS

Drives headless Chromium by WebDriver, with the standard library only. Checks that charts are drawn,
that labels do not lie on each other, that pointing at a chart tells something, that a switched-off
series is gone, that zooming and the theme work, that nothing is loaded and nothing goes to the
console. Writes screenshots into SHOTS: in both themes, 1400 and 420 pixels wide, and of the page's
top. Ends with an error at the first check that fails.
"""

import base64
import http.client
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
WIDTHS = [1400, 420]
THEMES = ["light", "dark"]
# What the README shows of a page.
TOP = 1362
START_SECONDS = 60

# Pairs of texts of one chart that cover each other by more than a sliver, and texts cut by its edge.
OVERLAPS = """
const bad = [];
for (const svg of document.querySelectorAll(".chart")) {
  if (!svg.checkVisibility()) continue;
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].filter((t) => t.textContent.trim() && t.checkVisibility());
  const boxes = texts.map((t) => [t.textContent.trim(), t.getBoundingClientRect()]);
  boxes.forEach(([text, a], i) => {
    if (a.left < box.left - 2 || a.right > box.right + 2) bad.push(`${text} leaves ${svg.ariaLabel}`);
    for (const [other, b] of boxes.slice(i + 1)) {
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (width > 2 && height > 4) bad.push(`${text} | ${other} in ${svg.ariaLabel}`);
    }
  });
}
return bad;
"""


class Browser:
    """A session of WebDriver."""

    def __init__(self, driver, binary, profile):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [driver, f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.wait_for_driver()
        options = {"binary": shutil.which(binary), "args": [*FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.request("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.session = f"/session/{session['sessionId']}"

    def wait_for_driver(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if self.request("GET", "/status")["ready"]:
                    return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("chromedriver does not answer")

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        value = json.loads(connection.getresponse().read())["value"]
        connection.close()
        if isinstance(value, dict) and "error" in value:
            raise SystemExit(f"{method} {path}: {value['error']}: {value['message']}")
        return value

    def post(self, path, **body):
        return self.request("POST", self.session + path, body)

    def run(self, script, *arguments):
        return self.post("/execute/sync", script=script, args=list(arguments))

    def devtools(self, command, **parameters):
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def resize(self, width, height=1000):
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def theme(self, theme):
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path, **clip):
        clip = {"clip": {**clip, "scale": 1}} if clip else {}
        picture = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, format="png", **clip)
        path.write_bytes(base64.b64decode(picture["data"]))

    def pointer(self, *actions):
        """Moves the mouse: `(x, y)` in the window, or `down` and `up`."""
        steps = []
        for action in actions:
            if isinstance(action, str):
                steps.append({"type": f"pointer{action.capitalize()}", "button": 0})
            else:
                x, y = (round(place) for place in action)
                steps.append({"type": "pointerMove", "duration": 30, "x": x, "y": y})
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self.post("/actions", actions=[{**mouse, "actions": steps}])

    def end(self):
        self.request("DELETE", self.session)
        self.process.terminate()
        self.process.wait()


def check(holds, what):
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def box(browser, selector):
    """Where the first such element lies in the window, after it was scrolled there."""
    return browser.run(
        """const element = document.querySelector(arguments[0]);
        element.scrollIntoView({ block: "center", behavior: "instant" });
        const { x, y, width, height } = element.getBoundingClientRect();
        return { x, y, width, height };""",
        selector,
    )


def drawn(browser):
    charts = browser.run(
        """return [...document.querySelectorAll(".chart")].filter((c) => c.checkVisibility()).map((c) => {
          const { width, height } = c.getBoundingClientRect();
          return [c.ariaLabel, width, height, c.querySelectorAll("path,rect").length];
        });"""
    )
    check(len(charts) > 3, f"{len(charts)} charts are drawn")
    for label, width, height, marks in charts:
        if min(width, height) < 40 or marks < 2:
            raise SystemExit(f"FAILED: {label} is {width} x {height} with {marks} marks")
    overlaps = browser.run(OVERLAPS)
    check(not overlaps, f"no labels overlap: {overlaps[:5]}")
    wide = browser.run("return document.documentElement.scrollWidth - innerWidth")
    check(wide <= 0, "the page is no wider than the window")


def told(browser):
    return browser.run('const tip = document.getElementById("tip"); return tip.hidden ? "" : tip.innerText;')


def hover(browser):
    plot = box(browser, "#latency .plot .back")
    browser.pointer((plot["x"] + 0.9 * plot["width"], plot["y"] + 0.95 * plot["height"]))
    text = told(browser)
    check("tokens" in text and "×" in text, f"pointing at a chart lists its kernels: {text[:60]!r}")
    cell = box(browser, "#regret .cell rect")
    browser.pointer((cell["x"] + cell["width"] / 2, cell["y"] + cell["height"] / 2))
    text = told(browser)
    check("token" in text and "next" in text, f"pointing at a cell explains it: {text[:60]!r}")
    point = box(browser, "#decisions .zoomed .serves")
    browser.pointer((point["x"] + point["width"] / 2, point["y"] + point["height"] / 2))
    text = told(browser)
    check("expected" in text, f"pointing at a decision explains it: {text[:60]!r}")
    browser.pointer((3, 3))
    check(told(browser) == "", "pointing elsewhere ends it")


def toggle(browser):
    shown = """return [...document.querySelectorAll("#latency .s-base")]
        .filter((series) => getComputedStyle(series).display !== "none").length"""
    before = browser.run(shown)
    switch = box(browser, ".legend .s-base")
    place = (switch["x"] + 8, switch["y"] + switch["height"] / 2)
    browser.pointer(place, "down", "up")
    check(before > 0 and browser.run(shown) == 0, f"switching a series off hides its {before} elements")
    browser.pointer(place, "down", "up")
    check(browser.run(shown) == before, "switching it on shows them")


def zoom(browser):
    state = 'return document.querySelector("#latency .zoomed").getAttribute("transform") || ""'
    plot = box(browser, "#latency .plot .back")

    def at(x, y):
        return plot["x"] + x * plot["width"], plot["y"] + y * plot["height"]

    browser.pointer(at(0.3, 0.3), "down", at(0.5, 0.5), at(0.8, 0.8), "up")
    check("matrix(2" in browser.run(state), f"dragging zooms: {browser.run(state)}")
    browser.pointer(at(0.5, 0.5), "down", "up", "down", "up")
    check("matrix(1 0 0 1 0 0)" in browser.run(state), "a double click goes back")


def themes(browser):
    colour = "return getComputedStyle(document.body).backgroundColor"
    browser.theme("light")
    light = browser.run(colour)
    browser.theme("dark")
    dark = browser.run(colour)
    check(light != dark, f"the system's theme is followed: {light}, {dark}")
    button = box(browser, "#theme")
    browser.pointer((button["x"] + 5, button["y"] + 5), "down", "up")
    check(browser.run(colour) == light, "the button changes the theme")
    browser.pointer((button["x"] + 5, button["y"] + 5), "down", "up")
    browser.run("delete document.documentElement.dataset.theme")


def main():
    driver, binary, page, shots = sys.argv[1:]
    shots = pathlib.Path(shots)
    shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(driver, binary, profile)
        try:
            browser.post("/url", url=pathlib.Path(page).resolve().as_uri())
            for width in WIDTHS:
                browser.resize(width)
                for theme in THEMES:
                    browser.theme(theme)
                    browser.screenshot(shots / f"{width}-{theme}.png")
                    if width == WIDTHS[0]:
                        browser.screenshot(shots / f"top-{theme}.png", x=0, y=0, width=width, height=TOP)
                browser.theme("light")
                drawn(browser)
            browser.resize(WIDTHS[0])
            hover(browser)
            toggle(browser)
            zoom(browser)
            themes(browser)
            loaded = browser.run('return performance.getEntriesByType("resource").map((e) => e.name)')
            check(not loaded, f"nothing is loaded: {loaded}")
            console = browser.post("/se/log", type="browser")
            check(not console, f"nothing goes to the console: {console}")
        finally:
            browser.end()


if __name__ == "__main__":
    main()
