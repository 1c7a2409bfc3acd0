"""What short trainings of copies of a model showed: plain data, as `records` has it and a part of a `ModelResult`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Lags = Literal["fixed", "spread"]


@dataclass(frozen=True)
class Sighting:
    """How far back the gradient of the training loss reached at one step of a training."""

    step: int
    gradient_share: float | None
    """log10 of the share of the input gradient that falls on the needed lag; None where it cannot be seen."""
    reach: int | None
    rate: float | None


@dataclass(frozen=True)
class Training:
    """One run of a probe."""

    rate: float
    """Learning rate of Adam."""
    seed: int
    clip: float | None
    """Largest norm of the gradient; None: not clipped."""
    learned_at: int | None
    """Training step at which the error was at the goal; None: not within the steps trained."""
    trained: int
    lost_at: int | None
    """Training step at which loss or gradient were not finite any more."""
    clipped: int
    """Training steps whose gradient was clipped."""
    steps: tuple[int, ...]
    """Training steps after which the error was measured."""
    errors: tuple[float | None, ...]
    norms: tuple[float | None, ...]
    """Largest norm of the gradient from each of these steps to the next, before clipping."""
    sights: tuple[Sighting, ...] = ()


@dataclass(frozen=True)
class Twin:
    """A model of known ability, trained on the same task by the same settings."""

    name: str
    learned: int
    """Runs that learned."""
    runs: int
    learned_at: int | None
    """The earliest step."""


@dataclass(frozen=True)
class Probe:
    """Short trainings of copies of a model on a task that needs a given lag."""

    task: str
    summary: str
    """What the task asks, in words."""
    lag: int
    lags: Lags
    train_steps: int
    goal: float
    """Error at and below which the task counts as learned."""
    chance: float
    """Error of the best answer that reads no input."""
    unit: str
    """Of errors: `wrong` (share of wrong answers), `mse`, or `nats` (cross-entropy)."""
    runs: tuple[Training, ...]
    twin: Twin | None = None
    notes: tuple[str, ...] = ()
    complete: bool = True
    """False where it was interrupted: what was not learned by then says nothing."""
    near: float | None = None
    """Of a probe of your own data: the least error of the same model where it is shown the newest `lag` steps alone."""
