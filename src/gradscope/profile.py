"""The influence profile seen from its anchor: the one place where steps and lags are turned into each other.

The *anchor* a is the newest step whose output the loss reads, and lag k is the step a - k. Where the loss reads the
last step the anchor is T; everywhere else a lag counted from T is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gradscope.records import ModelResult, Number, Series

INFLUENCE = "log10_influence"
REACH = -2.0
"""log10 of the part of the influence at lag 1 that still counts as reached: 1 %."""


@dataclass(frozen=True)
class Profile:
    """log10 I(k) for k = 0 .. a - 1, and the anchor step a that it is counted from."""

    anchor: int
    """Step a, from 1."""
    values: Sequence[Number] = ()
    """log10 I(k), newest first; empty where it was not measured, -inf for an exact zero."""
    needed_lag: int | None = None
    """K, stated or not; None where nobody knows it."""

    @classmethod
    def of(cls, model: ModelResult) -> Profile:
        """The profile of a measured or saved model; without one, lags count from the last step."""
        found = cls.of_series(model.series, model.length)
        return cls(found.anchor, found.values, model.summary.needed_lag)

    @classmethod
    def of_series(cls, series: Series, length: int | None = None) -> Profile:
        """The same of a series alone.

        Args:
            series: its profile holds one value for every step from 1 to the anchor.
            length: T, where the steps do not tell it.
        """
        last = series.step[-1] if series.step else length
        values = series.values.get(INFLUENCE, ())
        if last is None:
            last = len(values)
        return cls(min(len(values), last) if values else last, values[:last])

    @property
    def longest(self) -> int:
        """The longest lag that there is: of what was measured, else that of step 1."""
        return max((len(self.values) or self.anchor) - 1, 0)

    def step_of(self, lag: int) -> int:
        """The step that lies `lag` steps before the anchor; 0, the first state, for all that would lie before it."""
        return max(self.anchor - lag, 0)

    def lag_of(self, step: int) -> int | None:
        """How many steps `step` lies before the anchor; None for a step after it, of which the loss hears nothing."""
        return self.anchor - step if step <= self.anchor else None

    def at(self, step: int) -> Number:
        """log10 of the influence of the input at `step`; None where it was not measured."""
        lag = self.lag_of(step)
        return self.values[lag] if lag is not None and lag < len(self.values) else None

    def share(self, lag: int) -> Number:
        """log10 of I(lag) / sum of I(k) over k = 0 .. lag: what lies further back than `lag` is no competitor.

        -inf where the influence at `lag` is exactly zero; None where it was not measured or there is no such lag, where
        nothing up to it has any influence, or where that overflows.
        """
        newest = self.values[: lag + 1]
        if not 0 <= lag < len(self.values) or any(value is None for value in newest):
            return None
        known = [value for value in newest if value is not None]
        top = max(known)
        if not all(value < math.inf for value in known) or top == -math.inf:
            return None
        total = math.fsum(10.0 ** (value - top) for value in known)
        return known[-1] - top - math.log10(total)

    @cached_property
    def reach(self) -> int | None:
        """The largest lag with at least 1 % of the influence at lag 1; None where that is zero or not known."""
        first = self.values[1] if len(self.values) > 1 else None
        if first is None or not first > -math.inf:
            return None
        return max(lag for lag, value in enumerate(self.values) if lag and value is not None and value >= first + REACH)

    @property
    def reference(self) -> float:
        """log10 of the influence at lag 1, or of the largest known one where that is zero or unknown."""
        first = self.values[1] if len(self.values) > 1 else None
        if first is not None and math.isfinite(first):
            return first
        return max((value for value in self.values if value is not None and math.isfinite(value)), default=0.0)
