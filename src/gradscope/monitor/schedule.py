"""When a training step is measured: every so often, more densely at the start, and when something moves."""

from __future__ import annotations

import math

from gradscope.trajectory import Point, longest_lag

EARLY = (0, 1, 2, 4, 8, 16, 32, 64)
"""Steps at which a signal is taken whatever the interval: a collapse can be over within 40 updates."""
ROUND = (1, 2, 5)
"""Whole analyses are due at these times powers of ten, and at step 0."""
MOVED = 1.0
"""log10: a share that moved by more brings a whole analysis forward."""


def is_signal_due(step: int, every: int) -> bool:
    """Whether a signal is taken at a step."""
    return step % every == 0 or (step in EARLY and step < every)


def is_analysis_due(step: int, last: int | None) -> bool:
    """Whether a log-spaced step has come since the last whole analysis."""
    if last is None:
        return True
    power = 10 ** int(math.log10(max(step, 1)))
    newest = max((part * power for part in ROUND if part * power <= step), default=0)
    return last < newest


def has_moved(signal: Point, before: Point | None) -> bool:
    """Whether a signal differs from the one at the last whole analysis in status, share, or side of the needed lag."""
    if before is None:
        return False
    if longest_lag(signal) != longest_lag(before):
        # Of batches of different length neither says that the other moved.
        return False
    if signal.status != before.status:
        return True
    old, new = before.gradient_share, signal.gradient_share
    if old is None or new is None:
        return (old is None) != (new is None)
    return new != old and not abs(new - old) < MOVED


class Clock:
    """What measuring has cost, beside the time that training took."""

    def __init__(self, budget: float) -> None:
        self.budget, self.begun, self.spent = budget, 0.0, 0.0

    def allows(self, cost: float, now: float) -> bool:
        """Whether something that costs so many seconds keeps measuring within its part of the training's time."""
        training = now - self.begun - self.spent
        return self.spent + cost <= self.budget * training

    def part(self, now: float) -> float | None:
        """Time spent on measuring as a part of the training's own time."""
        training = now - self.begun - self.spent
        return self.spent / training if self.begun and training > 0 else None
