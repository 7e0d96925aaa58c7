#!/usr/bin/env python3
"""A page as its readers see it: in headless Chromium at three widths, in both themes, and on paper.

`problems()` is the whole of it. Chromium is driven over its debugging pipe, without a network or a driver. Flags for
`browser()` give it the network that a test wants.

As a program it takes pictures for the documentation: of the top of each page that its first arguments name, as wide as
a screen and as a phone, into the directory that its last argument names.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bed

WIDTHS = (320, 768, 1280)
THEMES = ("light", "dark")
PICTURED = {1280: 1000, 390: 1000}  # the height by the width, in pixels
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    # nothing is resolved, whatever a page asks for
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe"),
]
# Chromium's pipe is descriptors 3 and 4; subprocess has no way to number them
START = 'read=$1 write=$2; shift 2; exec "$@" 3<&"$read" 4>&"$write"'

# What is wrong with the page as it is shown now: a list of sentences.
LOOK = r"""
(() => {
  const found = [];
  const say = (text, node) =>
    found.push(text + (node ? `: <${node.localName}> ${node.textContent.trim().slice(0, 60)}` : ""));
  const all = selector => [...document.querySelectorAll(selector)];
  const each = (selector, wrong, text) => all(selector).filter(wrong).forEach(node => say(text, node));
  all("details").forEach(node => node.open = true);

  // --- structure
  if (!document.documentElement.lang) say("the page says no language");
  if (!document.title.trim()) say("the page has no title");
  for (const name of ["header", "main", "footer", "h1"])
    if (all(name).length !== 1) say(`not one <${name}>`);
  let level = 0;
  for (const node of all("h1, h2, h3, h4, h5, h6")) {
    const next = Number(node.localName[1]);
    if (next > level + 1) say(`a heading of level ${next} after one of level ${level}`, node);
    level = next;
  }
  const named = id => document.getElementById(id);
  each("script", () => true, "a script");
  each("th:not([scope])", () => true, "a table header without scope");
  each("table", node => !node.caption || !node.querySelector("thead th"), "a table without caption or head");
  each("svg", node => !node.ariaHidden && !node.ariaLabel && !node.querySelector("title"), "a picture without a name");
  each("section", node => !node.hasAttribute("aria-labelledby"), "a section without a name");
  each("[aria-labelledby]", node => !named(node.getAttribute("aria-labelledby")), "a label that is not there");
  each("[href^='#']", node => !named(node.getAttribute("href").slice(1)), "a link to nowhere");
  const ids = all("[id]").map(node => node.id);
  ids.filter((id, at) => ids.indexOf(id) !== at).forEach(id => say(`the id ${id} twice`));

  // --- width
  const wide = document.documentElement.clientWidth;
  const scroll = document.documentElement.scrollWidth;
  if (scroll > wide) say(`the page is ${scroll} px wide`);

  // --- every text: inside the page and its box, and legible
  const rgb = text => { const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  // what an element stands on, how opaque it is, and whether it is clipped away, for screen readers alone
  const known = new Map([[null, {under: canvas, alpha: 1, clipped: false}]]);
  const standing = node => {
    if (!known.has(node)) {
      const up = standing(node.parentElement), style = getComputedStyle(node);
      if (style.backgroundImage !== "none") say("a picture behind text", node);
      known.set(node, {
        under: over(rgb(style.backgroundColor), up.under),
        alpha: up.alpha * Number(style.opacity),
        clipped: up.clipped || style.clipPath !== "none",
      });
    }
    return known.get(node);
  };
  const light = ([r, g, b]) => [r, g, b].map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  let texts = 0, lowest = 99;
  while (walk.nextNode()) {
    const text = walk.currentNode, node = text.parentElement;
    if (!text.data.trim() || node.closest("style, title, .skip")) continue;
    const style = getComputedStyle(node);
    range.selectNodeContents(text);
    const boxes = [...range.getClientRects()].filter(box => box.width > 1 && box.height > 1);
    const {under, alpha, clipped} = standing(node);
    if (!boxes.length || clipped || style.visibility !== "visible") continue;
    texts++;
    if (boxes.some(box => box.right > wide + 1 || box.left < -1)) say("text outside the page", node);
    const box = node.closest(".card, details, td, th, .end, .verdict")?.getBoundingClientRect();
    if (box && boxes.some(each => each.right > box.right + 1)) say("text over the edge of its box", node);
    if (parseFloat(style.fontSize) < 12.5) say(`text of ${style.fontSize}`, node);
    const front = rgb(style.color);
    const one = light(over([...front.slice(0, 3), front[3] * alpha], under)), two = light(under);
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    lowest = Math.min(lowest, contrast);
    if (contrast < 4.5) say(`contrast ${contrast.toFixed(2)}`, node);
  }
  return {
    found: [...new Set(found)], texts, lowest,
    said: document.body.innerText, ground: getComputedStyle(document.body).backgroundColor,
  };
})()
"""


class Browser:
    """One Chromium with one tab."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write, self.number, self.rest = read, write, 0, b""
        self.events: list[dict[str, Any]] = []
        self.session = ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def message(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            if not select.select([self.read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            part = os.read(self.read, 1 << 20)
            if not part:
                raise OSError("Chromium has ended")
            self.rest += part
        first, _, self.rest = self.rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(first)
        return answer

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        question = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            question["sessionId"] = self.session
        os.write(self.write, json.dumps(question).encode() + b"\0")
        while (answer := self.message(60)).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            raise OSError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def show(self, path: Path, width: int, theme: str, media: str = "screen") -> None:
        """The page anew, as a medium of that width shows it; `events` holds what happened meanwhile."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 700)
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[feature])
        self.open(path.resolve().as_uri())

    def open(self, url: str) -> None:
        self.events.clear()
        self.ask("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message(60))

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited when it is a promise."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise OSError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def look(self) -> dict[str, Any]:
        value: dict[str, Any] = self.run(LOOK)
        return value

    def complaints(self, path: Path) -> list[str]:
        """What the console said since `show`, and whatever the page asked for besides itself."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(f"exception: {parameters['exceptionDetails'].get('text')}")
            elif event.get("method") == "Runtime.consoleAPICalled":
                found.append(f"console: {parameters['type']}")
            elif event.get("method") == "Log.entryAdded":
                found.append(f"console: {parameters['entry']['text']}")
            elif event.get("method") == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if url.partition("#")[0] != path.resolve().as_uri():
                    found.append(f"asks for {url}")
        return found

    def picture(self, file: Path, height: int = 0) -> None:
        """All of it, for eyes; or so many pixels from its top."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))

    def paper(self, path: Path, file: Path) -> None:
        """As it is printed when nobody has unfolded anything and the screen is dark."""
        self.show(path, 1280, "dark", "print")
        printed = self.ask("Page.printToPDF", preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(printed["data"]))


@contextlib.contextmanager
def browser(*flags: str) -> Iterator[Browser]:
    command = bed.browser()
    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as home:
        (its_read, our_write), (our_read, its_write) = os.pipe(), os.pipe()
        started = ["bash", "-c", START, "bash", str(its_read), str(its_write), command, *FLAGS, *flags]
        process = subprocess.Popen(
            [*started, f"--user-data-dir={home}", "about:blank"],
            pass_fds=(its_read, its_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home},
            start_new_session=True,
        )
        os.close(its_read)
        os.close(its_write)
        try:
            yield Browser(our_read, our_write)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(our_read)
            os.close(our_write)


def squeezed(text: str) -> str:
    """A table or a page may break a line anywhere."""
    return re.sub(r"\s+", "", text)


def pages(pdf: Path) -> list[str]:
    # raw: in the order of the page's source, where columns stand side by side
    command = ["pdftotext", "-raw", "-enc", "UTF-8", str(pdf), "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return re.sub(r"Page \d+ of \d+\n", "", done.stdout).split("\f")[:-1]


def problems(
    chromium: Browser,
    path: Path,
    shows: list[str],
    devices: list[str] | None = None,
    widths: tuple[int, ...] = WIDTHS,
) -> list[str]:
    """What is wrong with the page at `path`; it must say `shows`, and print a sheet for each of `devices`."""
    found, grounds = [], set()
    for theme in THEMES:
        for width in widths:
            place = f"{width} px, {theme}"
            chromium.show(path, width, theme)
            seen = chromium.look()
            grounds.add(seen["ground"])
            said = squeezed(seen["said"])
            found += [f"{place}: {each}" for each in [*seen["found"], *chromium.complaints(path)]]
            found += [f"{place}: does not show {value!r}" for value in shows if squeezed(value) not in said]
            if seen["texts"] < 5:
                found.append(f"{place}: only {seen['texts']} texts")
    if len(grounds) != len(THEMES):
        found.append(f"the themes do not differ: {sorted(grounds)}")
    return found + paper_problems(chromium, path, shows, devices)


def paper_problems(chromium: Browser, path: Path, shows: list[str], devices: list[str] | None) -> list[str]:
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="page-") as scratch:
        pdf = Path(scratch) / "page.pdf"
        chromium.paper(path, pdf)
        # what is printed from a dark screen is as legible
        found += [f"paper: {each}" for each in chromium.look()["found"] if each.startswith("contrast")]
        size = subprocess.run(["pdfinfo", str(pdf)], capture_output=True, text=True, check=True).stdout
        if not re.search(r"Page size: +59[45][.\d]* x 84[12]", size):
            found.append(f"paper: not A4: {size}")
        printed = pages(pdf)
    # without a font for it a machine prints no Japanese
    all_of_it = squeezed("".join(printed))
    found += [
        f"paper: does not show {value!r}" for value in shows if value.isascii() and squeezed(value) not in all_of_it
    ]
    found += [f"paper: page {number} is empty" for number, page in enumerate(printed, 1) if len(squeezed(page)) < 20]
    if devices is not None:
        begins = [[line for line in page.splitlines() if line.strip()][:2] for page in printed]
        sheets = [begin for begin in begins if begin[:1] == ["Connection sheet"]]
        if sheets != [["Connection sheet", device] for device in devices]:
            found.append(f"paper: not one page for each of {devices}, but {sheets}")
        if devices and begins[-len(devices) :] != sheets:
            found.append("paper: a sheet goes on over its page")
    return found


def take_pictures(paths: list[Path], target: Path) -> None:
    """The top of each page in the light theme, as `<name>-<width>.png`."""
    target.mkdir(parents=True, exist_ok=True)
    with browser() as chromium:
        for path in paths:
            for width, height in PICTURED.items():
                chromium.show(path, width, "light")
                chromium.picture(target / f"{path.stem}-{width}.png", height)


if __name__ == "__main__":
    take_pictures([Path(name) for name in sys.argv[1:-1]], Path(sys.argv[-1]))
