"""A measured series: one number per step or lag, and its spread over sequences and seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.numerics.gradients.influence import geometric_mean
from gradscope.records import Values

Tracks = dict[str, "Track"]


@dataclass(frozen=True)
class Track:
    """Values, and the smallest and largest of them where there are several sequences."""

    values: Values
    low: Values | None = None
    high: Values | None = None

    def since(self, step: int) -> Track:
        """The same without what stands before a step: None there."""
        parts = (
            part if part is None else (*[None] * step, *part[step:]) for part in (self.values, self.low, self.high)
        )
        values, low, high = parts
        assert values is not None
        return Track(values, low, high) if step else self


def over_sequences(logs: Tensor, has: Tensor | None = None) -> Track:
    """Geometric mean of log10 values (sequences, steps), with the least and the largest.

    Args:
        logs: the values.
        has: which of them there are; all of them if absent. Where there is none at all, zero stands.
    """
    mean = geometric_mean(logs, has)
    if len(logs) == 1:
        return Track(numbers(mean))
    low = logs if has is None else torch.where(has | ~has.any(0), logs, math.inf)
    return Track(numbers(mean), numbers(low.amin(0)), numbers(logs.amax(0)))


def numbers(values: Tensor) -> Values:
    """A tensor as plain floats."""
    return tuple(values.to(torch.float64).tolist())


def power(log10: float) -> float:
    """10^x, zero and infinity included."""
    return 0.0 if log10 == -math.inf else math.inf if log10 > 308 else 10.0**log10
