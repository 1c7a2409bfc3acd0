"""What a chart is: a title, how to read it, what it needs, and the function that draws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import altair as alt

from gradscope.records import Report


class Data(dict[str, list[dict[str, Any]]]):
    """Rows by name, beside the charts that refer to them: Altair looks at every row that it is given whole."""

    def chart(self, rows: list[dict[str, Any]]) -> alt.Chart:
        """A chart of these rows; equal rows are kept once."""
        name = f"rows-{sha256(repr(rows).encode()).hexdigest()[:12]}"
        self[name] = rows
        return alt.Chart(alt.NamedData(name))

    @property
    def first(self) -> str:
        """Name of the rows that came first."""
        return next(iter(self), "")


@dataclass(frozen=True)
class Panel:
    """One picture of a chart: most charts are a single one, heat maps one per model."""

    picture: Any
    """An Altair `Chart` or `LayerChart` of one view, without a width: page and files give it theirs."""
    data: Data
    title: str = ""
    reads: dict[str, Any] = field(default_factory=dict)
    """How a pointer reads values off it: `x` (`lag` or `step`), the fields `y` and `by`, and `log` for log10 values.

    The values are in the rows named `rows`. Empty where marks have tooltips of their own.
    """
    wide: bool = True
    """Whether it wants the whole width of a page."""
    key: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    """Name, colour and dashes of every line, for a page that writes its own legend."""


@dataclass(frozen=True)
class Chart:
    """A picture that every report can be asked for; the table `CHARTS` lists them in the order of a page."""

    title: str
    teaches: str
    """How to read it, in two or three sentences."""
    needs: str
    """What a report must hold for it, said where there is nothing to draw."""
    draw: Callable[[Report], list[Panel]]
    """Its panels; none where the report holds nothing for it."""
    tell: Callable[[Report], str]
    """What it shows, in words: the alternative text."""
