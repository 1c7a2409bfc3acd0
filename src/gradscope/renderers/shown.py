"""How a report and a training run show themselves: as text, in a notebook with charts, and as a file."""

from __future__ import annotations

import base64
import html
import sys
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

from gradscope.atomic import write_file
from gradscope.errors import UsageError
from gradscope.records import Report
from gradscope.registry import CHARTS, FLOW_FORMATS, FORMATS, Format, lacking, load
from gradscope.renderers import run_screen, screen
from gradscope.renderers.styled_text import Page, Span
from gradscope.renderers.view import View
from gradscope.text import encoded, safe_text
from gradscope.trajectory import Trajectory

Thing = Report | Trajectory

BOX = "font-family: monospace; line-height: 1.25; white-space: pre; overflow-x: auto"
CSS = {"bold": "font-weight: bold", "dim": "opacity: 0.65", "grey62": "opacity: 0.8"}
CHOSEN = ("profile", "words", "gates", "heatmap", "attention")
"""Charts that a notebook shows of a report; a page has all of them."""


def text(thing: Thing) -> str:
    """The screen, 80 columns wide and without colour; in ASCII where standard output takes nothing else."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return str(_page(thing, View(ascii=not encoding.lower().replace("-", "").startswith("utf")))).rstrip("\n")


def mimebundle(thing: Thing) -> dict[str, str]:
    """The screen as `text/plain` without colour; as `text/html` the same letters in colour, escaped, and charts.

    Charts are pictures in the text itself: they need no script and no network, and stay when the notebook is saved.
    """
    page = _page(thing, View())
    lines = ("".join(_span(span) for span in line) for line in page.lines)
    body = "\n".join(lines)
    return {"text/plain": str(page), "text/html": f'<pre style="{BOX}">{body}</pre>{"".join(_pictures(thing))}'}


def save(thing: Thing, path: str | PathLike[str]) -> None:
    """Write in the format that the suffix of `path` names.

    Raises:
        UsageError: no such format, an extra that is not installed, or a file that cannot be written.
    """
    target, suffix = Path(path), Path(path).suffix.lower()
    known = {form.suffix: form for form in _formats(thing).values() if form.suffix}
    if suffix not in known:
        raise UsageError(f"'{safe_text(target)}' has no suffix that names a format; use one of {', '.join(known)}")
    form = known[suffix]
    if reason := lacking(form):
        raise UsageError(f"{suffix} {reason}")
    content = load(form.renderer)(thing, View())
    write_file(target, content if isinstance(content, bytes) else encoded(content, "utf-8"))


def _formats(thing: Thing) -> Mapping[str, Format]:
    return FORMATS if isinstance(thing, Report) else FLOW_FORMATS


def _page(thing: Thing, view: View) -> Page:
    return screen.page(thing, view) if isinstance(thing, Report) else run_screen.page(thing, view)


def _pictures(thing: Thing) -> list[str]:
    """Each chart as an image element with its alternative text; none where the extra is not installed."""
    if lacking(FORMATS["svg"]):
        return []
    drawn = _of_report(thing) if isinstance(thing, Report) else _of_run(thing)
    style = "max-width: 100%; background: white"
    made = []
    for words, picture in drawn:
        data = base64.b64encode(picture.encode()).decode()
        said = html.escape(words, quote=True)
        made.append(f'<img alt="{said}" style="{style}" src="data:image/svg+xml;base64,{data}">')
    return made


def _of_report(report: Report) -> Iterator[tuple[str, str]]:
    panels_of, told = load("gradscope.charts.draw:panels_of"), load("gradscope.charts.draw:told")
    draw = load(FORMATS["svg"].renderer)
    for name in (name for name in CHARTS if name in CHOSEN and panels_of(name, report)):
        yield told(name, report), draw(report, View(charts=(name,)))


def _of_run(trajectory: Trajectory) -> Iterator[tuple[str, str]]:
    if trajectory.points:
        yield "Reach, share, lags and loss over the training.", load(FLOW_FORMATS["svg"].renderer)(trajectory, View())


def _span(span: Span) -> str:
    text = html.escape(span.text)
    css = "; ".join(CSS.get(word, f"color: {word}") for word in span.style.split())
    return f'<span style="{css}">{text}</span>' if css else text
