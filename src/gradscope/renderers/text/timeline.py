"""Per-step quantities side by side: what belongs to which step, and which steps are worth a row."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradscope.profile import INFLUENCE, Profile
from gradscope.records import ModelResult, Number, Series, Values
from gradscope.renderers.view import View

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
