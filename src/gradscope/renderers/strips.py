"""Strips over the steps of a sequence, one glyph per column, and the steps that are worth a row of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from gradscope.profile import INFLUENCE, Profile
from gradscope.records import ModelResult, Number, Series, Values
from gradscope.renderers.view import View

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


FEW = 12
FEW_TOKENS = 24


class Timeline:
    """The series of one model, addressed by position 0..T.

    Series over s_0..s_T, over x_1..x_T and J_1..J_T all end at step T, so they are aligned at their ends; the
    influence profile runs over lags, newest first.
    """

    def __init__(self, series: Series) -> None:
        self.series = series
        longest = max((len(values) for values in series.values.values()), default=0)
        self.step = series.step or tuple(range(longest))
        self.size = len(self.step)
        self.profile = Profile.of_series(series, self.size - 1)

    def at(self, name: str, position: int) -> Number:
        """Value at a position; None where the quantity does not exist."""
        if name == INFLUENCE:
            return self.profile.at(self.step[position])
        values = self.series.values.get(name, ())
        place = position - (self.size - len(values))
        return values[place] if 0 <= place < len(values) else None

    def over(self, name: str) -> tuple[int, Values]:
        """First position that has this series, and its values in time order."""
        if name == INFLUENCE:
            oldest = self.profile.step_of(self.profile.longest)
            return self.position(oldest) or 0, tuple(reversed(self.profile.values))
        values = self.series.values.get(name, ())
        values = values[max(0, len(values) - self.size) :]
        return self.size - len(values), values

    def steps(self, name: str) -> tuple[int, ...]:
        """The steps that `over` gives values of."""
        start, values = self.over(name)
        return self.step[start : start + len(values)]

    def token(self, position: int) -> str | None:
        """The token of a step (step 0 has none)."""
        tokens = self.series.token or ()
        place = position - (self.size - len(tokens))
        return tokens[place] if 0 <= place < len(tokens) else None

    def position(self, step: int) -> int | None:
        """Where a step stands; None where there is none."""
        return self.step.index(step) if step in self.step else None

    def lag(self, position: int) -> int | None:
        """Steps back from the anchor; None after it."""
        return self.profile.lag_of(self.step[position])

    def names(self) -> list[str]:
        """Names of the series, as stored."""
        return list(self.series.values)


def telling_rows(model: ModelResult, timeline: Timeline, view: View) -> dict[int, str]:
    """Position -> remark ('' for none), in time order: the rows of the table that `view.steps` asks for."""
    remarks = {place: text for place, text in _remarks(model, timeline) if place is not None}
    bounds = view.step_range()
    few = FEW_TOKENS if timeline.series.token else 0 if view.narrow else FEW
    if view.steps == "all" or (bounds is None and timeline.size <= few + 1):
        chosen: Iterable[int] = range(timeline.size)
    elif bounds is not None:
        first, last = bounds
        chosen = [i for i, step in enumerate(timeline.step) if step >= first and (last is None or step <= last)]
    else:
        last_place = timeline.size - 1
        anchor = timeline.position(timeline.profile.anchor)
        chosen = {0, 1, last_place // 2, last_place - 1, last_place, *remarks, *(() if anchor is None else (anchor,))}
    return {place: remarks.get(place, "") for place in sorted(chosen) if 0 <= place < timeline.size}


def _remarks(model: ModelResult, timeline: Timeline) -> list[tuple[int | None, str]]:
    """Least important first: a later remark on the same row replaces an earlier one."""
    summary, profile = model.summary, timeline.profile
    found: list[tuple[int | None, str]] = [(place, f"◂ {word} ‖J‖") for place, word in _extremes(timeline)]
    if profile.anchor < timeline.size - 1:
        found.append((timeline.position(profile.anchor), "◂ the loss reads this step"))
    if summary.needed_lag is not None and summary.needed_lag < profile.longest:
        found.append((timeline.position(profile.step_of(summary.needed_lag)), "◂ needed lag"))
    if summary.reach is not None and summary.reach < profile.longest:
        found.append((timeline.position(profile.step_of(summary.reach)), "◂ reach ends (1 %)"))
    if summary.cut is not None:
        found.append((timeline.position(summary.cut), "◂ gradient cut"))
    if summary.non_finite is not None:
        found.append((timeline.position(summary.non_finite.step), f"◂ first {summary.non_finite.value}"))
    return found


def _extremes(timeline: Timeline) -> list[tuple[int, str]]:
    start, values = timeline.over("log10_jacobian_norm")
    heard = values[: max(0, timeline.profile.anchor + 1 - start)]
    known = [(value, start + i) for i, value in enumerate(heard) if value is not None]
    if not known or not all(math.isfinite(value) for value, _ in known) or min(known)[0] == max(known)[0]:
        return []
    return [(min(known)[1], "smallest"), (max(known)[1], "largest")]
