"""How a report shows itself in a notebook."""

from __future__ import annotations

import html

from gradscope.records import Report
from gradscope.renderers.terminal import screen as terminal
from gradscope.renderers.text.page import Span
from gradscope.renderers.view import View

BOX = "font-family: monospace; line-height: 1.25; white-space: pre; overflow-x: auto"
CSS = {"bold": "font-weight: bold", "dim": "opacity: 0.65", "grey62": "opacity: 0.8"}


def mimebundle(report: Report) -> dict[str, str]:
    """The screen as `text/plain` without colour, and as `text/html`: the same letters, escaped, in colour."""
    page = terminal.page(report, View())
    lines = ("".join(_span(span) for span in line) for line in page.lines)
    body = "\n".join(lines)
    return {"text/plain": str(page), "text/html": f'<pre style="{BOX}">{body}</pre>'}


def _span(span: Span) -> str:
    text = html.escape(span.text)
    css = "; ".join(CSS.get(word, f"color: {word}") for word in span.style.split())
    return f'<span style="{css}">{text}</span>' if css else text
