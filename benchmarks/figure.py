"""What a row finds: a measured ratio beside the goal it is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sense = Literal["at least", "at most"]


@dataclass(frozen=True)
class Figure:
    """One comparison."""

    work: str
    """What gradscope did."""
    size: str
    """On what: sizes, dtype, threads."""
    against: str
    """What it is compared with."""
    value: float | None
    """The measured number, a ratio of medians unless `unit` says otherwise; None where nothing was measured."""
    goal: float | None = None
    """None where there is no goal and the number is information."""
    sense: Sense = "at most"
    unit: str = "x"
    seconds: float | None = None
    """Median of gradscope's side."""
    other_seconds: float | None = None
    """Median of the other side."""
    notes: tuple[str, ...] = ()

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without a goal or a measurement."""
        if self.goal is None or self.value is None:
            return None
        return self.value >= self.goal if self.sense == "at least" else self.value <= self.goal


@dataclass(frozen=True)
class Work:
    """The gradscope side of several comparisons."""

    name: str
    size: str
    seconds: float
    notes: tuple[str, ...] = ()

    def faster_than(self, other: str, seconds: float, goal: float | None, *notes: str) -> Figure:
        """How many times longer the other takes; at least `goal`."""
        return self._figure(other, seconds, seconds / self.seconds, goal, "at least", notes)

    def price(self, other: str, seconds: float, goal: float | None, *notes: str) -> Figure:
        """How many times longer gradscope takes than the other; at most `goal`."""
        return self._figure(other, seconds, self.seconds / seconds, goal, "at most", notes)

    def missing(self, other: str, goal: float | None, sense: Sense, why: str) -> Figure:
        """A comparison that could not be made."""
        return Figure(self.name, self.size, other, None, goal, sense, notes=(why,))

    def _figure(
        self, other: str, seconds: float, value: float, goal: float | None, sense: Sense, notes: tuple[str, ...]
    ) -> Figure:
        said = self.notes + notes
        return Figure(self.name, self.size, other, value, goal, sense, "x", self.seconds, seconds, said)
