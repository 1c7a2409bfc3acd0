"""How a report shows itself in a notebook: its screen, and its charts where they can be drawn."""

from __future__ import annotations

import base64
import html
from importlib.util import find_spec

from gradscope.records import Report
from gradscope.registry import CHARTS, FORMATS, load
from gradscope.renderers.terminal import screen as terminal
from gradscope.renderers.text.page import Span
from gradscope.renderers.view import View

BOX = "font-family: monospace; line-height: 1.25; white-space: pre; overflow-x: auto"
CSS = {"bold": "font-weight: bold", "dim": "opacity: 0.65", "grey62": "opacity: 0.8"}
SHOWN = ("profile", "words", "gates", "heatmap", "attention")
"""Charts that a notebook shows of a report; a page has all of them."""


def mimebundle(report: Report) -> dict[str, str]:
    """The screen as `text/plain` without colour; as `text/html` the same letters in colour, escaped, and charts.

    Charts are pictures in the text itself: they need no script and no network, and stay when the notebook is saved.
    """
    page = terminal.page(report, View())
    lines = ("".join(_span(span) for span in line) for line in page.lines)
    body = "\n".join(lines)
    return {"text/plain": str(page), "text/html": f'<pre style="{BOX}">{body}</pre>{"".join(_pictures(report))}'}


def _pictures(report: Report) -> list[str]:
    """Each chart as an image element with its alternative text; none where the extra is not installed."""
    if not all(map(find_spec, FORMATS["svg"].needs)):
        return []
    panels_of, told = load("gradscope.charts.harmless:panels_of"), load("gradscope.charts.harmless:told")
    draw, made = load(FORMATS["svg"].renderer), []
    for name in (name for name in CHARTS if name in SHOWN and panels_of(name, report)):
        drawn = base64.b64encode(draw(report, View(charts=(name,))).encode()).decode()
        words = html.escape(told(name, report), quote=True)
        style = "max-width: 100%; background: white"
        made.append(f'<img alt="{words}" style="{style}" src="data:image/svg+xml;base64,{drawn}">')
    return made


def _span(span: Span) -> str:
    text = html.escape(span.text)
    css = "; ".join(CSS.get(word, f"color: {word}") for word in span.style.split())
    return f'<span style="{css}">{text}</span>' if css else text
