"""A trajectory: what was measured of one model at many steps of its training, and what the rules of training say of it.

Plain data, as the report is. A step of training counts updates of the weights: step 0 is the model as it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from gradscope.records import NonFinite, Number, Shown, Status, Values, Verdict

SCHEMA = "gradscope.flow/1"

Origin = Literal["checkpoints", "training"]
PointKind = Literal["signal", "analysis"]


@dataclass(frozen=True)
class Change:
    """What became of one tensor of weights between a point and the one before it."""

    name: str
    measure: Literal["norm", "mean"]
    """What `before` and `after` are: the norm of the tensor, or the mean of a bias over its units."""
    before: float
    after: float
    moved: Number = None
    """‖new - old‖ / ‖old‖; None for a mean."""


@dataclass(frozen=True)
class Norms:
    """The gradient of one update, log10 of its norm, before and after clipping; the loss scale is divided out."""

    log10_raw: Number = None
    log10_clipped: Number = None
    cosine: Number = None
    """Of the angle between the two, over the watched layers: 1 where clipping only shortens."""
    backwards: int = 1
    """Backward passes that were accumulated into it."""
    loss_scale: Number = None


@dataclass(frozen=True)
class Point:
    """What was measured at one step of training."""

    step: int
    kind: PointKind
    """`analysis`: the whole model by `gradscope analyze`; `signal`: one layer on the training batch, influence only."""
    layer: str = ""
    """Which layer a signal is of; empty for the whole model."""
    source: str = ""
    """The checkpoint, as a file name."""
    length: int | None = None
    """Steps T of the sequences it was measured on."""
    loss: Number = None
    needed_lag: int | None = None
    gradient_share: Number = None
    """log10 of the part of the input gradient that falls on the needed lag."""
    reach: int | None = None
    rate: Number = None
    lyapunov: Number = None
    """Leading Lyapunov exponent, nats per step."""
    gates: dict[str, Number] = field(default_factory=dict)
    """Mean activation of each gate."""
    status: Status | None = None
    findings: tuple[str, ...] = ()
    """Codes of the rules that failed or warned, the one that gives the status first."""
    message: str = ""
    """What that rule said."""
    advice: str = ""
    """What it advises."""
    lags: tuple[int, ...] = ()
    log10_influence: Values = ()
    """log10 I(k) at `lags`; None where it is below what the arithmetic can tell."""
    below_float32: int | None = None
    """The first lag at which the gradient of this step is too small for float32, and so exactly zero in training."""
    reads: int | None = None
    """At how many steps of the sequence the loss read the layer's output."""
    norms: Norms | None = None
    non_finite: NonFinite | None = None
    changes: tuple[Change, ...] = ()
    """The weights that moved most since the point before."""
    seconds: Number = None
    """What measuring took."""


@dataclass(frozen=True)
class Skipped:
    """Something that could not be measured, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Head:
    """What a trajectory is of."""

    origin: Origin
    name: str
    needed_lag: int | None = None
    """As the user stated it; None: the whole of each sequence."""
    order: str = ""
    """How checkpoints were put in order, in words."""
    every: int | None = None
    layers: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    resumed: int | None = None
    """The step from which a run that was taken up again goes on."""


@dataclass(frozen=True, repr=False)
class Trajectory(Shown):
    """Points by step, what was left out, and the verdicts of the rules of training."""

    head: Head
    points: tuple[Point, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    overhead: Number = None
    """Part of the training's time that measuring took, where it was told."""
    verdicts: tuple[Verdict, ...] = ()
    schema: str = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        from dataclasses import asdict

        return asdict(self)


def longest_lag(point: Point) -> int:
    """The largest lag that there was at a point: back to the first step from the newest output that the loss read."""
    return point.lags[-1] if point.lags else max((point.length or 1) - 1, 0)


def is_cut(point: Point, needed_lag: int | None) -> bool:
    """Whether the needed lag lay beyond all lags: what such a point reaches is "at least", and no fall from another."""
    return needed_lag is not None and longest_lag(point) < needed_lag


def leading(trajectory: Trajectory) -> tuple[Point, ...]:
    """The points that tell of reach, share and rate: one kind and one layer, so that they can be compared.

    Signals where there are any, else analyses, of the layer that ends with the least reach. Layers whose sequences are
    all shorter than the needed lag say nothing of it, and lead only where there is no other.
    """
    signals = [point for point in trajectory.points if point.kind == "signal"] or [*trajectory.points]
    whole = [point for point in signals if not is_cut(point, trajectory.head.needed_lag)]
    layers = dict.fromkeys(point.layer for point in whole or signals)
    if len({point.layer for point in signals}) <= 1:
        return tuple(signals)
    last = {
        layer: [p.reach for p in whole or signals if p.layer == layer and p.reach is not None][-1:] for layer in layers
    }
    chosen = min(layers, key=lambda layer: last[layer][0] if last[layer] else 0)
    return tuple(point for point in signals if point.layer == chosen)


def standing(point: Point) -> tuple[Status | None, bool | None]:
    """Where a point stands: its status, and whether its reach is as far as the needed lag."""
    known = point.reach is not None and point.needed_lag is not None
    return point.status, (point.reach or 0) >= (point.needed_lag or 0) if known else None


def changes_of_status(points: tuple[Point, ...]) -> list[tuple[Point, Point]]:
    """Neighbours among the points with a status that differ in it, or lie on two sides of the needed lag."""
    known = [point for point in points if point.status is not None]
    return [(old, new) for old, new in pairwise(known) if standing(old) != standing(new)]
