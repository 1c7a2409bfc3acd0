"""A real browser without a window: skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
COUNT = """async (source) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const numbers = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
    return new Set(numbers).size;
}"""
"""How many colours a picture has: a blank one has one."""


@dataclass
class Opened:
    """A page, and what it has complained of or asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def launched() -> Iterator[Any]:
    """The browser, for a fixture to hold."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra [browser] is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1000, **more: Any) -> Iterator[Opened]:
    """A page from a file, drawn; the network is cut off."""
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **more)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("dialog", lambda dialog: found.said.append(f"dialog: {dialog.message}"))
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.goto(path.as_uri())
    found.page.wait_for_selector("html[data-drawn=yes]", timeout=30_000)
    yield found
    context.close()


def colours(browser: Any, picture: bytes) -> int:
    """How many colours a PNG has."""
    import base64

    context = browser.new_context()
    count: int = context.new_page().evaluate(COUNT, f"data:image/png;base64,{base64.b64encode(picture).decode()}")
    context.close()
    return count
