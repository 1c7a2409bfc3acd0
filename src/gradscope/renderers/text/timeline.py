"""Per-step quantities side by side: what belongs to which step, and which steps are worth a row."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradscope.records import ModelResult, Number, Series, Values
from gradscope.renderers.view import View

INFLUENCE = "log10_influence"
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
        # Lag 0 is the newest step the loss reads, so a profile of a lags starts at step a.
        self.anchor = min(len(series.values.get(INFLUENCE, ())) or self.size - 1, self.size - 1)

    def at(self, name: str, position: int) -> Number:
        """Value at a position; None where the quantity does not exist."""
        values = self.series.values.get(name, ())
        place = self.anchor - position if name == INFLUENCE else position - (self.size - len(values))
        return values[place] if 0 <= place < len(values) else None

    def over(self, name: str) -> tuple[int, Values]:
        """First position that has this series, and its values in time order."""
        values = self.series.values.get(name, ())[: self.size] if name == INFLUENCE else self._tail(name)
        if name == INFLUENCE:
            return self.anchor - len(values) + 1, tuple(reversed(values))
        return self.size - len(values), values

    def _tail(self, name: str) -> Values:
        values = self.series.values.get(name, ())
        return values[max(0, len(values) - self.size) :]

    def token(self, position: int) -> str | None:
        """The token of a step (step 0 has none)."""
        tokens = self.series.token or ()
        place = position - (self.size - len(tokens))
        return tokens[place] if 0 <= place < len(tokens) else None

    def lag(self, position: int) -> int:
        """Steps back from the last one."""
        return self.step[-1] - self.step[position]

    def names(self) -> list[str]:
        """Names of the series, as stored."""
        return list(self.series.values)


def telling_rows(model: ModelResult, timeline: Timeline, view: View) -> dict[int, str]:
    """Position -> remark ('' for none), in time order: the rows of the table that `view.steps` asks for."""
    remarks = {place: text for place, text in _remarks(model, timeline) if 0 <= place < timeline.size}
    bounds = view.step_range()
    few = FEW_TOKENS if timeline.series.token else 0 if view.narrow else FEW
    if view.steps == "all" or (bounds is None and timeline.size <= few + 1):
        chosen: Iterable[int] = range(timeline.size)
    elif bounds is not None:
        first, last = bounds
        chosen = [i for i, step in enumerate(timeline.step) if step >= first and (last is None or step <= last)]
    else:
        last_place = timeline.size - 1
        chosen = {0, 1, last_place // 2, last_place - 1, last_place, *remarks}
    return {place: remarks.get(place, "") for place in sorted(chosen) if 0 <= place < timeline.size}


def _remarks(model: ModelResult, timeline: Timeline) -> list[tuple[int, str]]:
    """Least important first: a later remark on the same row replaces an earlier one."""
    summary, last = model.summary, timeline.size - 1
    found = [(place, f"◂ {word} ‖J‖") for place, word in _extremes(timeline)]
    if summary.needed_lag is not None and summary.needed_lag < last - 1:
        found.append((last - summary.needed_lag, "◂ needed lag"))
    if summary.reach is not None and summary.reach < last - 1:
        found.append((last - summary.reach, "◂ reach ends (1 %)"))
    if summary.cut is not None:
        found.append((_position(timeline, summary.cut), "◂ gradient cut"))
    if summary.non_finite is not None:
        found.append((_position(timeline, summary.non_finite.step), f"◂ first {summary.non_finite.value}"))
    return found


def _extremes(timeline: Timeline) -> list[tuple[int, str]]:
    start, values = timeline.over("log10_jacobian_norm")
    known = [(value, start + i) for i, value in enumerate(values) if value is not None]
    if not known or not all(math.isfinite(value) for value, _ in known) or min(known)[0] == max(known)[0]:
        return []
    return [(min(known)[1], "smallest"), (max(known)[1], "largest")]


def _position(timeline: Timeline, step: int) -> int:
    return timeline.step.index(step) if step in timeline.step else -1
