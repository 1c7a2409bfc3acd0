"""The steps as CSV: one row per model and step, for spreadsheets and data frames."""

from __future__ import annotations

import csv
from io import StringIO

from gradscope.records import Number, Report
from gradscope.renderers.text.timeline import Timeline
from gradscope.renderers.view import View
from gradscope.text import safe_text

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
LEADING = ("model", "step", "lag", "token")


def render(report: Report, view: View) -> str:
    """Columns model, step, lag, token, then every series; unknown values are empty cells, zero is `-inf` in log10.

    Text that a spreadsheet would run as a formula is preceded by an apostrophe.
    """
    names = list(dict.fromkeys(name for model in report.models for name in model.series.values))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*LEADING, *(cell(name, view) for name in names)])
    for model in report.models:
        timeline = Timeline(model.series)
        label = cell(model.name, view)
        for place, step in enumerate(timeline.step):
            token = timeline.token(place)
            values = (_number(timeline.at(name, place)) for name in names)
            writer.writerow([label, step, timeline.lag(place), "" if token is None else cell(token, view), *values])
    return out.getvalue()


def cell(text: str, view: View) -> str:
    """Foreign text for a cell: no control characters, no formula."""
    safe = safe_text(text)
    if view.ascii:
        safe = safe.encode("ascii", "backslashreplace").decode()
    return f"'{safe}" if safe.lstrip().startswith(FORMULA) else safe


def _number(value: Number) -> str:
    return "" if value is None else repr(float(value))
