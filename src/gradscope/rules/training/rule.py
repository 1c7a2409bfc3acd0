"""What a rule of training is: judged on a trajectory, explained from the same object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradscope.records import RunSpec
from gradscope.rules.rule import Finding, Taught
from gradscope.trajectory import Point, Trajectory, is_cut, leading, longest_lag


@dataclass(frozen=True, kw_only=True)
class TrainingRule(Taught):
    """One rule over the steps of a training run."""

    judge: Callable[[Trajectory, RunSpec], Finding]


def stated_lag(trajectory: Trajectory, spec: RunSpec) -> int | None:
    """How far back the user says the task must reach: now, else when the run was recorded."""
    return spec.needs_lag if spec.needs_lag is not None else trajectory.head.needed_lag


def asked_lag(trajectory: Trajectory, spec: RunSpec, point: Point) -> int:
    """K at a point: the stated lag, else all that lies before the newest output the loss reads."""
    stated = stated_lag(trajectory, spec)
    if stated is not None:
        return stated
    return point.needed_lag if point.needed_lag is not None else max((point.length or 2) - 1, 1)


def with_reach(trajectory: Trajectory, spec: RunSpec) -> list[Point]:
    """The leading points whose reach is known, in sequences that the needed lag fits into."""
    stated = stated_lag(trajectory, spec)
    return [point for point in leading(trajectory) if point.reach is not None and not is_cut(point, stated)]


def without_reach(trajectory: Trajectory, spec: RunSpec) -> str:
    """Why no point is left."""
    longest = max((longest_lag(point) for point in leading(trajectory) if point.reach is not None), default=None)
    if longest is None:
        return "no point has a reach"
    return f"lag {stated_lag(trajectory, spec)} is needed, and no gradient goes back more than {longest} steps anywhere"


def where(point: Point) -> str:
    """`step 400`, or `step 400 (ckpt_400.pt)`."""
    return f"step {point.step}" + (f" ({point.source})" if point.source else "")
