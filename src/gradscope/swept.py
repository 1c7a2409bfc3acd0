"""What a sweep found: its axes and its runs, as frozen, plain data; `gradscope.sweep/1`.

A *point* is one combination of the axes' values; points are counted from 0, the last axis moving fastest. A *run* is a
point with one seed. A *cell* is a point over its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gradscope.records import Number, RunSpec, Severity, Status
from gradscope.verdicts import STATUSES, Look

SCHEMA = "gradscope.sweep/1"

State = Literal["waiting", "running", "done", "failed"]
"""Of a run. A failed one has ended without a result: its code raised, or its process died or was stopped."""
AxisKind = Literal["model", "setting", "option", "entry"]
"""What an axis moves: the model's word, a setting of a run, an option of a family, an entry such as `args.hidden`."""


@dataclass(frozen=True)
class Axis:
    """One thing that is varied, and the values it takes, as texts."""

    name: str
    values: tuple[str, ...]
    kind: AxisKind = "setting"

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """The values as numbers; None where one of them is none."""
        try:
            found = tuple(float(value) for value in self.values)
        except ValueError:
            return None
        return found if all(math.isfinite(number) for number in found) else None


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run: a point of the axes with one seed."""

    point: int
    seed: int
    state: State
    status: Status | None = None
    worst: Severity | None = None
    """Of its findings."""
    values: tuple[Number, ...] = ()
    """Aligned with the `fields` of the sweep."""
    reason: str = ""
    """Why a failed run has no result."""
    seconds: Number = None


@dataclass(frozen=True)
class Sweep:
    """A sweep as far as it has got."""

    run: str
    """What is run at each point: `analyze`."""
    spec: RunSpec
    """The settings that all runs share; axes lie over them."""
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    """Seeds of every point; one that says nothing where the seed is an axis."""
    versions: dict[str, str]
    fields: tuple[str, ...]
    """Which numbers of the summaries the runs hold: `reach`, `rate`, `rate_ci.low`, `lyapunov` (the leading one)."""
    runs: tuple[SweepRun, ...]
    """Ordered by point, then seed."""
    threads: int = 1
    schema: str = SCHEMA

    @property
    def points(self) -> int:
        """How many combinations there are."""
        return math.prod(len(axis.values) for axis in self.axes)

    def at(self, point: int) -> tuple[str, ...]:
        """The axes' values at a point."""
        return at(self.axes, point)


def at(axes: tuple[Axis, ...], point: int) -> tuple[str, ...]:
    """The axes' values at a point."""
    found = []
    for axis in reversed(axes):
        point, place = divmod(point, len(axis.values))
        found.append(axis.values[place])
    return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class Cell:
    """A point over its seeds."""

    point: int
    status: str
    """What most of its seeds say (the gravest of equals); `failed`, `waiting` or `running` where none has a result."""
    agreeing: int
    """How many seeds say so."""
    runs: int
    failed: int
    values: tuple[Number, ...] = field(default=())
    """Means over the seeds that have a number, infinite where one is; aligned with the `fields` of the sweep."""


LOOKS: Mapping[str, Look] = {
    "failed": Look("failed", "red", "✗", "✗", "x", "bold #D55E00"),
    **{str(status): look for status, look in STATUSES.items()},
    "running": Look("running", "run", "", "◌", "~", "dim"),
    "waiting": Look("waiting", "...", "", "·", ".", "dim"),
}
"""What a cell may say, the gravest first: a status, or how its runs stand."""
GRAVEST_FIRST = tuple(LOOKS)


def cells(sweep: Sweep) -> Iterator[Cell]:
    """The cells in the order of the points."""
    count = len(sweep.seeds)
    for begin in range(0, len(sweep.runs), count):
        yield _cell(sweep.runs[begin : begin + count])


def _cell(runs: tuple[SweepRun, ...]) -> Cell:
    said: list[str] = [run.status or run.state for run in runs]
    finished = [run for run in runs if run.state == "done"]
    votes: list[str] = [run.status or "inconclusive" for run in finished] or said
    status = min(set(votes), key=lambda word: (-votes.count(word), GRAVEST_FIRST.index(word)))
    columns = zip(*(run.values for run in finished), strict=True)
    return Cell(
        point=runs[0].point,
        status=status,
        agreeing=said.count(status),
        runs=len(runs),
        failed=sum(run.state == "failed" for run in runs),
        values=tuple(_mean(column) for column in columns),
    )


def _mean(numbers: tuple[Number, ...]) -> Number:
    """The mean of what is known, whatever the order: infinite where one is, NaN where one is or +inf meets -inf."""
    known = [number for number in numbers if number is not None]
    if not known:
        return None
    odd = [number for number in known if not math.isfinite(number)]
    return sum(odd) if odd else math.fsum(known) / len(known)


def flat(summary: Mapping[str, Any]) -> dict[str, Number]:
    """The numbers of a summary by name; of lists the first (exponents: the leading one), of intervals both ends."""
    found: dict[str, Number] = {}
    for name, value in summary.items():
        _flatten(name, value, found)
    return found


def _flatten(name: str, value: Any, found: dict[str, Number]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, found)
    elif isinstance(value, list | tuple):
        if name.endswith("_ci") and len(value) == 2:
            _flatten(f"{name}.low", value[0], found)
            _flatten(f"{name}.high", value[1], found)
        elif value:
            _flatten(name, value[0], found)
    elif isinstance(value, int | float) or value in {"nan", "inf", "-inf"}:
        found[name] = float(value)
