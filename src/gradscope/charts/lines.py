"""Lines over steps or lags: what most charts are."""

from __future__ import annotations

from typing import Any

import altair as alt

from gradscope.charts import look
from gradscope.charts.chart import Data, Panel
from gradscope.charts.rows import Row, finite_in, odd_in

AXES = {"lag": "lag (steps back)", "step": "step"}
NOTHING = (-1.0, 0.0)
"""The vertical axis where no value has a place on it."""


def lines(
    rows: list[Row],
    names: list[str],
    title: str,
    *,
    data: Data | None = None,
    x: str = "step",
    log: bool = True,
    domain: tuple[float, float] | None = None,
    before: list[alt.Chart] | None = None,
    after: list[alt.Chart] | None = None,
) -> list[Panel]:
    """A panel with a line per name; none without rows.

    Args:
        rows: from `rows.thinned`.
        names: the values of `by`, in the order of their colours.
        title: of the vertical axis.
        data: the rows of the layers under and over the lines.
        x: `lag` or `step`.
        log: whether `y` holds log10 values.
        domain: of the vertical axis; None: what the values need.
        before: layers under the lines.
        after: layers over them.
    """
    if not rows:
        return []
    own, shown = Data(), {row["by"] for row in rows}
    base = own.chart(rows)
    across = alt.X(
        "x:Q", axis=alt.Axis(title=AXES[x], tickMinStep=1, format="d"), scale=alt.Scale(nice=False, padding=4)
    )
    axis = look.log_axis(title, finite_in(rows)) if log else alt.Axis(title=title)
    if not finite_in(rows):
        domain = domain or NOTHING
    scale = alt.Scale(domain=list(domain)) if domain else alt.Scale(zero=False)
    drawn = base.mark_line(strokeWidth=2, clip=True).encode(
        x=across, y=alt.Y("y:Q", axis=axis, scale=scale), **look.by_model(names, shown)
    )
    marks = look.odd_marks(base, across, odd_in(rows))
    picture = alt.layer(*(before or []), drawn, *marks, *(after or [])).properties(height=look.HEIGHT)
    reads: dict[str, Any] = {"rows": own.first, "x": x, "y": "y", "by": "by", "log": log}
    return [Panel(picture, Data({**own, **(data or {})}), reads=reads, key=look.key(names, shown))]
