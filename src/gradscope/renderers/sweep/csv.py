"""A sweep as CSV: one row for each run, for spreadsheets and data frames."""

from __future__ import annotations

import csv
from io import StringIO

from gradscope.renderers.csv import cell
from gradscope.renderers.sweep import data
from gradscope.renderers.view import View
from gradscope.swept import Sweep


def render(sweep: Sweep, view: View) -> str:
    """The axes, the seed, how the run ended, every number of its summary; unknown values are empty cells.

    Text that a spreadsheet would run as a formula is preceded by an apostrophe.
    """
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([cell(name, view) for name in data.names(sweep)])
    for row in data.rows(sweep):
        writer.writerow([_written(value, view) for value in row])
    return out.getvalue()


def _written(value: str | float | None, view: View) -> str:
    if isinstance(value, str):
        return value if _is_number(value) else cell(value, view)
    return "" if value is None else repr(value)


def _is_number(text: str) -> bool:
    """Whether a text is a plain number, which no spreadsheet runs, whatever its sign."""
    return text.lstrip("-").replace(".", "", 1).isascii() and text.lstrip("-").replace(".", "", 1).isdigit()
