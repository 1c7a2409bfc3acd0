"""What a case is: a measurement beside the exact answer, how far they may differ, and where the answer comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

Values = Tensor | Sequence[float] | float


@dataclass(frozen=True)
class Measurement:
    """Numbers as gradscope finds them and as they are.

    `exact` is a literal, or comes from code that is not gradscope's; `source` says which.
    """

    measured: tuple[float, ...]
    exact: tuple[float, ...]
    tolerance: float
    source: str

    def errors(self) -> tuple[float, ...]:
        """|measured - exact| / max(1, |exact|) of each number.

        Raises:
            ValueError: there are more or fewer numbers than there should be.
        """
        return tuple(_error(*pair) for pair in zip(self.measured, self.exact, strict=True))


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    measure: Callable[[], Measurement]
    full: Callable[[], Measurement] | None = None
    """A longer variant for `--full`."""


def compared(measured: Values, exact: Values, tolerance: float, source: str) -> Measurement:
    """A measurement from tensors, lists or single numbers."""
    return Measurement(_floats(measured), _floats(exact), tolerance, source)


def largest(differences: Sequence[float]) -> float:
    """The largest of several differences; NaN if one of them is."""
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def _floats(values: Values) -> tuple[float, ...]:
    if isinstance(values, Tensor):
        return tuple(values.detach().double().flatten().tolist())
    return (float(values),) if isinstance(values, int | float) else tuple(map(float, values))


def _error(measured: float, exact: float) -> float:
    if measured == exact:
        return 0.0
    error = abs(measured - exact) / max(1.0, abs(exact))
    # NaN compares with nothing: as the largest error there is, it cannot hide behind other numbers.
    return math.inf if math.isnan(error) else error
