"""Charts on a page: titles, words and specifications, and the scripts that draw them in a browser."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gradscope.atomic import write_file
from gradscope.errors import UsageError
from gradscope.profile import Profile
from gradscope.records import Report
from gradscope.registry import CHARTS, load


@cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed, fit to stand in a script element."""
    kept = _folder() / f"vega-{version('vl-convert-python')}.js"
    try:
        found = kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        found = ""
    if not found.endswith(_MARK):
        found = _made() + _MARK
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(kept, found.encode())
        except (OSError, UsageError):
            pass  # a folder that cannot be written costs time at the next page, and nothing else
    return found


_MARK = "\n/* whole */\n"


def _made() -> str:
    import vl_convert

    # Nothing in a script element may look like its end, or like a comment of HTML.
    return (
        str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
        .replace("</script", "<\\/script")
        .replace("<!--", "<\\!--")
    )


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "gradscope"


@dataclass(frozen=True)
class Place:
    """Where one panel is drawn."""

    id: str
    title: str
    wide: bool
    key: tuple[tuple[str, str, str], ...]
    """Name, colour and dashes of every line."""


@dataclass(frozen=True)
class Figure:
    """A chart with what is written around it."""

    name: str
    title: str
    teaches: str
    told: str
    """What it shows, in words."""
    places: tuple[Place, ...]
    save: str = ""
    """How to have it as a file."""


@dataclass(frozen=True)
class Figures:
    """All figures of a page, and what draws them by the id of the place."""

    figures: tuple[Figure, ...]
    drawn: dict[str, Any]


def figures(report: Report, names: Iterable[str] = (), prefix: str = "") -> Figures:
    """Every chart that the report holds something for, or those named.

    Args:
        report: what to draw.
        names: charts, in their order; none: all.
        prefix: of the ids, where a page holds several reports.
    """
    panels_of, told = load("gradscope.charts.draw:panels_of"), load("gradscope.charts.draw:told")
    single = load("gradscope.charts.draw:single")
    made, drawn = [], {}
    for name in names or CHARTS:
        panels = panels_of(name, report)
        if not panels:
            continue
        chart, places = load(CHARTS[name]), []
        for number, panel in enumerate(panels):
            place = f"{prefix}{name}-{number}"
            key = tuple((said, colour, " ".join(map(str, dashes))) for said, colour, dashes in panel.key)
            places.append(Place(place, panel.title, panel.wide, key))
            drawn[place] = {"spec": single(panel), "reads": panel.reads, **_axis(report)}
        save = f"gradscope show report.json -o {name}.svg --chart {name}"
        made.append(Figure(name, chart.title, chart.teaches, told(name, report), tuple(places), save))
    return Figures(tuple(made), drawn)


def _axis(report: Report) -> dict[str, int]:
    """The last step of the first model, and the one that its lags count from."""
    if not report.models or not report.models[0].series.step:
        return {"last": 0, "anchor": 0}
    first = report.models[0]
    return {"last": first.series.step[-1], "anchor": Profile.of(first).anchor}
