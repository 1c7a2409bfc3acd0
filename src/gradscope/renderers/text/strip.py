"""The strip over time: one glyph per column, tall where the signal is strong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from gradscope.profile import INFLUENCE
from gradscope.records import ModelResult, Number, Series, Values
from gradscope.renderers.text.timeline import Timeline

FLOOR, CEILING = -12.0, 6.0
ENLARGED = 4
"""How many times larger the newest steps are drawn for their own strip to be worth it."""
BLOCKS, RAMP = "▁▂▃▄▅▆▇█", ".:-=+*#"


@dataclass(frozen=True)
class Strip:
    """A drawn strip: the glyphs, the steps at its two ends, and how many steps a column stands for."""

    glyphs: str
    first: int
    last: int
    steps: int
    """How many steps are drawn."""
    of: str
    """Name of the series that is drawn."""

    def scale(self) -> str:
        """`1 column: worst of 2 or 3 steps`: how steps and columns relate."""
        width = len(self.glyphs)
        if self.steps == width:
            return "1 column = 1 step"
        if self.steps < width:
            return f"1 step = {_between(width, self.steps)} columns"
        return f"1 column: worst of {_between(self.steps, width)} steps"

    def axis(self, label: str = "step ") -> str:
        """`step 1 ◂──── step 200`, as wide as the strip where the labels fit."""
        left, right = f"{label}{self.first} ◂", f" {label}{self.last}"
        return left + "─" * max(2, len(self.glyphs) - len(left) - len(right)) + right


def influence_strip(model: ModelResult, width: int, ascii_only: bool) -> Strip | None:
    """Influence on the loss over time, log scale, relative to the newest lagged step.

    A column that stands for several steps shows the one farthest from 1, so that nothing hides in a mean. Where
    the influence profile is absent, the gradient with respect to input or state is drawn instead.
    """
    return series_strip(model.series, width, ascii_only)


def series_strip(series: Series, width: int, ascii_only: bool) -> Strip | None:
    """The same for any series object, of a model or of a layer; None if it holds nothing to draw."""
    found = _relative(series)
    return None if found is None else _draw_log(*found, width, ascii_only)


def newest_strip(series: Series, width: int, ascii_only: bool) -> Strip | None:
    """The newest steps alone, where all that is above the floor lies in a small part of the whole; else None."""
    newest = newest_steps(series, width)
    return None if newest is None else last_steps(series, newest, width, ascii_only)


def newest_steps(series: Series, width: int) -> int | None:
    """How many of the newest steps are worth a strip of their own; None where the whole shows them."""
    found = _relative(series)
    if found is None:
        return None
    _, values, _ = found
    seen = next((place for place, value in enumerate(values) if value is not None and not value < FLOOR), len(values))
    newest = max(width, 2 * (len(values) - seen))
    return None if newest * ENLARGED > len(values) else newest


def last_steps(series: Series, newest: int, width: int, ascii_only: bool) -> Strip | None:
    """So many of the newest steps; None if there is nothing to draw."""
    found = _relative(series)
    if found is None:
        return None
    name, values, steps = found
    return _draw_log(name, values[-newest:], steps[-newest:], width, ascii_only)


def _relative(series: Series) -> tuple[str, Values, tuple[int, ...]] | None:
    """Name, values relative to lag 1 and steps of the first series that there is to draw."""
    timeline = Timeline(series)
    for name in (INFLUENCE, "log10_grad_input", "log10_grad_state"):
        _, values = timeline.over(name)
        if any(value is not None for value in values):
            reference = _reference(values)
            shifted = tuple(None if value is None else value - reference for value in values)
            return name, shifted, timeline.steps(name)
    return None


def _draw_log(name: str, values: Values, steps: tuple[int, ...], width: int, ascii_only: bool) -> Strip:
    return _draw(values, steps, name, width, _farthest, lambda v: glyph(v, FLOOR, CEILING, ascii_only))


def gate_strip(series: Series, name: str, width: int, ascii_only: bool) -> Strip | None:
    """Mean activation of a gate over time, linear 0..1; a column shows its lowest step."""
    timeline = Timeline(series)
    _, values = timeline.over(name)
    if not any(value is not None for value in values):
        return None
    return _draw(values, timeline.steps(name), name, width, _lowest, lambda v: glyph(v, 0.0, 1.0, ascii_only))


def glyph(value: Number, floor: float, ceiling: float, ascii_only: bool) -> str:
    """One column: blank for unknown, `?` for NaN, own marks under the floor and over the ceiling."""
    levels, under, over = (RAMP, "_", "!") if ascii_only else (BLOCKS, "·", "▲")
    if value is None:
        return " "
    if math.isnan(value):
        return "?"
    if value < floor:
        return under
    if value > ceiling:
        return over
    return levels[min(len(levels) - 1, int((value - floor) / (ceiling - floor) * len(levels)))]


def _draw(
    values: Values,
    steps: tuple[int, ...],
    name: str,
    width: int,
    worst: Callable[[Values], Number],
    paint: Callable[[Number], str],
) -> Strip:
    starts = [column * len(values) // width for column in range(width + 1)]
    columns = (values[a : max(a + 1, b)] for a, b in pairwise(starts))
    return Strip("".join(paint(worst(column)) for column in columns), steps[0], steps[-1], len(values), name)


def _between(many: int, few: int) -> str:
    low, high = many // few, -(-many // few)
    return str(low) if low == high else f"{low} or {high}"


def _reference(values: Values) -> float:
    """Influence at lag 1; the largest known value where that is zero or unknown."""
    newest_lagged = values[-2] if len(values) > 1 else values[-1]
    if newest_lagged is not None and math.isfinite(newest_lagged):
        return newest_lagged
    return max((value for value in values if value is not None and math.isfinite(value)), default=0.0)


def _farthest(values: Values) -> Number:
    known = [value for value in values if value is not None]
    for value in known:
        if math.isnan(value):
            return value
    return max(known, key=abs, default=None)


def _lowest(values: Values) -> Number:
    known = [value for value in values if value is not None]
    return next((value for value in known if math.isnan(value)), min(known, default=None))
